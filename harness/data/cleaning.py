"""Cleaning of texts and rows: what is set right, what is dropped, and how often."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.config import CleaningConfig
from harness.data.columns import BadRow, Empty, TooLong

SHOWN = 20
"""Places of bad or dropped rows that a report names."""

# Line ends of other systems, form feeds and vertical tabs; no-break spaces and separators of records and units; other
# control characters, zero-width space, byte order mark, soft hyphen.
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\x1c-\x1f\xa0\u202f]")
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")


def normalise_text(text: str) -> str:
    """Text in one form of Unicode (NFC), with line feeds for line ends and no characters that nobody sees.

    >>> normalise_text("Cafe\\u0301\\r\\n a\\xa0b\\u200b")
    'Café\\n a b'
    """
    if _PLAIN.fullmatch(text):
        return text
    text = _SPACES.sub(" ", _LINE_ENDS.sub("\n", text))
    return unicodedata.normalize("NFC", _UNSEEN.sub("", text)).strip()


@dataclass
class Tally:
    """What was found in the rows of one split.

    Args:
        rows: rows that were read.
        bad: rows that cannot be used, besides those that cleaning dropped.
        empty: rows dropped because a text is missing.
        too_long: rows dropped because a text is too long.
        normalised: rows kept in which a text was changed.
        shown: the first bad rows, each with its place.
        shown_dropped: the first rows that cleaning dropped.
    """

    rows: int = 0
    bad: int = 0
    empty: int = 0
    too_long: int = 0
    normalised: int = 0
    shown: list[str] = field(default_factory=list)
    shown_dropped: list[str] = field(default_factory=list)

    def add(self, place: str, problem: BadRow, *, drop_empty: bool) -> None:
        """Count a row that cannot be used."""
        dropped = True
        if isinstance(problem, TooLong):
            self.too_long += 1
        elif isinstance(problem, Empty) and drop_empty:
            self.empty += 1
        else:
            dropped = False
            self.bad += 1
        shown = self.shown_dropped if dropped else self.shown
        if len(shown) < SHOWN:
            shown.append(f"{place} {problem}")


class Cleaner:
    """Cleans the texts of one row after another.

    Args:
        config: what is to be done.
    """

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config
        self.changed = False
        """True where a text of the row at hand was changed; the caller sets it back."""

    def text(self, value: str, name: str) -> str:
        """A text that is not empty and holds whole characters, normalised if that is asked for.

        Raises:
            BadRow: it is empty (then `Empty`) or holds half a character.
        """
        text = value.strip()
        if not text.isascii() and _SURROGATE.search(text):
            raise BadRow(f"has half a character (a lone surrogate) in {name}")
        if self.config.normalise:
            cleaned = normalise_text(text)
            self.changed |= cleaned != text
            text = cleaned
        if not text:
            raise Empty(f"has an empty {name}")
        return text

    def check_lengths(self, prompt: Sequence[str], responses: Sequence[str]) -> None:
        """Raise `TooLong` where the prompt's parts together, or a response, are longer than the limits."""
        limits = (self.config.max_prompt_chars, self.config.max_response_chars)
        lengths = (sum(map(len, prompt)), max(map(len, responses), default=0))
        for name, limit, length in zip(("prompt", "response"), limits, lengths, strict=True):
            if limit is not None and length > limit:
                raise TooLong(f"has a {name} of {length} characters, more than data.cleaning.max_{name}_chars={limit}")
