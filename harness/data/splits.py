"""Which split a prompt belongs to: decided by a stable hash of its normalised text, so equal prompts never part."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS, Split

HELD_OUT_SHARES: Mapping[Split, float] = {"validation": 0.1, "test": 0.1}
"""The part of a generated world's prompts that is kept for validation and test, whatever sizes are asked for."""


class _Separators(dict[int, int]):
    """A translation table that turns punctuation, white space and control characters into a space, filled as needed."""

    def __missing__(self, code: int) -> int:
        category = unicodedata.category(chr(code))
        # Marks (M*) belong to words in many scripts; currency and mathematical signs carry meaning.
        value = 0x20 if category[0] in "PZC" or category == "Sk" else code
        self[code] = value
        return value


_SEPARATORS = _Separators()


def normalise(text: str) -> str:
    """Text as two equal prompts share it: NFKC, casefolded, punctuation and white space collapsed to single spaces.

    A text of punctuation alone keeps it, so that ``?`` and ``!`` stay different prompts.

    >>> normalise("  Where's the  Café? ")
    'where s the café'
    """
    folded = text.lower() if text.isascii() else _fold(text)
    return " ".join(folded.translate(_SEPARATORS).split()) or " ".join(folded.split())


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def content(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """The text of a prompt's fields without the template's words; lists (turns) are joined line by line."""
    values = (fields[name] for name in names)
    return "\n".join(value if isinstance(value, str) else "\n".join(value) for value in values)


def fraction(text: str, *, purpose: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on text, purpose and seed alone: the same in every process."""
    digest = blake2b(f"{purpose}:{seed}:{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 53 bits, since a float holds no more and must not round up to 1.
    return float(int.from_bytes(digest, "big") >> 11) / (1 << 53)


def split_of(normalised: str, shares: Mapping[Split, float], *, seed: int = 0) -> Split:
    """The split of a train row.

    Args:
        normalised: the prompt's content, as `normalise` leaves it.
        shares: split -> relative weight; they need not sum to 1 and may send a part to validation or test.
        seed: ``data.seed``; another seed shuffles which prompt goes where.
    """
    return _pick(fraction(normalised, purpose="split", seed=seed), shares)


def controlled_split(prompt_text: str, shares: Mapping[Split, float], *, seed: int = 0) -> Split:
    """The split of a generated prompt: a fixed tenth each for validation and test, the rest by the shares.

    Validation and test do not depend on ``shares``, so the test prompts stay when a train split grows.

    Args:
        prompt_text: the prompt's content; it is normalised here.
        shares: train split -> relative weight (sizes will do); keys other than the train splits are ignored.
        seed: ``data.seed``.
    """
    point = fraction(normalise(prompt_text), purpose="world", seed=seed)
    for split, share in HELD_OUT_SHARES.items():
        if point < share:
            return split
        point -= share
    train = {split: shares[split] for split in TRAIN_SPLITS if shares.get(split, 0) > 0}
    if not train:
        return "sft"
    return _pick(point / (1 - sum(HELD_OUT_SHARES.values())), train)


def _pick(point: float, shares: Mapping[Split, float]) -> Split:
    """The split whose stretch of [0, 1) holds the point, the stretches laid out in the order of SPLITS."""
    left = point * sum(shares.values())
    chosen: Split | None = None
    for split in SPLITS:
        share = shares.get(split, 0)
        if share <= 0:
            continue
        chosen = split
        if left < share:
            break
        left -= share
    if chosen is None:
        raise ValueError("no split has a share above 0")
    return chosen


def check_shares(shares: Mapping[Split, float]) -> None:
    """Raise UserError unless the shares name known splits, are not negative, and give SFT something."""
    for name, share in shares.items():
        if name not in SPLITS:
            raise UserError(f"data.shares.{name}", share, "is not a split", f"use {', '.join(SPLITS)}")
        if not 0 <= share < float("inf"):
            raise UserError(
                f"data.shares.{name}", share, "is not a finite number of at least 0", "give a share like 0.2"
            )
    if not any(shares.get(split, 0) > 0 for split in TRAIN_SPLITS):
        raise UserError("data.shares", dict(shares), "leaves nothing to train on", "give sft a share above 0")
