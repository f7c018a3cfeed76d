"""Distinct-1 and distinct-2: how varied the responses of a policy are, taken together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import evaluate
import numpy as np

from harness.evaluation.module import TextModule
from harness.evaluation.scored import check_texts
from harness.types import Scored

TOKEN = re.compile(r"\w+|[^\w\s]")
PRESENCE_AT_ONCE = 2**22
"""Numbers in a block of the presence table (16 MiB as float32)."""


@dataclass(slots=True)
class DistinctScored:
    """Distinct n-grams over all n-grams of a corpus, 0-100; resamples are exact, by which n-grams they still hold.

    A resample repeats responses, so it holds fewer distinct n-grams than a fresh sample of its size would: bootstrap
    scores lie below the estimate and spread too little. Its intervals are the jackknife's (see `statistics`).

    Args:
        per_example: (N,) float, the share within each response by itself.
        totals: (N,) float, n-grams of each response.
        owners: (M,) int, the response that holds it, for each distinct n-gram of each response.
        types: (M,) int, the n-gram's number, counted from 0, sorted ascending.
    """

    name: str
    signature: str
    per_example: np.ndarray
    totals: np.ndarray
    owners: np.ndarray
    types: np.ndarray

    def score(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Corpus scores of resamples. ``weights`` (K, N): how often each example was drawn; None: each once. (K,)."""
        if weights is None:
            weights = np.ones((1, len(self.totals)))
        totals = np.asarray(weights, dtype=np.float64) @ self.totals
        distinct = self._distinct(np.asarray(weights) > 0)
        return np.asarray(100.0 * np.divide(distinct, totals, where=totals > 0, out=np.zeros(len(totals))))

    def _distinct(self, present: np.ndarray) -> np.ndarray:
        """(K, N) bool, True where a response was drawn -> (K,) float, distinct n-grams of the drawn responses."""
        from scipy.sparse import csr_array

        if len(self.types) == 0:
            return np.zeros(len(present))
        size = int(self.types[-1]) + 1
        holds = csr_array((np.ones(len(self.types), np.float32), (self.types, self.owners)), (size, len(self.totals)))
        rows = max(1, PRESENCE_AT_ONCE // size)
        blocks = [present[start : start + rows].T.astype(np.float32) for start in range(0, len(present), rows)]
        return np.concatenate([((holds @ block) > 0).sum(axis=0) for block in blocks]).astype(np.float64)


class Distinct(TextModule, evaluate.Metric):  # type: ignore[misc]
    """Distinct-1 and -2, 0-100, over the whole set of responses; references are not read."""

    columns = ("distinct1", "distinct2")
    description = "Distinct n-grams over all n-grams of the whole set of responses, n = 1 and 2, 0-100."
    citation = "Li et al. 2016 (arXiv 1510.03055), A Diversity-Promoting Objective Function."

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """Distinct-1 and -2 of N outputs; 0 where there is no n-gram at all (empty responses).

        The value falls as the set grows, so that only sets of one size compare.

        Args:
            outputs: N texts.
            references: N lists, not read; they may be empty.
        """
        check_texts(outputs, references, needs_references=False)
        words = [TOKEN.findall(output.lower()) for output in outputs]
        return {name: _scored(name, words, order) for order, name in enumerate(self.columns, start=1)}


def _scored(name: str, words: Sequence[Sequence[str]], order: int) -> DistinctScored:
    ngrams = [[tuple(line[at : at + order]) for at in range(len(line) - order + 1)] for line in words]
    numbers: dict[tuple[str, ...], int] = {}
    held = sorted(
        (numbers.setdefault(gram, len(numbers)), owner)
        for owner, line in enumerate(ngrams)
        for gram in dict.fromkeys(line)
    )
    table = np.array(held, dtype=np.int64).reshape(-1, 2)
    own = [100.0 * len(set(line)) / len(line) if line else 0.0 for line in ngrams]
    return DistinctScored(
        name=name,
        signature=f"n:{order}|tok:words-punctuation|case:lower|corpus:{len(words)}",
        per_example=np.array(own),
        totals=np.array([len(line) for line in ngrams], dtype=np.float64),
        owners=table[:, 1],
        types=table[:, 0],
    )
