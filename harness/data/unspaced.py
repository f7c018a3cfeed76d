"""Scripts that are written without spaces between words: each of their characters counts as a word."""

from __future__ import annotations

import re
import unicodedata

# Thai and Lao, Burmese, Khmer, kana and bopomofo, Chinese characters. Korean has spaces between its words.
_RANGES = (
    (0x0E01, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3041, 0x30FA),
    (0x30FC, 0x312F),
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
_MARKS = "".join(
    chr(code)
    for first, last in (*_RANGES[:5], (0xFE00, 0xFE0F))
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES)
"""What stands in a class of a regular expression for any character of these scripts."""
CHARACTER = f"[{UNSPACED}][{_MARKS}]*"
"""A regular expression for one such character, with the vowel signs and accents on it."""
_ANY = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"{CHARACTER}|[^\s{UNSPACED}]+")


def split_words(normalised: str) -> list[str]:
    """The words of a text without punctuation, as `splits.normalise` leaves it.

    >>> split_words("tokyo 東京 2020年")
    ['tokyo', '東', '京', '2020', '年']
    """
    if normalised.isascii() or not _ANY.search(normalised):
        return normalised.split()
    return _WORD.findall(normalised)
