from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.data.columns import Columns
from harness.data.examples import Reader
from harness.data.files import find_files
from harness.data.rows import read_rows
from harness.errors import UserError

ROWS: list[dict[str, Any]] = [{"en": "A dog.", "de": ["Ein Hund.", "Hund"]}, {"en": "Über\nzwei", "de": ["x", "y"]}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file in the format that its name says, written by other means than those that read it."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    ending = path.name.partition(".")[2]
    if ending in ("jsonl", "lines.json"):
        path.write_text(lines, encoding="utf-8")
    elif ending == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    elif ending == "json.gz":
        path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    elif ending == "csv":
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows
            )
    else:
        write_table(path, rows, ending)
    return path


def write_table(path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    table = pa.Table.from_pylist(rows)
    if ending == "parquet":
        parquet.write_table(table, path)
    elif ending == "file.arrow":
        feather.write_feather(table, str(path), compression="uncompressed")
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize(
    "ending", ["jsonl", "jsonl.gz", "json", "json.gz", "lines.json", "csv", "parquet", "arrow", "file.arrow"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"data.{ending}", ROWS)
    rows = list(read_rows(path))
    assert [row.values for row in rows] == ROWS
    assert all(row.place.startswith(path.name) and not row.problem for row in rows)


def test_bad_lines_are_reported_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n[1]\n\xff\xfe\n{"a": 2}\n')
    rows = list(read_rows(path))
    assert [row.place for row in rows] == [f"train.jsonl:{line}" for line in (1, 3, 4, 5, 6)]
    assert [row.values for row in rows] == [{"a": 1}, None, None, None, {"a": 2}]
    assert rows[1].problem.startswith("is not JSON")
    assert rows[2].problem == "is not a JSON object"


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('a,b\n1,"two\nlines"\n3\n[4],5\n')
    rows = list(read_rows(path))
    assert [row.values for row in rows] == [{"a": "1", "b": "two\nlines"}, None, {"a": "[4]", "b": "5"}]
    assert (rows[1].place, rows[1].problem) == ("train.csv:4", "has 1 cells where the header has 2")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("[]", []),
        ('["x", null]', ["x", None]),
        ('["x", 1]', '["x", 1]'),
        ("[sic]", "[sic]"),
        ("[" * 100_000 + "]", "[" * 100_000 + "]"),
    ],
)
def test_lists_in_csv_cells(tmp_path: Path, cell: str, expected: Any) -> None:
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b"], ["1", cell]])
    assert [row.values for row in read_rows(path)] == [{"a": "1", "b": expected}]


@pytest.mark.parametrize("references", [[], ["x", None]])
def test_a_list_that_lacks_a_text_is_dropped_and_counted_in_any_format(tmp_path: Path, references: list[Any]) -> None:
    rows = [{"source": "a", "refs": ["b"]}, {"source": "c", "refs": references}]
    for ending in ("jsonl", "csv"):
        path = tmp_path / f"train.{ending}"
        with path.open("w", newline="") as stream:
            if ending == "csv":
                cells = [[row["source"], json.dumps(row["refs"])] for row in rows]
                csv.writer(stream).writerows([["source", "refs"], *cells])
            else:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
        columns = Columns({"source": "source", "references": "refs"}, ("source",))
        found = Reader(read_rows(path), columns, label="train", name="f", max_bad_rows=0)
        assert [made.examples[0].references for made in found] == [["b"]]
        assert (found.tally.empty, found.tally.bad) == (1, 0)


def test_a_header_that_repeats_a_column(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("source,response,response\na,b,c\n")
    with pytest.raises(UserError, match=r"train\.csv has two columns 'response'; give each a name of its own"):
        list(read_rows(path))
    path.write_text("source,response,,\na,b,,\n")  # columns that a spreadsheet left behind
    assert [row.values for row in read_rows(path)] == [{"source": "a", "response": "b", "": ""}]


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('source,response\na,b\nc,"d\ne,f\ng,h\n')
    found = read_rows(path)
    assert next(found).values == {"source": "a", "response": "b"}
    with pytest.raises(
        UserError, match=r"train\.csv has a row, of line 3, with a quote that is never closed; close it"
    ):
        next(found)


def test_a_quote_that_closes_in_another_row_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('a,b\n1,"two\n3,4\n5,"six"\n7,"eight ""8"""\n')
    rows = list(read_rows(path))
    assert [row.values for row in rows] == [None, {"a": "7", "b": 'eight "8"'}]
    assert (rows[0].place, rows[0].problem) == ("train.csv:2", "is not CSV (',' expected after '\"', up to line 4)")


@pytest.mark.parametrize("ending", ["jsonl.gz", "json", "parquet", "arrow", "csv"])
def test_a_broken_file_is_one_message(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"train.{ending}"
    path.write_bytes(b"[\xff\xff broken")
    with pytest.raises(UserError, match=f"train.{ending}"):
        list(read_rows(path))


def test_folder_with_split_files(tmp_path: Path) -> None:
    for name in ("train.jsonl.gz", "dev.jsonl.gz", "test.jsonl.gz", "test_2017.jsonl.gz", "SOURCE.md"):
        (tmp_path / name).touch()
    assert find_files(str(tmp_path)) == {
        "train": [tmp_path / "train.jsonl.gz"],
        "validation": [tmp_path / "dev.jsonl.gz"],
        "test": [tmp_path / "test.jsonl.gz"],
    }


def test_folder_with_shards(tmp_path: Path) -> None:
    names = [f"train-0000{i}-of-00002.parquet" for i in (0, 1)]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert find_files(str(tmp_path)) == {"train": [tmp_path / name for name in names]}


def test_folders_that_datasets_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.DatasetDict({split: datasets.Dataset.from_list(ROWS) for split in ("train", "validation", "test")})
    whole.save_to_disk(str(tmp_path / "dict"))
    whole["train"].save_to_disk(str(tmp_path / "one"))
    for paths in (find_files(str(tmp_path / "dict"))["test"], find_files(str(tmp_path / "one"))["train"]):
        assert [row.values for path in paths for row in read_rows(path)] == ROWS


def test_globs(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "sub/c.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(str(tmp_path / "*.jsonl*"))
    assert found == {"train": [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]}
    assert find_files(str(tmp_path / "**" / "*.jsonl"))["train"] == [tmp_path / "a.jsonl", tmp_path / "sub/c.jsonl"]
    named = find_files(str(tmp_path), {"train": "[ab].*", "test": "sub/*"})
    assert named == {"train": [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"], "test": [tmp_path / "sub/c.jsonl"]}


def test_a_glob_over_files_named_after_splits(tmp_path: Path) -> None:
    names = ["test.csv", "train-part1.csv", "train_2.csv", "val.csv"]
    for name in names:
        (tmp_path / name).touch()
    test, first, second, validation = (tmp_path / name for name in names)
    assert find_files(f"{tmp_path}/*.csv") == {"train": [first, second], "validation": [validation], "test": [test]}
    with pytest.raises(UserError, match="matches no train file"):
        find_files(f"{tmp_path}/[tv][ea][sl]*.csv")


def test_a_name_with_a_wildcard_in_it_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "train[1].jsonl").touch()
    assert find_files(str(tmp_path / "train[1].jsonl")) == {"train": [tmp_path / "train[1].jsonl"]}


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_a_json_list_is_read_in_blocks(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [
        {"n": i, "text": 'a "quoted, [text]"\n' * (i % 4), "nested": [{"x": [1.5, None, True]}]} for i in range(40)
    ]
    path = tmp_path / "all.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8-sig")
    monkeypatch.setattr("harness.data.rows._BLOCK", block)
    assert [row.values for row in read_rows(path)] == values


def test_places_in_a_json_list_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text('\n[\n {"a": 1},\n\n 5, {\n"a": 2}\n, {"a": 3}]\n')
    assert [(row.place, row.values) for row in read_rows(path)] == [
        ("all.json:3", {"a": 1}),
        ("all.json:5", None),
        ("all.json:5", {"a": 2}),
        ("all.json:7", {"a": 3}),
    ]
    path.write_text(" [ ] ")
    assert list(read_rows(path)) == []


def test_one_file_is_train(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", ROWS)
    assert find_files(str(path)) == {"train": [path]}


def test_explicit_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, ROWS)
    found = find_files(str(tmp_path), {"train": "a.jsonl", "test": str(tmp_path / "b.jsonl")})
    assert found == {"train": [tmp_path / "a.jsonl"], "test": [tmp_path / "b.jsonl"]}


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    cases: list[tuple[str, dict[str, str], str]] = [
        ("missing", {}, r"data\.path=.*missing does not exist"),
        ("", {"train": "other.jsonl"}, r"data\.files\.train=other\.jsonl does not exist"),
        ("", {"sft": "train.jsonl"}, r"data\.files\.sft is not a split that a file can hold"),
        ("", {"train": "notes.txt"}, "has a format that is not read"),
    ]
    (tmp_path / "notes.txt").touch()
    for name, files, message in cases:
        with pytest.raises(UserError, match=message):
            find_files(str(tmp_path / name), files)
    (tmp_path / "train.csv").touch()
    with pytest.raises(UserError, match=r"several candidates for train: train\.csv, train\.jsonl"):
        find_files(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no train file.*it holds nothing"):
        find_files(str(tmp_path / "empty"))
