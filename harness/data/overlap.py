"""Train rows whose prompt stands, whole or in good part, among the prompts of validation or test.

Only the prompt's content is compared, without the template's words; a character of a script that is written without
spaces counts as a word. Texts are kept as hashes, and the time is linear in the number of words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise
from harness.data.unspaced import split_words

N = 8
THRESHOLD = 0.5
_CHUNK = 4096
_REMEMBERED = 1 << 18
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that multiplying by its powers modulo 2^64 loses nothing."""

Hashes = NDArray[np.uint64]


class Overlap(NamedTuple):
    """What was found among the rows of a train split.

    Args:
        exact: rows whose normalised prompt equals a held-out one.
        ngram8: further rows of whose word 8-grams at least half stand in held-out prompts.
        ngram8_any: further rows that share at least one 8-gram. They are counted and kept: stock phrases do that.
    """

    exact: int
    ngram8: int
    ngram8_any: int

    def plus(self, other: Overlap) -> Overlap:
        """The counts of both."""
        return Overlap(self.exact + other.exact, self.ngram8 + other.ngram8, self.ngram8_any + other.ngram8_any)


class _WordHashes(dict[str, int]):
    """A 64-bit hash per word, the same in every process; so many are remembered that common words are hashed once."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        value = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        self[word] = value
        return value


@dataclass(frozen=True)
class HeldOut:
    """The prompts that training must not have seen: hashes of the whole ones, and of all their 8-grams."""

    exact: frozenset[bytes]
    ngrams: Hashes
    _words: _WordHashes

    @classmethod
    def of(cls, prompts: Iterable[str]) -> HeldOut:
        """Index held-out prompts (content only; they are normalised here)."""
        words = _WordHashes()
        exact: set[bytes] = set()
        grams: list[Hashes] = []
        chunk: dict[bytes, str] = {}
        for prompt in prompts:
            normalised = normalise(prompt)
            if (key := _key(normalised)) not in exact:
                exact.add(key)
                chunk[key] = normalised
            if len(chunk) == _CHUNK:
                grams.append(np.unique(_ngrams(list(chunk.values()), words)[0]))
                chunk.clear()
        grams.append(_ngrams(list(chunk.values()), words)[0])
        return cls(frozenset(exact), np.unique(np.concatenate(grams)), words)

    def compare(self, prompts: Sequence[str]) -> tuple[NDArray[np.bool_], Overlap]:
        """Which prompts overlap and how many for which reason.

        Args:
            prompts: N train prompts (content only; they are normalised here).

        Returns:
            (N,) bool, True where the prompt is equal or shares at least half of its 8-grams; and the counts.
        """
        normalised = [normalise(prompt) for prompt in prompts]
        exact = np.array([_key(prompt) in self.exact for prompt in normalised], dtype=bool)
        shared = np.zeros(len(normalised))
        # In chunks: the 8-grams of a whole corpus need not be in memory at once.
        for start in range(0, len(normalised), _CHUNK):
            shared[start : start + _CHUNK] = self._shared(normalised[start : start + _CHUNK])
        near = ~exact & (shared >= THRESHOLD)
        some = ~exact & ~near & (shared > 0)
        return exact | near, Overlap(int(exact.sum()), int(near.sum()), int(some.sum()))

    def _shared(self, normalised: Sequence[str]) -> NDArray[np.float64]:
        """The share of each text's 8-grams that stand in held-out prompts; 0 for texts of fewer than 8 words."""
        grams, counts = _ngrams(normalised, self._words)
        if not len(grams) or not len(self.ngrams):
            return np.zeros(len(normalised))
        places = np.minimum(np.searchsorted(self.ngrams, grams), len(self.ngrams) - 1)
        held_out = self.ngrams[places] == grams
        rows = np.repeat(np.arange(len(counts)), counts)
        hits = np.bincount(rows, weights=held_out, minlength=len(counts))
        shares: NDArray[np.float64] = hits / np.maximum(counts, 1)
        return shares


def _key(normalised: str) -> bytes:
    """16 bytes that stand for a whole prompt."""
    return blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _ngrams(normalised: Sequence[str], words: _WordHashes) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all 8-grams of all texts, text by text, and how many each text has."""
    split = [split_words(text) for text in normalised]
    lengths = np.array([len(text) for text in split], dtype=np.int64)
    values = np.array([words[word] for text in split for word in text], dtype=np.uint64)
    counts = np.maximum(lengths - N + 1, 0)
    windows = max(len(values) - N + 1, 0)
    hashes = np.zeros(windows, dtype=np.uint64)
    for k in range(N):
        # sum over k of word[i + k] · base^k, modulo 2^64
        hashes += values[k : k + windows] * np.uint64(pow(_BASE, k + 1, 1 << 64))
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return hashes[starts[rows] + within], counts
