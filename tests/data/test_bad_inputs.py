"""What people give by mistake as data: each is one message that says what to do, exit status 2, before any training."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import cli

MAPPED = ["data.columns.source=en", "data.columns.response=de"]
METRIC = ["feedback=metric", "judge.responses=samples"]
SHARED = ["data.shares.validation=0.1", "data.shares.test=0.1"]


def rows(count: int = 120, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": i, "en": f"sentence {i}", "de": f"Satz {i}"} for i in range(start, start + count)]


def lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode("utf-8", "surrogatepass")


GOOD = lines(rows())


class Case(NamedTuple):
    """Files by name, what is typed besides, and the message, in which DIR stands for the folder."""

    files: dict[str, bytes]
    typed: list[str]
    message: str


def one(content: bytes, message: str, *typed: str, name: str = "train.jsonl") -> Case:
    """A case with one file of train rows."""
    return Case({name: content}, [f"data.path=DIR/{name}", *SHARED, *(typed or MAPPED)], message)


def broken(line: bytes, problem: str, *typed: str) -> Case:
    """A case with one bad line, the third."""
    good = GOOD.splitlines(keepends=True)
    content = b"".join([*good[:2], line + b"\n", *good[3:]])
    message = f"data.max_bad_rows=0 is less than the 1 of 120 rows that cannot be used (train.jsonl:3 {problem}"
    return one(content, message, *(typed or MAPPED))


CASES: dict[str, Case] = {
    # ---- where the data are
    "no path": Case({}, MAPPED, "data.path is missing; give a file or folder: data.path=PATH"),
    "a path that is not there": Case({}, ["data.path=DIR/nowhere", *MAPPED], "data.path=DIR/nowhere does not exist"),
    "a folder with nothing": Case(
        {}, ["data.path=DIR", *MAPPED], "data.path=DIR has no train file (train.jsonl, train.csv, train.parquet, …); it"
    ),
    "a folder with other files": Case(
        {"notes.txt": b"x"},
        ["data.path=DIR", *MAPPED],
        "it holds notes.txt; name the files, e.g. data.files.train=NAME",
    ),
    "two formats of one split": Case(
        {"train.jsonl": GOOD, "train.csv": b"en,de\na,b\n"},
        ["data.path=DIR", *MAPPED],
        "data.path=DIR holds several candidates for train: train.csv, train.jsonl; choose one with data.files.train",
    ),
    "a format that is not read": one(b"x", "has a format that is not read; give one of jsonl.gz", name="train.xlsx"),
    "a file of a split that is not there": Case(
        {"train.jsonl": GOOD},
        ["data.path=DIR", "data.files.train=other.jsonl", *MAPPED],
        "data.files.train=other.jsonl does not exist (DIR/other.jsonl); give a path relative to data.path",
    ),
    "a split that is none": Case(
        {"train.jsonl": GOOD},
        ["data.path=DIR", "data.files.sft=train.jsonl", *MAPPED],
        "data.files.sft is not a split that a file can hold; use train, validation, test",
    ),
    "a glob without matches": Case(
        {"train.jsonl": GOOD}, ["'data.path=DIR/*.csv'", *MAPPED], "data.path=DIR/*.csv matches no data file"
    ),
    "a glob over named and other files": Case(
        {"train.jsonl": GOOD, "more.jsonl": GOOD},
        ["'data.path=DIR/*.jsonl'", *MAPPED],
        "data.path=DIR/*.jsonl matches files named after splits (train.jsonl) and others (more.jsonl)",
    ),
    "no validation": Case(
        {"train.jsonl": GOOD}, ["data.path=DIR", *MAPPED], "data.files.validation is needed: no file holds validation"
    ),
    "a share of a split with a file": Case(
        {"train.jsonl": GOOD, "validation.jsonl": lines(rows(9, 200)), "test.jsonl": lines(rows(9, 300))},
        ["data.path=DIR", *SHARED, *MAPPED],
        "data.shares.validation=0.1 asks for validation rows from the train file, but validation has a file of its own",
    ),
    # ---- files as a whole
    "an empty file": one(b"", "DIR/train.jsonl has no rows; give a file with data in it"),
    "blank lines only": one(b"\n \n\n", "DIR/train.jsonl has no rows; give a file with data in it"),
    "a gz cut short": one(
        gzip.compress(GOOD)[:200], "DIR/train.jsonl.gz cannot be read: EOFError", name="train.jsonl.gz"
    ),
    "a gz that is none": one(GOOD, "DIR/train.jsonl.gz cannot be read: BadGzipFile", name="train.jsonl.gz"),
    "a gz with a broken middle": one(
        gzip.compress(GOOD)[:100] + b"\0" * 50, "DIR/train.jsonl.gz cannot be read", name="train.jsonl.gz"
    ),
    "UTF-16": one(GOOD.decode().encode("utf-16"), "DIR/train.jsonl is UTF-16 text; save it as UTF-8"),
    "csv in Latin-1": one(
        "en,de\na,Grüße\n".encode("latin-1"), "DIR/train.csv cannot be read: UnicodeDecodeError", name="train.csv"
    ),
    "csv without its columns": one(
        b"one,two\na,b\n", "data.columns.source=en is not a column; the columns are: one, two", name="train.csv"
    ),
    "csv with a quote left open": one(
        b'en,de\na,b\nc,"d\ne,f\n',
        "DIR/train.csv has a row, of line 3, with a quote that is never closed; close it",
        name="train.csv",
    ),
    "csv with a column twice": one(
        b"en,de,de\na,b,c\n", "DIR/train.csv has two columns 'de'; give each a name of its own", name="train.csv"
    ),
    "csv with a cell too few": one(
        b"en,de\na,b\nc\n", "(train.csv:3 has 1 cells where the header has 2)", name="train.csv"
    ),
    "a JSON list without end": one(
        json.dumps(rows(3)).encode()[:-1],
        "DIR/train.json is not a JSON list (near line 1: it has no end)",
        name="train.json",
    ),
    "a JSON list without a comma": one(
        b'[{"en": "a"}\n{"en": "b"}]', "is not a JSON list (near line 2: '{' stands where a comma", name="train.json"
    ),
    "text after a JSON list": one(
        b'[{"en": "a", "de": "b"}] {"en": 1}',
        "is not a JSON list (near line 1: '{' stands after its end)",
        name="train.json",
    ),
    "parquet that is none": one(b"PAR1 no", "DIR/train.parquet cannot be read", name="train.parquet"),
    "arrow that is none": one(b"ARROW1 no", "DIR/train.arrow cannot be read", name="train.arrow"),
    # ---- rows
    "a line that is no JSON": broken(b'{"en": "a", ', "is not JSON"),
    "a line in Latin-1": broken('{"en": "ü", "de": "b"}'.encode("latin-1"), "is not UTF-8 text (byte 9 of the line))"),
    "a line that is no object": broken(b"[1, 2]", "is not a JSON object)"),
    "a line nested without end": broken(b"[" * 100_000, "is not JSON"),
    "a row without a column": broken(b'{"en": "a"}', "has no column 'de')"),
    "a number for a text": broken(b'{"en": 5, "de": "b"}', "has source of type int, not text)"),
    "a list for a text": broken(b'{"en": ["a"], "de": "b"}', "has source of type list, not text)"),
    "half a character": broken(b'{"en": "a \\ud800", "de": "b"}', "has half a character (a lone surrogate) in source)"),
    "an empty text, if that is no row to drop": broken(
        b'{"en": " ", "de": "b"}', "has an empty source)", *MAPPED, "data.cleaning.drop_empty=false"
    ),
    "an id twice": broken(b'{"id": 1, "en": "a", "de": "b"}', "repeats the id '1')", *MAPPED, "data.columns.id=id"),
    "an id that is a list": broken(
        b'{"id": [1], "en": "a", "de": "b"}',
        "has an id of type list, not text or integer)",
        *MAPPED,
        "data.columns.id=id",
    ),
    "more bad rows than allowed": one(
        GOOD + b"{\n" * 3, "data.max_bad_rows=2 is less than the 3 of 123 rows", *MAPPED, "data.max_bad_rows=2"
    ),
    "nothing but empty rows": one(
        lines([{"en": "", "de": "b"}] * 5),
        "DIR/train.jsonl has no row that can be used (train.jsonl:1 has an empty source)",
    ),
    "every row too long": one(
        GOOD,
        "has a prompt of 10 characters, more than data.cleaning.max_prompt_chars=5)",
        *MAPPED,
        "data.cleaning.max_prompt_chars=5",
    ),
    # ---- columns
    "no columns": one(GOOD, "data.columns.source is missing; name the column: data.columns.source=COLUMN", *METRIC),
    "a column that no row has": one(
        GOOD,
        "data.columns.response=fr is not a column; the columns are: id, en, de",
        "data.columns.source=en",
        "data.columns.response=fr",
    ),
    "a nested column that no row has": one(
        GOOD,
        "data.columns.response=de.text is not a column; the columns are: id, en, de",
        "data.columns.source=en",
        "data.columns.response=de.text",
    ),
    "a name that is not ours": one(
        GOOD, "data.columns.label=de is not a name of ours", *MAPPED, "data.columns.label=de"
    ),
    "rejected without chosen": one(GOOD, "data.columns.chosen is missing", *MAPPED, "data.columns.rejected=de"),
    "chosen and rejected alike": one(
        lines([{"en": f"a {i}", "de": "same"} for i in range(9)]),
        "data.max_bad_rows=0 is less than the 9 of 9 rows that cannot be used (train.jsonl:1 has equal",
        "data.columns.source=en",
        "data.columns.chosen=de",
        "data.columns.rejected=de",
    ),
    # ---- pairs
    "pairs asked for, none given": one(
        GOOD, "data.pairs_path is missing; name the file with preference pairs", *MAPPED, "feedback=pairs"
    ),
    "a file of pairs that is not there": one(
        GOOD, "data.pairs_path=DIR/pairs.jsonl does not exist", *MAPPED, "data.pairs_path=DIR/pairs.jsonl"
    ),
    "pairs without columns": one(
        GOOD, "data.pairs_columns.source is missing", *MAPPED, "data.pairs_path=DIR/train.jsonl"
    ),
    # ---- numbers
    "shares of nothing": one(GOOD, "data.shares.sft=0.0 must be above 0", *MAPPED, "data.shares.sft=0"),
    "an empty split": one(lines(rows(3)), "gives no ", *MAPPED),
    "everything repeated in test": Case(
        {"train.jsonl": GOOD, "validation.jsonl": lines(rows(5, 500)), "test.jsonl": GOOD},
        ["data.path=DIR", *MAPPED],
        "data.shares.sft=0.5 gives no sft rows (120 train rows, duplicates and overlap removed)",
    ),
    "a limit of no split": one(GOOD, "data.limits.train=5 is not a split", *MAPPED, "data.limits.train=5"),
    "rows of a split that has none": one(
        GOOD, "data.max_rows.test=5 names no rows that are there (train)", *MAPPED, "data.max_rows.test=5"
    ),
    "a way to de-duplicate that is none": one(
        GOOD,
        "data.cleaning.deduplicate=all is not a choice; choose rows, prompts, none",
        *MAPPED,
        "data.cleaning.deduplicate=all",
    ),
    "one speaker": one(
        GOOD, "data.transcript_speakers=['Human'] is not two names", *MAPPED, "data.transcript_speakers=[Human]"
    ),
    "a world's mixture for files": one(
        GOOD, "data.mixture.good=1 is not a configuration key", *MAPPED, "data.mixture.good=1"
    ),
    # ---- the hub, as far as no hub is asked
    "no repository": Case(
        {}, ["data=hub", *MAPPED], "data.path is missing; give a repository: data.path=ORGANISATION/NAME"
    ),
    "a folder for a repository": Case(
        {},
        ["data=hub", "data.path=DIR", *MAPPED],
        "data.path=DIR is no repository on the hub; give ORGANISATION/NAME, or",
    ),
}


@pytest.fixture
def harness(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return in_process(cli.main)


def test_there_are_forty_and_more() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_one_message(
    name: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case, folder = CASES[name], tmp_path / "data"
    folder.mkdir()
    for file, content in case.files.items():
        (folder / file).write_bytes(content)
    typed = [part.replace("DIR", str(folder)) for part in case.typed]
    typed = [part[1:-1].replace("=", "='", 1) + "'" if part.startswith("'") else part for part in typed]
    feedback = [] if any(part.startswith("feedback") for part in typed) else METRIC
    source = [] if "data=hub" in typed else ["data=local"]
    status = harness("experiment=smoke", "task=translate", "tracker.mode=quiet", *source, *feedback, *typed)
    captured = capsys.readouterr()
    assert status == 2, captured
    expected = case.message.replace("DIR", str(folder))
    complaints = [line for line in captured.err.splitlines() if expected in line]
    assert len(complaints) == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    assert re.search(r"; \S", complaints[0]), "a message names what to do"
    assert not [path for path in tmp_path.rglob("*") if path.name == "model"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{source: a, label: b}", "data.columns.label=b is not a name of ours"),
        ("{response: b}", "data.columns.source is missing"),
    ],
)
def test_columns_are_compared_with_the_task_before_any_work(
    columns: str, message: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    typed = ("data=local", f"data.path={tmp_path}", f"data.columns={columns}", *METRIC, "plan=true")
    assert harness("experiment=smoke", "task=translate", "tracker.mode=quiet", *typed) == 2
    assert message in capsys.readouterr().err
