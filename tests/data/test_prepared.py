from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import CleaningConfig, ControlledDataConfig, LocalDataConfig
from harness.data.prepared import PreparedData
from harness.data.sources import prepare
from harness.data.splits import normalise, split_of
from harness.errors import UserError
from harness.tasks.dialogue import Dialogue
from harness.tasks.translate import Translate
from harness.types import SPLITS, TRAIN_SPLITS, Example

SHARES: dict[Any, float] = {"sft": 0.5, "preference": 0.2, "judge": 0.1, "rl": 0.2}
COLUMNS = {"source": "en", "response": "de"}
LONG = "this very long sentence about number {} goes on and on for more than eight words"


def rows(start: int, count: int) -> list[dict[str, str]]:
    return [{"en": f"sentence {i}", "de": f"Satz {i}"} for i in range(start, start + count)]


def folder(path: Path, **files: list[dict[str, Any]]) -> str:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def local(path: str, *, into: Path | None = None, **options: Any) -> PreparedData:
    given = {"columns": COLUMNS, "shares": SHARES, **options}
    return prepare(Translate(), LocalDataConfig(source="local", path=path, **given), folder=into)


def test_splits_follow_the_hash_of_the_prompt(tmp_path: Path) -> None:
    data = local(folder(tmp_path, train=rows(0, 200), validation=rows(200, 20), test=rows(220, 30)))
    for split in TRAIN_SPLITS:
        expected = [f"sentence {i}" for i in range(200) if split_of(f"sentence {i}", SHARES) == split]
        assert [row.fields["source"] for row in data.splits[split]] == expected
    assert sum(data.report["counts"].values()) == 250
    assert [row.id for row in data.splits["test"]] == [f"test:{i}" for i in range(1, 31)]
    everything = [normalise(row.fields["source"]) for split in SPLITS for row in data.splits[split]]
    assert len(set(everything)) == 250


def test_overlap_is_removed_from_train_and_reported(tmp_path: Path) -> None:
    held = [{"en": LONG.format(0), "de": "x"}, {"en": "Hello, you!", "de": "x"}]
    dirty = [
        {"en": "Well: " + LONG.format(0), "de": "y"},
        {"en": "hello you", "de": "y"},
        {"en": "a b c d e f g h i j " + LONG.format(0), "de": "kept"},
    ]
    data = local(folder(tmp_path, train=rows(0, 100) + dirty, validation=rows(100, 5), test=held))
    # The third shares 9 of its 19 word 8-grams.
    assert data.report["overlap"] == {"exact": 1, "ngram8": 1, "ngram8_any": 1, "removed": 2}
    left = [row.response for split in TRAIN_SPLITS for row in data.splits[split]]
    assert "y" not in left
    assert "kept" in left


def test_repeated_rows_are_dropped_from_train_and_counted_elsewhere(tmp_path: Path) -> None:
    same_prompt = [{"en": "Sentence 3!", "de": "Anders"}]
    train = rows(0, 100) + rows(3, 1) + same_prompt
    data = local(folder(tmp_path, train=train, validation=rows(100, 5), test=rows(105, 5) + rows(105, 1)))
    assert data.report["duplicates"] == {"train": 1, "validation": 0, "test": 1}
    assert data.report["counts"]["test"] == 6
    assert sum(data.report["counts"][split] for split in TRAIN_SPLITS) == 101


def test_validation_and_test_can_come_from_train(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 300))
    with pytest.raises(UserError, match=r"data\.files\.validation is needed.*data\.shares\.validation=0\.1"):
        local(path)
    data = local(path + "/train.jsonl", shares={**SHARES, "validation": 0.1, "test": 0.1})
    assert sum(data.report["counts"].values()) == 300
    assert all(data.report["counts"].values())


def test_a_share_for_a_split_with_a_file_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 30), validation=rows(30, 5), test=rows(40, 5))
    with pytest.raises(UserError, match=r"data\.shares\.test=0\.1 asks for test rows from the train file"):
        local(path, shares={**SHARES, "test": 0.1})


def test_validation_from_train_gives_way_to_test(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 300), test=rows(0, 300)[::2])
    data = local(path, shares={**SHARES, "validation": 0.2})
    test = {row.fields["source"] for row in data.splits["test"]}
    assert not test & {row.fields["source"] for row in data.splits["validation"]}
    assert data.report["overlap"]["exact"] == 150


def test_limits_are_nested_and_keep_the_order(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 400), validation=rows(400, 50), test=rows(450, 50))
    full, ten, five = (local(path, limits=limits) for limits in ({}, {"sft": 10, "test": 10}, {"sft": 5}))
    order = [row.id for row in full.splits["sft"]]
    chosen = [row.id for row in ten.splits["sft"]]
    assert chosen == [name for name in order if name in chosen]
    assert {row.id for row in five.splits["sft"]} < set(chosen)
    assert ten.report["limited"] == {"sft": len(order) - 10, "test": 40}
    assert chosen != order[:10]
    with pytest.raises(UserError, match=r"data\.limits\.train=5 is not a split"):
        local(path, limits={"train": 5})


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 3), validation=rows(3, 2), test=rows(5, 2))
    with pytest.raises(UserError, match=r"data\.shares\.\w+=0\.\d gives no \w+ rows"):
        local(path)
    assert local(path, shares={"sft": 1}).report["counts"]["sft"] == 3


def test_pairs_of_a_file_of_their_own(tmp_path: Path) -> None:
    train = [{"c": [f"turn {i}"], "r": ["fine"]} for i in range(200)]
    test = [{"c": [f"turn {i}"], "r": ["fine"]} for i in range(200, 220)]
    pairs = [{"c": [f"asked {i}"], "good": f"g{j}", "bad": f"b{j}"} for i in range(100) for j in range(2)]
    leaked = [{"c": ["Turn 205!"], "good": "leak", "bad": "b"}]
    path = folder(tmp_path, train=train, test=test, own=pairs + leaked)
    config = LocalDataConfig(
        source="local",
        path=path,
        columns={"turns": "c", "references": "r"},
        pairs_path=f"{path}/own.jsonl",
        pairs_columns={"turns": "c", "chosen": "good", "rejected": "bad"},
        shares={**SHARES, "validation": 0.1},
    )
    data = prepare(Dialogue(), config)
    counts = data.report["pair_counts"]
    assert sum(counts.values()) == 200
    assert all(counts[split] for split in ("preference", "judge", "validation"))
    assert data.report["pairs_overlap"]["exact"] == 1
    owners: dict[str, set[str]] = {}
    for split in SPLITS:
        for pair in data.pairs[split]:
            owners.setdefault(pair.fields["turns"][0], set()).add(split)
    assert all(len(splits) == 1 for splits in owners.values())


@pytest.mark.parametrize("validation", ["file", "share"])
def test_held_out_pairs_give_way_to_test_wherever_validation_comes_from(tmp_path: Path, validation: str) -> None:
    test = rows(300, 300)
    pairs = [{**row, "bad": "falsch"} for row in test + rows(600, 200)]
    given = {"validation": rows(800, 20)} if validation == "file" else {}
    path = folder(tmp_path, train=rows(0, 300), test=test, own=pairs, **given)
    data = local(
        path,
        shares={**SHARES, "validation": 0.0 if given else 0.1},
        pairs_path=f"{path}/own.jsonl",
        pairs_columns={"source": "en", "chosen": "de", "rejected": "bad"},
    )
    assert data.report["pairs_overlap"] == {"exact": 300, "ngram8": 0, "ngram8_any": 0, "removed": 300}
    asked = {row["en"] for row in test}
    assert data.pairs["validation"]
    assert not [pair.id for split in SPLITS for pair in data.pairs[split] if pair.fields["source"] in asked]
    # Validation rows of a file of their own stay as they are given.
    assert not given or len(data.splits["validation"]) == 20


def test_pairs_among_the_rows_go_where_their_row_goes(tmp_path: Path) -> None:
    def paired(start: int, count: int) -> list[dict[str, str]]:
        return [{**row, "bad": "falsch"} for row in rows(start, count)]

    path = folder(tmp_path, train=paired(0, 200), validation=paired(200, 10), test=paired(210, 10))
    data = local(path, columns={"source": "en", "chosen": "de", "rejected": "bad"})
    for split in SPLITS:
        assert [pair.id for pair in data.pairs[split]] == [row.id for row in data.splits[split]]


def test_bad_rows_are_in_the_report(tmp_path: Path) -> None:
    path = folder(tmp_path, train=[*rows(0, 100), {"en": "x"}], validation=rows(100, 5), test=rows(105, 5))
    data = local(path, max_bad_rows=1)
    assert data.report["bad_rows"] == {"count": 1, "shown": ["train.jsonl:101 has no column 'de'"]}


def test_ways_to_deduplicate(tmp_path: Path) -> None:
    again = [{"en": "Sentence 3!", "de": "Satz 3"}, {"en": "sentence 3", "de": "Anders"}]
    path = folder(tmp_path, train=rows(0, 100) + again, validation=rows(100, 5), test=rows(105, 5))
    for way, dropped in (("rows", 1), ("prompts", 2), ("none", 0)):
        data = local(path, cleaning=CleaningConfig(deduplicate=way))
        assert data.report["duplicates"]["train"] == dropped
        assert sum(data.report["counts"][split] for split in TRAIN_SPLITS) == 102 - dropped


def test_repeated_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    paired = [{**row, "bad": "falsch"} for row in rows(0, 150)]
    other = [{"en": "sentence 3", "de": "Satz 3", "bad": "auch falsch"}]
    path = folder(tmp_path, train=paired + paired[:7] + other, validation=rows(0, 0) + paired[:1], test=paired[1:2])
    data = local(path, columns={"source": "en", "chosen": "de", "rejected": "bad"})
    assert data.report["pair_duplicates"] == {"train": 7, "validation": 0, "test": 0}
    assert sum(data.report["pair_counts"][split] for split in TRAIN_SPLITS) == 151 - 2


def test_cleaning_is_in_the_report(tmp_path: Path) -> None:
    dirty = [{"en": "", "de": "x"}, {"en": "a\u200bb", "de": "x"}, {"en": "c" * 90, "de": "x"}]
    path = folder(tmp_path, train=rows(0, 100) + dirty, validation=rows(100, 5), test=[*rows(105, 5), dirty[0]])
    report = local(path, cleaning=CleaningConfig(max_prompt_chars=80)).report
    assert report["rows"] == {"train": 103, "validation": 5, "test": 6}
    assert report["cleaning"] == {
        "normalised": {"train": 1, "validation": 0, "test": 0},
        "empty": {"train": 1, "validation": 0, "test": 1},
        "too_long": {"train": 1, "validation": 0, "test": 0},
        "shown": [
            "train.jsonl:101 has an empty source",
            "train.jsonl:103 has a prompt of 90 characters, more than data.cleaning.max_prompt_chars=80",
            "test.jsonl:6 has an empty source",
        ],
    }


def test_only_the_first_rows(tmp_path: Path) -> None:
    path = folder(tmp_path, train=rows(0, 100), validation=rows(100, 5), test=rows(105, 5))
    data = local(path, max_rows={"train": 40, "test": 2})
    assert data.report["rows"] == {"train": 40, "validation": 5, "test": 2}
    with pytest.raises(
        UserError, match=r"data\.max_rows\.rl=5 names no rows that are there \(train, validation, test\)"
    ):
        local(path, max_rows={"rl": 5})


def test_rows_stay_where_they_were_written(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", train=rows(0, 100), validation=rows(100, 5), test=rows(105, 5))
    there = local(path, into=tmp_path / "out", limits={"sft": 10})
    there.write(tmp_path / "out")
    in_memory = local(path, limits={"sft": 10})
    in_memory.write(tmp_path / "again")
    assert there == PreparedData.read(tmp_path / "out") == in_memory
    for file in (tmp_path / "again").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        file.name for file in (tmp_path / "again").iterdir()
    )


def test_write_and_read_return_the_same(tmp_path: Path) -> None:
    data = local(folder(tmp_path, train=rows(0, 100), validation=rows(100, 5), test=rows(105, 5)))
    data.write(tmp_path / "out")
    again = PreparedData.read(tmp_path / "out")
    assert again == data
    assert again.content_hash() == data.report["content_hash"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == sorted(
        name for split in SPLITS for name in (f"{split}.jsonl", f"pairs-{split}.jsonl")
    )


def test_the_hash_is_that_of_the_rows() -> None:
    def one(**changes: Any) -> PreparedData:
        row = {"id": "a", "fields": {"source": "s"}, "response": "r", "references": ["r"], **changes}
        return PreparedData({split: [Example(**row)] if split == "sft" else [] for split in SPLITS})

    assert one().content_hash() == one().content_hash()
    changed = [one(id="b"), one(fields={"source": "t"}), one(response="q"), one(references=["r", "r"]), one(facts={})]
    assert len({data.content_hash() for data in [one(), *changed]}) == 6


def test_files_may_take_the_place_of_a_world(tmp_path: Path) -> None:
    """``data=controlled data.source=local``: keys that such a configuration lacks have their defaults."""
    path = folder(tmp_path, train=rows(0, 100), validation=rows(100, 5), test=rows(105, 5))
    given: dict[str, Any] = {"path": path, "columns": COLUMNS, "shares": SHARES, "limits": {"sft": 10}}
    found = prepare(Translate(), ControlledDataConfig(source="local", mixture={"good": 1.0}, **given))
    assert found == local(path, limits={"sft": 10})


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is missing"):
        prepare(Translate(), LocalDataConfig(source="local", columns=COLUMNS, shares=SHARES))
    with pytest.raises(UserError, match=r"data\.source=web is not a source"):
        prepare(Translate(), LocalDataConfig(source="web"))
