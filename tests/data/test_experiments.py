"""The overlays for real data sets: on rows of the same shape here, on the sets themselves under the marker realdata."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.data.prepared import PreparedData
from harness.data.sources import prepare
from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS

FOLDERS = {"multi30k": "multi30k_en_de", "dialogsum": "dialogsum", "qed": "qed_nq", "dailydialog": "dailydialog_pp"}


def prepared(name: str, path: Path) -> PreparedData:
    """The data of an experiment, all settings from its overlay."""
    from hydra import compose, initialize_config_module
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    from harness.config import register_schemas

    register_schemas()
    with initialize_config_module("harness.conf", version_base=None):
        config = compose("config", overrides=[f"experiment={name}", f"data.path={path}"])
    task = config.task
    data: Any = OmegaConf.to_object(config.data)
    made = get_class(task._target_)(
        template=task.template, metrics=task.metrics, main_metric=task.main_metric, **task.options
    )
    assert config.feedback.kind == ("pairs" if data.pairs_path else "metric")
    return prepare(made, data)


def write(folder: Path, **files: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for name, rows in files.items():
        (folder / f"{name}.jsonl.gz").write_bytes(
            gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
        )


def multi30k(i: int, split: str) -> dict[str, Any]:
    return {"id": f"{split}-{i}", "en": f"{split} dog {i}.", "de": f"Hund {i}.", "en_tok": "x", "de_tok": "y"}


def dialogsum(i: int, split: str) -> dict[str, Any]:
    row = {"fname": f"{split}_{i}", "dialogue": f"#Person1#: {split} {i}?\n#Person2#: Yes."}
    if split == "test":
        return row | {"summary1": "a", "summary2": "b", "summary3": "c", "summaries": ["a", "b", "c"], "topic1": "t"}
    return row | {"summary": f"They say {i}.", "topic": "t"}


def qed(i: int, split: str) -> dict[str, Any]:
    return {
        "example_id": -(10**18) - i,
        "title_text": "T",
        "question_text": f"who is {split} {i}",
        "paragraph_text": f"{split} Number {i} is Ann .",
        "answers": ["Ann", "Ann B"],
        "answer_spans": [[0, 3]],
    }


def dailydialog(i: int, split: str) -> dict[str, Any]:
    return {
        "dialog_id": i,
        "context": [f"Hello {split}.", f"Say {i}."],
        "positive_responses": [f"{k}!" for k in range(5)],
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_overlay_on_rows_of_the_same_shape(name: str, tmp_path: Path) -> None:
    make = {"multi30k": multi30k, "dialogsum": dialogsum, "qed": qed, "dailydialog": dailydialog}[name]
    folder = tmp_path / FOLDERS[name]
    write(folder, **{split: [make(i, split) for i in range(150)] for split in ("train", "validation", "test")})
    pair = {"chosen": "yes", "rejected": "no", "rejected_kind": "adversarial"}
    pairs = [{"id": f"dev-{i}", "context": [f"Asked {i}."], **pair} for i in range(100)]
    write(tmp_path / "dailydialog_pp_pairs", train=pairs)
    data = prepared(name, folder)
    assert all(data.splits[split] for split in SPLITS)
    assert len(data.splits["test"]) == 150
    assert sum(len(data.splits[split]) for split in TRAIN_SPLITS) == (
        150 if name != "dailydialog" else 150 - len(data.splits["validation"])
    )
    assert len(data.splits["test"][0].references) == {"multi30k": 1, "dialogsum": 3, "qed": 2, "dailydialog": 5}[name]
    assert sum(map(len, data.pairs.values())) == (100 if name == "dailydialog" else 0)
    with pytest.raises(UserError, match=r"data\.path=.*elsewhere does not exist"):
        prepared(name, tmp_path / "elsewhere")


COUNTS = {  # rows of the files: train, validation, test; pairs
    "multi30k": (29000, 1014, 1000, 0),
    "dialogsum": (12399, 500, 500, 0),
    "qed": (6152, 539, 556, 0),
    "dailydialog": (7637, None, 1142, 5140),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", COUNTS)
def test_overlay_on_the_real_set(name: str) -> None:
    data = prepared(name, Path(os.environ["HARNESS_REAL_DATA"]) / FOLDERS[name])
    train, validation, test, pairs = COUNTS[name]
    report = data.report
    assert report["bad_rows"]["count"] == 0
    assert report["counts"]["test"] == test
    assert validation in (None, report["counts"]["validation"])
    carved = report["counts"]["validation"] if validation is None else 0
    dropped = report["duplicates"]["train"] + report["overlap"]["removed"]
    assert sum(report["counts"][split] for split in TRAIN_SPLITS) + carved + dropped == train
    assert sum(report["pair_counts"].values()) + report["pairs_overlap"]["removed"] == pairs
    assert dropped < 0.02 * train
