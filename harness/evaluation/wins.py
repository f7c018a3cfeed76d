"""Who wins: the share of prompts on which one policy's response scores higher, raw and controlled for length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.evaluation.scored import finite
from harness.evaluation.shares import share_interval
from harness.types import Interval

WIN_MARGIN = 1e-6
"""Score differences up to this size are ties: batched arithmetic moves a score by as much."""

NEWTON_STEPS = 200


def compare_scores(
    scores_a: np.ndarray | Sequence[float],
    scores_b: np.ndarray | Sequence[float],
    same_tokens: np.ndarray | Sequence[bool],
) -> np.ndarray:
    """(N,) float: 1 where a wins, 0 where b wins, one half for a tie.

    Args:
        scores_a: (N,) float, the judge's score of a's response, without any EOS penalty.
        scores_b: (N,) float, that of b's response to the same prompt.
        same_tokens: (N,) bool, True where both responses have equal tokens: a tie without asking, whatever the scores
            (which may be NaN there).

    >>> compare_scores([1.0, 0.0, 0.5, 9.0], [0.0, 1.0, 0.5, 0.0], [False, False, False, True]).tolist()
    [1.0, 0.0, 0.5, 0.5]
    """
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    same = np.asarray(same_tokens, dtype=bool)
    if not (a.ndim == 1 and len(a) > 0 and a.shape == b.shape == same.shape):
        raise ValueError(f"not the same prompts: shapes {a.shape}, {b.shape}, {same.shape}")
    difference = finite(np.where(same, 0.0, a - b), "score difference")
    return np.where(difference > WIN_MARGIN, 1.0, np.where(difference < -WIN_MARGIN, 0.0, 0.5))


def win_rate(
    scores_a: np.ndarray | Sequence[float],
    scores_b: np.ndarray | Sequence[float],
    same_tokens: np.ndarray | Sequence[bool],
    *,
    clusters: Sequence[object] | np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    generator: np.random.Generator,
) -> Interval:
    """How often a beats b, 0-100, ties one half, with a bootstrap interval over prompts.

    Args:
        scores_a: (N,) float, see `compare_scores`.
        scores_b: (N,) float.
        same_tokens: (N,) bool.
        clusters: (N,) labels of the prompts, where a prompt is compared more than once; None: each comparison is one.
        resamples: number of resamples.
        confidence: the share of samples whose interval should cover the truth.
        generator: where the draws come from.

    Where one side wins every comparison the interval is Wilson's, where all are ties it has no width: see
    `share_interval`.
    """
    wins = compare_scores(scores_a, scores_b, same_tokens)
    return share_interval(
        wins,
        clusters=clusters,
        resamples=resamples,
        confidence=confidence,
        generator=generator,
    )


def length_controlled_win_rate(
    wins: np.ndarray | Sequence[float], length_deltas: np.ndarray | Sequence[float], *, ridge: float = 1.0
) -> float | None:
    """The win rate, 0-100, that a logistic model expects where both responses are equally long.

    Fits P(win) = sigmoid(intercept + phi * tanh(delta / sd)) and returns 100 * sigmoid(intercept).

    Args:
        wins: (N,) float in {0, 0.5, 1}; a tie counts as half a win and half a loss.
        length_deltas: (N,) float, tokens of a's response minus tokens of b's.
        ridge: > 0, strength of the penalty ridge / 2 * phi^2 beside the summed log loss. The intercept, which is what
            is reported, is not penalised.
    Returns:
        The rate, or None where all length differences are equal (sd = 0), so that length cannot be told from the rest.
        Where one side wins every comparison the fit has no finite intercept, and its limit, 100 or 0, is returned.

    Source: Dubois et al. 2024 (arXiv 2404.04475), eq. 1. Differs: no term for the difficulty of a prompt, the win is
    the judge's verdict rather than its probability, sd is over the N comparisons (population form).
    """
    y, deltas = finite(wins, "wins"), finite(length_deltas, "length_deltas")
    if y.shape != deltas.shape:
        raise ValueError(f"{len(y)} wins but {len(deltas)} length differences")
    if not np.isin(y, (0.0, 0.5, 1.0)).all():
        raise ValueError("wins must be 0, 0.5 or 1")
    if not ridge > 0:
        raise ValueError("ridge must be above 0: without it, wins that follow length alone have no finite fit")
    if (deltas == deltas[0]).all():
        return None
    if y.min() == y.max() != 0.5:
        return 100.0 * float(y[0])
    intercept = _logistic_fit(y, np.tanh(deltas / deltas.std()), ridge)
    return 100.0 / (1.0 + math.exp(-intercept))


def _logistic_fit(y: np.ndarray, x: np.ndarray, ridge: float) -> float:
    """The intercept that minimises sum log loss + ridge / 2 * slope^2, by Newton steps, halved where they overshoot."""
    features = np.column_stack([np.ones_like(x), x])
    penalty = np.array([0.0, ridge])

    def loss(theta: np.ndarray) -> float:
        logits = features @ theta
        return float(np.sum(np.logaddexp(0.0, logits) - y * logits) + 0.5 * penalty @ theta**2)

    theta = np.zeros(2)
    current = loss(theta)
    for _ in range(NEWTON_STEPS):
        p = 0.5 * (1.0 + np.tanh(0.5 * (features @ theta)))  # sigmoid without overflow
        gradient = features.T @ (p - y) + penalty * theta
        if np.abs(gradient).max() <= 1e-10 * len(y):
            break
        hessian = features.T @ (features * (p * (1.0 - p))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        scale, slack = 1.0, 1e-12 * (1.0 + current)  # near the optimum, rounding moves the loss more than a step does
        while (proposed := loss(theta - scale * step)) > current + slack:
            scale /= 2
        theta, current = theta - scale * step, proposed
    else:
        raise ArithmeticError("the length-controlled fit did not converge")
    return float(theta[0])
