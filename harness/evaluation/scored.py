"""A metric's verdict on N outputs, kept as sentence statistics, so that any resample can be scored exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import UserError


@dataclass(slots=True)
class SummedScored:
    """A metric that is a function of statistics summed over the examples (BLEU, chrF and every mean).

    Args:
        name: the table's column.
        signature: what makes two numbers of this name comparable.
        per_example: (N,) float, the metric of each output by itself.
        statistics: (N, C) float, what each example adds to the corpus.
        formula: sums (K, C) -> corpus scores (K,).
    """

    name: str
    signature: str
    per_example: np.ndarray
    statistics: np.ndarray
    formula: Callable[[np.ndarray], np.ndarray]

    def score(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Corpus scores of resamples. ``weights`` (K, N): how often each example was drawn; None: each once. (K,)."""
        if weights is None:
            weights = np.ones((1, len(self.statistics)))
        return self.formula(np.asarray(weights, dtype=np.float64) @ self.statistics)


def ratio_of_sums(sums: np.ndarray) -> np.ndarray:
    """(K, 2) sums of values and of counts -> (K,) means."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def mean_scored(name: str, values: np.ndarray | Sequence[float], *, signature: str) -> SummedScored:
    """A metric whose corpus score is the mean of its per-example values.

    Args:
        name: the table's column.
        values: (N,) float, finite.
        signature: what makes two numbers of this name comparable.
    """
    values = finite(values, name)
    statistics = np.column_stack([values, np.ones(len(values))])
    return SummedScored(name, signature, values, statistics, ratio_of_sums)


def finite(values: np.ndarray | Sequence[float], name: str) -> np.ndarray:
    """``values`` as a (N,) float64 array, N >= 1. Raises ValueError where one is missing, NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name}: expected one number per example, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: example {int(np.flatnonzero(~np.isfinite(array))[0])} has no finite value")
    return array


def check_texts(outputs: Sequence[str], references: Sequence[Sequence[str]], *, needs_references: bool = True) -> None:
    """Refuse what no metric can score: no output at all, other lengths, or an example without a reference.

    An empty output is scored like any other, and an empty string is a valid reference; an empty *list* of references
    leaves nothing to compare with.

    Raises:
        UserError: ``data.references``, where an example has no reference.
        ValueError: where the lengths differ or nothing was given.
    """
    if len(outputs) == 0:
        raise ValueError("no outputs to score")
    if len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs but {len(references)} lists of references")
    for index, refs in enumerate(references):
        if isinstance(refs, str):
            raise ValueError(f"example {index}: references must be a list of strings, not one string")
        if needs_references and len(refs) == 0:
            raise UserError(
                "data.references",
                f"[] (example {index})",
                "leaves the metrics nothing to compare with",
                "give every test example at least one reference",
            )
