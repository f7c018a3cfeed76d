"""Intervals of shares (win rates, accuracies), of which several outcomes may come from one prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from harness.evaluation.statistics import Labels, mean_interval
from harness.types import Interval

TIE = 0.5
"""The outcome of a comparison that neither side wins."""
ROUNDING = 1e-9
"""Of the ends of an interval, in points: equal shares of prompts that are left out in turn may differ by as much."""


def share_interval(
    outcomes: np.ndarray | Sequence[float],
    *,
    clusters: Labels | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    generator: np.random.Generator,
) -> Interval:
    """The share of comparisons that went one way, 0-100, with its interval over prompts.

    Whole prompts are resampled (left out in turn where they are few), each with all its outcomes. Where every resample
    gives one share (all were won, or all lost), there is nothing for the bootstrap to vary, and an interval without a
    width would be a claim that no number of prompts can bear: there Wilson's interval stands in. It counts prompts, not
    outcomes: how alike those of one prompt are cannot be seen where all are alike, so they are taken to say one thing
    (``effective_size``). Where every outcome is a tie the interval keeps its width of 0: a policy is no better and no
    worse than itself.

    Args:
        outcomes: (N,) float: 1 for, 0 against, one half for a tie.
        clusters, resamples, confidence, generator: those of ``mean_interval``, which gives the interval elsewhere.

    Raises:
        ValueError: there are fewer than two prompts, or an outcome is not from 0 to 1.

    Source: Cameron, Gelbach and Miller 2008 (pairs cluster bootstrap); Wilson 1927, with the effective sample size in
    place of n as Korn and Graubard 1998 do ("Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", in the exact interval).

    >>> share_interval([1, 1, 1, 1], clusters=["p", "p", "q", "q"], generator=np.random.default_rng(0)).low < 50
    True
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("outcomes must be from 0 to 1")
    found = mean_interval(
        100 * values, clusters=clusters, resamples=resamples, confidence=confidence, generator=generator
    )
    if found.high - found.low > ROUNDING or (values == TIE).all():
        # Of few prompts it is a t interval, which knows no bounds: cutting it at those of a share loses no coverage.
        return Interval(found.estimate, max(found.low, 0.0), min(found.high, 100.0))
    size = float(len(values)) if clusters is None else effective_size(clusters)
    wilson = wilson_interval(found.estimate / 100, size, confidence=confidence)
    return Interval(found.estimate, 100 * wilson.low, 100 * wilson.high)


def effective_size(clusters: Labels) -> float:
    """To how many independent values N values come if those of one cluster are all equal: (sum m)² / (sum m²).

    That is N over the design effect 1 + (m̄ - 1) rho at rho = 1, the largest that it can be, with m̄ = sum m² / sum m
    for clusters of m values each. Clusters of one size count as one value each, a large one among small ones as less.

    Args:
        clusters: (N,) labels, equal where values belong together; at least one.

    Source: Kish 1965, "Survey Sampling": the design effect of clusters, and the effective size under unequal weights.

    >>> effective_size(["p", "q", "r"]), effective_size(["p", "p", "q", "q"]), effective_size(["p", "p", "p", "q"])
    (3.0, 2.0, 1.6)
    """
    sizes = Counter(clusters).values()
    return sum(sizes) ** 2 / sum(size**2 for size in sizes)


def wilson_interval(share: float, count: float, *, confidence: float = 0.95) -> Interval:
    """The interval of a share of independent trials: it has a width where all of them ended alike.

    Args:
        share: 0 to 1, of the trials that succeeded.
        count: of the trials, above 0; need not be whole (``effective_size``).
        confidence: the share of samples whose interval should cover the truth.

    Raises:
        ValueError: there are no trials, or ``share`` is none.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    >>> wilson_interval(1.0, 2).low < 0.5 < wilson_interval(1.0, 4).low
    True
    """
    from scipy import stats

    if not (count > 0 and 0 <= share <= 1):
        raise ValueError(f"no share of trials: {share} of {count}")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    # Rounding may put an end a little beyond the share where that is 0 or 1.
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share))
