from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import CleaningConfig
from harness.data.cleaning import normalise_text
from harness.data.columns import Columns
from harness.data.examples import Reader
from harness.data.rows import Row
from harness.errors import UserError


def reader(rows: list[dict[str, Any]], cleaning: CleaningConfig, max_bad_rows: int = 0) -> Reader:
    columns = Columns({"source": "q", "response": "r"}, ("source",))
    made = (Row(f"f:{i}", row) for i, row in enumerate(rows, 1))
    return Reader(made, columns, label="train", name="f", max_bad_rows=max_bad_rows, cleaning=cleaning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("a\r\nb\rc\x85d\u2028e", "a\nb\nc\nd\ne"),
        ("Cafe\u0301", "Café"),
        ("a\xa0b\u202fc", "a b c"),
        ("a\u200bb\ufeffc\xadd\x00e\x1bf", "abcdef"),
        ("end of page.\x0cNext page", "end of page.\nNext page"),
        ("a\x0bb\r\x0cc\x1cd\x1de\x1ef\x1fg", "a\nb\n\nc d e f g"),  # what parts words goes on to do so
        ("\u200b x \x00", "x"),
        ("👩\u200d🚀 Ａ ﬁ ²", "👩\u200d🚀 Ａ ﬁ ²"),  # a joined emoji stays one, and compatibility forms are text
    ],
)
def test_normalise_text(text: str, expected: str) -> None:
    assert normalise_text(text) == expected


@given(st.text())
def test_normalising_settles_and_is_nfc(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_counts_of_what_cleaning_did() -> None:
    rows: list[dict[str, Any]] = [
        {"q": "a\u200bb", "r": "x"},
        {"q": "", "r": "x"},
        {"q": None, "r": "x"},
        {"q": "\u200b", "r": "x"},
        {"q": "a" * 11, "r": "x"},
        {"q": "a", "r": "y" * 6},
        {"q": "a" * 10, "r": "y" * 5},
    ]
    found = reader(rows, CleaningConfig(max_prompt_chars=10, max_response_chars=5))
    made = [row.examples[0].fields["source"] for row in found]
    assert made == ["ab", "a" * 10]
    tally = found.tally
    assert (tally.rows, tally.bad, tally.empty, tally.too_long, tally.normalised) == (7, 0, 3, 2, 1)
    assert tally.shown_dropped == [
        "f:2 has an empty source",
        "f:3 has no source (null)",
        "f:4 has an empty source",
        "f:5 has a prompt of 11 characters, more than data.cleaning.max_prompt_chars=10",
        "f:6 has a response of 6 characters, more than data.cleaning.max_response_chars=5",
    ]


def test_without_cleaning_texts_stay_and_empty_rows_are_bad() -> None:
    off = CleaningConfig(normalise=False, drop_empty=False)
    assert [row.examples[0].fields["source"] for row in reader([{"q": "a\u200bb", "r": "x"}], off)] == ["a\u200bb"]
    with pytest.raises(UserError, match=r"data\.max_bad_rows=0 is less than the 1 of 2 rows.*f:2 has an empty source"):
        list(reader([{"q": "a", "r": "x"}, {"q": "", "r": "x"}], off))


def test_reading_stops_when_enough_bad_rows_can_be_shown() -> None:
    found = reader([{"q": 1, "r": "x"}] * 1000, CleaningConfig(), max_bad_rows=5)
    with pytest.raises(UserError, match="is less than the 20 of 20 rows that cannot be used"):
        list(found)
