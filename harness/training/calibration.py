"""The arithmetic of a reward model's report card: accuracy, calibration, and the pull of length. numpy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.evaluation.wins import WIN_MARGIN

Floats = npt.NDArray[np.float64]


class ReliabilityBin(NamedTuple):
    """One row of a reliability table: predictions in [low, high), 1 included in the last bin."""

    low: float
    high: float
    n: int
    probability: float | None
    """Mean predicted probability; None where the bin is empty."""
    outcome: float | None
    """Mean outcome, the share that came true; None where the bin is empty."""


class Confidence(NamedTuple):
    """What a reward model claims about each pair, and whether it was right; (N,) each."""

    probabilities: Floats
    outcomes: Floats


def confidence(margins: npt.ArrayLike, *, tolerance: float = WIN_MARGIN) -> Confidence:
    """The Bradley-Terry probability of the response that a reward model prefers, and whether people did too.

    In a table of pairs the chosen one always "won", so sigma(margin) against 1 would be no test of calibration; the
    side that the model prefers is free of that.

    Args:
        margins: (N,) score of the chosen minus score of the rejected response.
        tolerance: margins up to this size are ties.
    Returns: sigma(abs(margin)), from 1/2 to 1; and 1 where the margin is positive, 0 where negative, 1/2 for ties.
    """
    values = _vector(margins, "margins")
    return Confidence(probabilities=1.0 / (1.0 + np.exp(-np.abs(values))), outcomes=_verdicts(values, tolerance))


def reliability_table(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Predicted probability against what came true, in bins of equal width over [0, 1].

    Args:
        probabilities: (N,) in [0, 1].
        outcomes: (N,) 1 where the event happened, 0 where not; 1/2 for a tie.
        bins: how many; a prediction on an edge belongs to the bin above it.
    """
    predicted, happened = _vector(probabilities, "probabilities"), _vector(outcomes, "outcomes")
    if predicted.shape != happened.shape:
        raise ValueError(f"{predicted.size} probabilities but {happened.size} outcomes")
    if bins < 1 or predicted.min() < 0.0 or predicted.max() > 1.0:
        raise ValueError(f"bins={bins} must be positive and probabilities lie in [0, 1]")
    edges = np.arange(bins + 1) / bins
    bin_of = np.minimum(np.searchsorted(edges, predicted, side="right") - 1, bins - 1)
    table = []
    for index in range(bins):
        inside = bin_of == index
        n = int(inside.sum())
        means = (float(predicted[inside].mean()), float(happened[inside].mean())) if n else (None, None)
        table.append(ReliabilityBin(float(edges[index]), float(edges[index + 1]), n, *means))
    return table


def expected_calibration_error(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10) -> float:
    """Mean over predictions of abs(mean probability - mean outcome) of their bin: 0 = says what happens.

    Args: as for `reliability_table`.
    Source: Guo et al. 2017 (arXiv 1706.04599), eq. 3.

    >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
    0.0
    """
    table = reliability_table(probabilities, outcomes, bins)
    total = sum(row.n for row in table)
    gaps = (
        row.n * abs(row.probability - row.outcome)
        for row in table
        if row.probability is not None and row.outcome is not None
    )
    return sum(gaps) / total


def length_correlation(scores: npt.ArrayLike, lengths: npt.ArrayLike) -> float:
    """Spearman's rank correlation of score with length; tied values share their mean rank.

    Ranks, since a reward that grows with length need not grow linearly.

    Args:
        scores: (N,) one per response.
        lengths: (N,) tokens of the response.
    Returns: from -1 to 1; NaN where scores or lengths do not vary.

    >>> length_correlation([0.1, 0.2, 5.0], [3, 4, 9])
    1.0
    """
    first, second = _vector(scores, "scores"), _vector(lengths, "lengths")
    if first.shape != second.shape:
        raise ValueError(f"{first.size} scores but {second.size} lengths")
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt(np.dot(a, a) * np.dot(b, b))
    return float(np.dot(a, b) / spread) if spread > 0.0 else float("nan")


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = last - (counts - 1) / 2.0
    return means[inverse]


def _verdicts(margins: Floats, tolerance: float) -> Floats:
    return np.where(np.abs(margins) <= tolerance, 0.5, (margins > 0.0).astype(np.float64))


def _vector(values: npt.ArrayLike, name: str) -> Floats:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be one non-empty row of numbers, not of shape {vector.shape}")
    if np.isnan(vector).any():
        raise ValueError(f"{name} hold values that are not numbers")
    return vector
