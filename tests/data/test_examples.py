from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.config import CleaningConfig
from harness.data.columns import Columns
from harness.data.examples import Reader
from harness.data.rows import read_rows
from harness.errors import UserError
from harness.types import Example, PairExample

SOURCE = ("source",)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


class Read(NamedTuple):
    examples: list[Example]
    pairs: list[PairExample]
    bad_rows: list[str]
    reader: Reader


def drain(path: Path, columns: Columns, **options: Any) -> Read:
    """All that a file's rows give; empty texts are bad rows unless ``cleaning`` says otherwise."""
    options = {"max_bad_rows": 0, "label": "train", "cleaning": CleaningConfig(drop_empty=False), **options}
    reader = Reader(read_rows(path), columns, name=str(path), **options)
    made = list(reader)
    examples = [example for row in made for example in row.examples]
    return Read(examples, [row.pair for row in made if row.pair is not None], reader.tally.shown, reader)


def read(
    tmp_path: Path, rows: list[Any], columns: dict[str, str], fields: tuple[str, ...] = SOURCE, **options: Any
) -> Read:
    return drain(jsonl(tmp_path / "rows.jsonl", rows), Columns(columns, fields), **options)


def test_plain_columns(tmp_path: Path) -> None:
    rows = [{"en": " A dog. ", "de": "Ein Hund.", "n": 7}]
    (example,) = read(tmp_path, rows, {"source": "en", "response": "de", "id": "n"}).examples
    assert (example.id, example.fields, example.response) == ("train:7", {"source": "A dog."}, "Ein Hund.")
    assert example.references == ["Ein Hund."]
    assert example.facts is None


def test_response_is_the_first_reference_by_default(tmp_path: Path) -> None:
    (example,) = read(tmp_path, [{"q": "Q", "a": ["x", "y"]}], {"source": "q", "references": "a"}).examples
    assert (example.id, example.response, example.references) == ("train:1", "x", ["x", "y"])


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"answers": {"text": ["a", "b"]}}, "answers.text", ["a", "b"]),
        ({"answers": [{"text": "a"}, {"text": "b"}]}, "answers.text", ["a", "b"]),
        ({"a.b": "dot", "a": {"b": "nested"}}, "a.b", ["dot"]),
        ({"one": "a", "two": "b"}, "one+two", ["a", "b"]),
        ({"one": None, "two": "b", "three": "c"}, "one+two+three", ["b", "c"]),
        ({"s1": None, "s2": None, "summary": "s"}, "s1+s2|summary", ["s"]),
        ({"answers": None, "summary": "s"}, "answers.text|summary", ["s"]),
        ({"summary": "s"}, "summaries|summary", ["s"]),
        ({"summaries": None, "summary": "s"}, "summaries|summary", ["s"]),
        ({"summaries": ["t", "u"], "summary": "s"}, "summaries|summary", ["t", "u"]),
        ({"s1": "a", "s2": "b"}, "summary|s1+s2", ["a", "b"]),
        ({"a|b": "c"}, "a|b", ["c"]),
    ],
)
def test_ways_to_name_references(tmp_path: Path, row: dict[str, Any], column: str, expected: list[str]) -> None:
    (example,) = read(tmp_path, [{"q": "Q", **row}], {"source": "q", "references": column}).examples
    assert example.references == expected


@pytest.mark.parametrize(
    ("column", "row", "good"),
    [
        ("answers.text", {"answers": {"text": None}}, {"answers": {"text": "x"}}),
        ("answers.text", {"answers": None}, {"answers": {"text": "x"}}),
        ("a.b.c", {"a": {"b": None}}, {"a": {"b": {"c": "x"}}}),
        ("answers.text", {"answers": [{"text": "x"}, None]}, {"answers": [{"text": "x"}]}),
        ("one+two", {"one": None, "two": None}, {"one": "x", "two": "y"}),
        ("one+a.b", {"one": None, "a": None}, {"one": "x", "a": {"b": "y"}}),
    ],
)
def test_a_null_on_the_way_is_a_missing_text_as_one_at_the_end_is(
    tmp_path: Path, column: str, row: dict[str, Any], good: dict[str, Any]
) -> None:
    columns = {"source": "q", "references": column}
    found = read(tmp_path, [{"q": "Q", **row}, {"q": "Q", **good}], columns, cleaning=CleaningConfig())
    assert len(found.examples) == 1
    assert (found.reader.tally.empty, found.reader.tally.bad) == (1, 0)


def test_nulls_among_joined_turns_stay_missing(tmp_path: Path) -> None:
    # Left out, they would give each turn after them to the other side.
    rows = [{"q1": "a", "a1": "b", "q2": "c", "r": "d"}, {"q1": "a", "a1": None, "q2": "c", "r": "d"}]
    columns = {"turns": "q1+a1+q2", "response": "r"}
    found = read(tmp_path, rows, columns, ("turns",), cleaning=CleaningConfig())
    assert [example.fields["turns"] for example in found.examples] == [["a", "b", "c"]]
    assert found.reader.tally.empty == 1


def test_context_and_answer_of_a_dialogue(tmp_path: Path) -> None:
    rows = [{"context": ["Hi.", "Yes?"], "good": ["A pen.", "Ink."]}]
    columns = {"turns": "context", "references": "good"}
    (example,) = read(tmp_path, rows, columns, ("turns",)).examples
    assert example.fields == {"turns": ["Hi.", "Yes?"]}
    assert example.references == ["A pen.", "Ink."]


def test_whole_dialogues_are_taken_apart(tmp_path: Path) -> None:
    rows = [{"dialog": ["a", "b", "c", "d"]}]
    examples = read(tmp_path, rows, {"dialog": "dialog"}, ("turns",), max_turns=2).examples
    assert [(row.id, row.fields["turns"], row.response) for row in examples] == [
        ("train:1-1", ["a"], "b"),
        ("train:1-2", ["a", "b"], "c"),
        ("train:1-3", ["b", "c"], "d"),
    ]


def test_pairs_among_the_rows(tmp_path: Path) -> None:
    rows = [{"q": "Q", "good": "yes", "bad": "no"}]
    found = read(tmp_path, rows, {"source": "q", "chosen": "good", "rejected": "bad"})
    (example,), (pair,) = found.examples, found.pairs
    assert (example.response, example.references) == ("yes", ["yes"])
    assert (pair.id, pair.fields, pair.chosen, pair.rejected) == ("train:1", {"source": "Q"}, "yes", "no")


def test_a_file_of_pairs(tmp_path: Path) -> None:
    rows = [{"c": ["Hi."], "good": "Hello.", "bad": "Fish."}, {"c": ["Hi."], "good": "same", "bad": "same"}]
    path = jsonl(tmp_path / "pairs.jsonl", rows)
    columns = {"turns": "c", "chosen": "good", "rejected": "bad"}
    mapping = Columns(columns, ("turns",), key="data.pairs_columns", pairs_only=True)
    found = drain(path, mapping, max_bad_rows=1, label="pairs")
    assert [(pair.fields, pair.chosen, pair.rejected) for pair in found.pairs] == [
        ({"turns": ["Hi."]}, "Hello.", "Fish.")
    ]
    assert found.examples == []
    assert found.bad_rows == ["pairs.jsonl:2 has equal chosen and rejected responses"]
    with pytest.raises(UserError, match=r"data\.pairs_columns\.rejected is missing"):
        Columns({"turns": "c", "chosen": "good"}, ("turns",), key="data.pairs_columns", pairs_only=True)


BAD: list[tuple[Any, str]] = [
    ("{oops", "is not JSON"),
    ({"en": "a"}, "has no column 'de'"),
    ({"en": "  ", "de": "b"}, "has an empty source"),
    ({"en": None, "de": "b"}, "has no source (null)"),
    ({"en": 5, "de": "b"}, "has source of type int, not text"),
    ({"en": ["a"], "de": "b"}, "has source of type list, not text"),
    ({"en": "a", "de": {"x": "b"}}, "has response of type dict, not text"),
]


@pytest.mark.parametrize(("row", "problem"), BAD)
def test_bad_rows_are_counted_and_shown(tmp_path: Path, row: Any, problem: str) -> None:
    rows = [{"en": "a", "de": "b"}, row]
    columns = {"source": "en", "response": "de"}
    found = read(tmp_path, rows, columns, max_bad_rows=1)
    assert len(found.examples) == 1
    assert len(found.bad_rows) == 1
    assert found.bad_rows[0].startswith(f"rows.jsonl:2 {problem}")
    with pytest.raises(UserError, match=r"data\.max_bad_rows=0 is less than the 1 of 2 rows.*rows\.jsonl:2"):
        read(tmp_path, rows, columns)


@pytest.mark.parametrize(
    ("references", "problem"), [([], "fewer than 1"), (["a", ""], "an empty references"), ([1], "of type int")]
)
def test_bad_references(tmp_path: Path, references: Any, problem: str) -> None:
    rows = [{"q": "Q", "a": ["x"]}, {"q": "Q", "a": references}]
    found = read(tmp_path, rows, {"source": "q", "references": "a"}, max_bad_rows=1)
    assert problem in found.bad_rows[0]


def test_a_repeated_id_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"id": "x", "q": "a", "r": "b"}, {"id": "x", "q": "c", "r": "d"}]
    found = read(tmp_path, rows, {"source": "q", "response": "r", "id": "id"}, max_bad_rows=1)
    assert [row.fields["source"] for row in found.examples] == ["a"]
    assert found.bad_rows == ["rows.jsonl:2 repeats the id 'x'"]


def test_a_column_that_no_row_has_names_the_columns(tmp_path: Path) -> None:
    rows = [{"en": "a", "de": {"text": "b"}}] * 3
    with pytest.raises(
        UserError, match=r"data\.columns\.response=fr is not a column; the columns are: en, de, de\.text"
    ):
        read(tmp_path, rows, {"source": "en", "response": "fr"}, max_bad_rows=10)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    columns = {"source": "q", "response": "r"}
    with pytest.raises(UserError, match="has no rows"):
        read(tmp_path, [], columns)
    with pytest.raises(UserError, match="has no row that can be used"):
        read(tmp_path, [{"q": "", "r": "b"}], columns, max_bad_rows=5)


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"source": "a"}, SOURCE, r"data\.columns\.response is missing"),
        ({"response": "a"}, SOURCE, r"data\.columns\.source is missing; name the column: data\.columns\.source="),
        ({"source": "a", "response": "b", "label": "c"}, SOURCE, r"data\.columns\.label=c is not a name of ours"),
        ({"source": "a", "rejected": "c"}, SOURCE, r"data\.columns\.chosen is missing"),
        ({"dialog": "a", "source": "b"}, SOURCE, r"data\.columns\.dialog=a is not a name of ours"),
    ],
)
def test_wrong_mappings_are_refused(columns: dict[str, str], fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Columns(columns, fields)
