from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from harness.config import ControlledDataConfig
from harness.data.controlled import generate
from harness.data.prepared import PreparedData
from harness.data.sources import prepare
from harness.data.splits import normalise
from harness.errors import UserError
from harness.tasks.dialogue import Dialogue
from harness.tasks.qa import QA
from harness.tasks.summarize import Summarize
from harness.tasks.translate import Translate
from harness.types import SPLITS, Task, World

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes import the world by name
from toy_world import Counting

SIZES: dict[Any, int] = {"sft": 300, "preference": 80, "judge": 60, "rl": 80, "validation": 60, "test": 40}


def controlled(sizes: dict[Any, int], **options: Any) -> ControlledDataConfig:
    return ControlledDataConfig(source="controlled", sizes=sizes, **options)


def test_every_split_is_full_and_disjoint() -> None:
    splits = generate(Counting(), Summarize(), seed=0, sizes=SIZES, references=2)
    assert {split: len(rows) for split, rows in splits.items()} == SIZES
    prompts = [normalise(row.fields["source"]) for split in SPLITS for row in splits[split]]
    assert len(set(prompts)) == len(prompts)
    ids = [row.id for rows in splits.values() for row in rows]
    assert len(set(ids)) == len(ids)


def test_examples_belong_together() -> None:
    splits = generate(Counting(), Summarize(), seed=0, sizes=SIZES, references=3)
    styles = []
    for row in splits["sft"]:
        assert row.facts is not None
        numbers = [str(n) for n in row.facts["numbers"]]
        assert [reference.replace(",", "").split() for reference in row.references] == [numbers] * 3
        assert row.response.split() == (numbers if row.facts["_style"] == "good" else numbers[:1])
        styles.append(row.facts["_style"])
    assert 0.15 < styles.count("good") / len(styles) < 0.35  # mixture: 0.25


def test_workers_change_nothing() -> None:
    alone = generate(Counting(), Summarize(), seed=3, sizes=SIZES, references=2)
    assert generate(Counting(), Summarize(), seed=3, sizes=SIZES, references=2, workers=2) == alone


def test_seed_changes_everything() -> None:
    first = generate(Counting(), Summarize(), seed=0, sizes=SIZES, references=1)
    assert first == generate(Counting(), Summarize(), seed=0, sizes=SIZES, references=1)
    second = generate(Counting(), Summarize(), seed=1, sizes=SIZES, references=1)
    assert [row.fields for row in first["test"]] != [row.fields for row in second["test"]]


def test_train_sizes_and_mixture_leave_the_test_set_alone() -> None:
    class Honest(Counting):
        mixture = {"good": 1.0}  # noqa: RUF012

    first = generate(Counting(), Summarize(), seed=0, sizes=SIZES, references=2)
    second = generate(Honest(), Summarize(), seed=0, sizes={**SIZES, "sft": 50, "rl": 400}, references=2)
    assert [(row.id, row.fields, row.references) for row in first["test"]] == [
        (row.id, row.fields, row.references) for row in second["test"]
    ]


def test_a_world_without_enough_prompts_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.sizes\.sft=300 is more"):
        generate(Counting(top=3), Summarize(), seed=0, sizes={"sft": 300}, references=1)


def test_prepared_report() -> None:
    data = prepare(Summarize(), controlled(SIZES, references=2), world=Counting())
    assert data.report["counts"] == SIZES
    assert data.report["overlap"]["exact"] == 0
    assert sum(data.report["styles"].values()) == pytest.approx(1)
    assert data.report["content_hash"] == data.content_hash()
    for rows in data.splits.values():
        assert all(json.loads(json.dumps(row.facts)) == row.facts for row in rows)


def test_a_missing_world_is_an_error() -> None:
    with pytest.raises(UserError, match=r"task\.world is missing"):
        prepare(Summarize(), controlled(SIZES))


def test_more_references_than_the_world_has_are_refused() -> None:
    message = r"data\.references=101 is more than the world 'counting' has for every prompt, which is 100; lower it"
    with pytest.raises(UserError, match=message):
        prepare(Summarize(), controlled(SIZES, references=101), world=Counting())


@pytest.mark.parametrize("sizes", [{"sft": -1}, {"train": 5}])
def test_wrong_sizes_are_refused(sizes: dict[Any, int]) -> None:
    with pytest.raises(UserError, match=r"data\.sizes\.(sft=-1|train=5) is"):
        prepare(Summarize(), controlled(sizes), world=Counting())


@pytest.mark.parametrize(
    ("task", "world"),
    [
        (Summarize(), "reports.Reports"),
        (Translate(), "grammar.Grammar"),
        (QA(), "facts.Facts"),
        (Dialogue(), "service.Service"),
    ],
)
def test_shipped_worlds_survive_writing(task: Task, world: str, tmp_path: Path) -> None:
    module, name = world.split(".")
    made: World = getattr(import_module(f"harness.tasks.worlds.{module}"), name)()
    sizes: dict[Any, int] = {"sft": 30, "validation": 5, "test": 5}
    data = prepare(task, controlled(sizes, references=2), world=made)
    data.write(tmp_path)
    assert PreparedData.read(tmp_path) == data
    assert all(set(row.fields) == set(task.required_fields) for row in data.splits["sft"])
