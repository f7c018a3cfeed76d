"""How prompts are cut: where sentences and words end, and the most of a text that still fits. Never mid-word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from harness.data.unspaced import CHARACTER, UNSPACED
from harness.errors import UserError

_CLOSING = r"[\"'”’»)\]」』）】》〉｝]*"
# A mark that needs no white space after it, and what closes with it.
_FULL_STOP = f"[。！？｡][。！？｡.!?…]*{_CLOSING}"
_WORD = re.compile(rf"(?:{CHARACTER}|[^\s{UNSPACED}。！？｡]+)(?:{_FULL_STOP})?|{_FULL_STOP}")
# An ending mark, closing quotes or brackets, then white space; or the end of a line. Marks are read from the first of
# them on: else a line of dots would be read again from each.
_SENTENCE_END = re.compile(rf"(?<![.!?…])[.!?…]+{_CLOSING}(?=\s)|{_FULL_STOP}|(?=\n)")
# Titles, single letters (initials, items of a list), letters with dots (U.S., e.g., a.m.), "No." before a number. The
# pronoun I is a word like others.
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'“])(?:Mr|Mrs|Ms|Dr|Prof|St|vs|Jr|Sr|(?P<number>No)|[A-HJ-Za-hj-z]|(?:[A-Za-z]\.)+[A-Za-z])\.$"""
)
_NUMBER = re.compile(r"\s?\d")
_ABBREVIATION_LENGTH = 16
"""Characters that hold any abbreviation with what stands before it: texts are not searched from their beginning."""


class Span(NamedTuple):
    """Characters start to end of a text, end excluded."""

    start: int
    end: int


def words(text: str) -> list[Span]:
    """Where each word stands: a run of characters that are not white space, or one character of a script without them.

    >>> [text[a:b] for text in ["Two words, 東京。"] for a, b in words(text)]
    ['Two', 'words,', '東', '京。']
    """
    return [Span(*match.span()) for match in _WORD.finditer(text)]


def sentences(text: str) -> list[Span]:
    """Where each sentence or line stands, white space around it left out; together they hold every word.

    >>> [text[a:b] for text in ["Mr. Ray left. He sang!"] for a, b in sentences(text)]
    ['Mr. Ray left.', 'He sang!']
    """
    # An empty match is the end of a line, which ends a sentence in any case.
    found = _SENTENCE_END.finditer(text)
    ends = [match.end() for match in found if not match[0] or not _abbreviated(text, match.end())]
    spans, start = [], 0
    for end in (*ends, len(text)):
        part = text[start:end]
        if part.strip():
            spans.append(Span(start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
        start = end
    return spans


def _abbreviated(text: str, end: int) -> bool:
    found = _ABBREVIATION.search(text, max(0, end - _ABBREVIATION_LENGTH), end)
    return found is not None and (found["number"] is None or _NUMBER.match(text, end) is not None)


def most(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The greatest n in low..high that fits, by bisection; low - 1 where low itself does not fit.

    Assumes that what fits at n fits below n. Where a tokenizer breaks that by a token, the answer still fits but may
    be one short of the greatest.
    """
    fitting, too_much = low - 1, high + 1
    while too_much - fitting > 1:
        middle = (fitting + too_much) // 2
        if fits(middle):
            fitting = middle
        else:
            too_much = middle
    return fitting


def longest_start(text: str, fits: Callable[[str], bool], *, whole_sentences: bool) -> str | None:
    """The longest start of a text that fits: whole sentences if one fits, else whole words; None if no word fits."""
    if whole_sentences:
        ends = [span.end for span in sentences(text)]
        kept = most(1, len(ends), lambda n: fits(text[: ends[n - 1]]))
        if kept:
            return text[: ends[kept - 1]]
        text = text[: ends[0]] if ends else ""
    ends = [span.end for span in words(text)]
    kept = most(1, len(ends), lambda n: fits(text[: ends[n - 1]]))
    return text[: ends[kept - 1]] if kept else None


def longest_end(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest end of a text that fits, cut before a word; None if no word fits."""
    starts = [span.start for span in words(text)][::-1]
    kept = most(1, len(starts), lambda n: fits(text[starts[n - 1] :]))
    return text[starts[kept - 1] :] if kept else None


def nothing_fits(example_id: str) -> UserError:
    """The error of a prompt that is too long even with a single word of the example in it."""
    rule = f"is too small for the shortest prompt of example {example_id!r}: template, uncut fields and one word"
    return UserError("task.max_prompt_tokens", None, rule, "raise it, shorten task.template or leave the example out")
