"""Intervals and win rates the slow way: one resample after another, one comparison after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from scipy import optimize, special


def drawn_indices(size: int, resamples: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[int(generator.integers(0, size)) for _ in range(size)] for _ in range(resamples)]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    rank = min(max(share * (len(sorted_values) + 1), 1), len(sorted_values))  # counted from 1
    position = rank - 1
    below = math.floor(position)
    above = min(below + 1, len(sorted_values) - 1)
    return sorted_values[below] + (position - below) * (sorted_values[above] - sorted_values[below])


def bootstrap(
    score: Callable[[list[int]], float], size: int, *, resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """``score`` maps the indices of the drawn examples to a number; the expanded percentile interval of it."""
    values = sorted(score(indices) for indices in drawn_indices(size, resamples, seed))
    t = float(special.stdtrit(size - 1, 0.5 + confidence / 2))
    tail = NormalDist().cdf(-t * math.sqrt(size / (size - 1)))
    return score(list(range(size))), percentile(values, tail), percentile(values, 1 - tail)


def jackknife(score: Callable[[list[int]], float], size: int, confidence: float = 0.95) -> tuple[float, float, float]:
    estimate = score(list(range(size)))
    without = [score([other for other in range(size) if other != left_out]) for left_out in range(size)]
    mean = sum(without) / size
    error = math.sqrt((size - 1) / size * sum((value - mean) ** 2 for value in without))
    t = float(special.stdtrit(size - 1, 0.5 + confidence / 2))
    return estimate, estimate - t * error, estimate + t * error


def share(
    outcomes: Sequence[float], clusters: Sequence[object], *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """0-100: whole clusters drawn with replacement, fewer than 5 left out in turn; Wilson where all say the same."""
    names: list[object] = []
    for name in clusters:
        if name not in names:
            names.append(name)
    members = [[value for value, owner in zip(outcomes, clusters, strict=True) if owner == name] for name in names]

    def score(drawn: list[int]) -> float:
        kept = [value for number in drawn for value in members[number]]
        return 100 * sum(kept) / len(kept)

    few = len(names) < 5
    found = jackknife(score, len(names)) if few else bootstrap(score, len(names), resamples=resamples, seed=seed)
    if found[2] - found[1] > 1e-9 or all(value == 0.5 for value in outcomes):
        return found[0], max(found[1], 0.0), min(found[2], 100.0)
    size = len(outcomes) ** 2 / sum(len(group) ** 2 for group in members)
    # The roots of (share - p)² = z² p (1 - p) / n in p: Wilson 1927.
    p, z = found[0] / 100, NormalDist().inv_cdf(0.975)
    roots = np.roots([1 + z**2 / size, -(2 * p + z**2 / size), p**2])
    return found[0], 100 * float(min(roots.real)), 100 * float(max(roots.real))


def win_rate(scores_a: Sequence[float], scores_b: Sequence[float], same: Sequence[bool]) -> float:
    points = 0.0
    for a, b, equal in zip(scores_a, scores_b, same, strict=True):
        if equal or abs(a - b) <= 1e-6:
            points += 0.5
        elif a > b:
            points += 1.0
    return 100 * points / len(scores_a)


def length_controlled(wins: Sequence[float], deltas: Sequence[float], ridge: float) -> float:
    mean = sum(deltas) / len(deltas)
    sd = math.sqrt(sum((delta - mean) ** 2 for delta in deltas) / len(deltas))

    def loss(theta: np.ndarray) -> float:
        total = 0.5 * ridge * theta[1] ** 2
        for win, delta in zip(wins, deltas, strict=True):
            logit = theta[0] + theta[1] * math.tanh(delta / sd)
            total += win * np.logaddexp(0, -logit) + (1 - win) * np.logaddexp(0, logit)
        return float(total)

    best = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13})
    return 100 / (1 + math.exp(-best.x[0]))
