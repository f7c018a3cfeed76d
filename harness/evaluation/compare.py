"""Two policies on the same prompts: every metric before and after, its change, and the intervals of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.evaluation.scored import mean_scored
from harness.evaluation.statistics import Contrast, bootstraps
from harness.types import Interval, Metric, Outputs, Scored

Row = dict[str, float | str | None]
Extra = tuple[np.ndarray | Sequence[float] | None, np.ndarray | Sequence[float]]


class Comparison(NamedTuple):
    """What `compare` found, ready for JSON.

    metrics: name -> ``before, after, delta, low, high, after_low, after_high, signature``. low and high bound the
        delta. None: there is no ``before``, or a single prompt, which has no interval.
    per_example: name -> ``before`` (or None) and ``after``, one number per prompt.
    """

    metrics: dict[str, Row]
    per_example: dict[str, dict[str, list[float] | None]]


def compare(
    before: Outputs | None,
    after: Outputs,
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[Metric],
    extra: Mapping[str, Extra] | None = None,
    clusters: Sequence[object] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    generator: np.random.Generator,
) -> Comparison:
    """Score both policies' outputs with every metric, paired by prompt.

    Args:
        before: what the first policy answered; None for a fixed row, which has nothing before it.
        after: what the second policy answered to the same N prompts.
        references: N lists.
        metrics: how to score the texts.
        extra: name -> (before or None, after), (N,) numbers that are known already and averaged (gold scores).
        clusters: N labels, equal where two prompts are one, which is then drawn with both; None: all differ.
        resamples: number of bootstrap resamples.
        confidence: the share of samples whose interval should cover the truth.
        generator: where the draws come from; one draw is taken from it, and every metric is judged on the same
            resamples, so that its intervals do not depend on which other metrics were asked for.
    Raises:
        ValueError: where the numbers of prompts differ, or a name occurs twice.
    """
    pairs = _scored_pairs(before, after, references, metrics)
    for name, (values_before, values_after) in (extra or {}).items():
        first = None if values_before is None else mean_scored(name, values_before, signature="agg:mean")
        _add(pairs, name, first, mean_scored(name, values_after, signature="agg:mean"))
    has_interval = (len(after.responses) if clusters is None else len(set(clusters))) > 1
    contrasts: dict[tuple[str, str], Contrast] = {}
    for name, (scored_before, scored_after) in pairs.items() if has_interval else ():
        contrasts[name, "after"] = [(1.0, scored_after)]
        if scored_before is not None:
            contrasts[name, "change"] = [(1.0, scored_after), (-1.0, scored_before)]
    drawing: dict[str, Any] = {"clusters": clusters, "resamples": resamples, "confidence": confidence}
    draws = np.random.default_rng(int(generator.integers(2**63)))
    intervals = dict(zip(contrasts, bootstraps(list(contrasts.values()), generator=draws, **drawing), strict=True))
    rows, per_example = {}, {}
    for name, (scored_before, scored_after) in pairs.items():
        if len(scored_after.per_example) != len(after.responses):
            raise ValueError(f"{name}: {len(scored_after.per_example)} values for {len(after.responses)} prompts")
        found = intervals.get((name, "change")), intervals.get((name, "after"))
        rows[name] = _row(scored_before, scored_after, *found)
        per_example[name] = {
            "before": None if scored_before is None else [float(value) for value in scored_before.per_example],
            "after": [float(value) for value in scored_after.per_example],
        }
    return Comparison(rows, per_example)


def _scored_pairs(
    before: Outputs | None, after: Outputs, references: Sequence[Sequence[str]], metrics: Sequence[Metric]
) -> dict[str, tuple[Scored | None, Scored]]:
    pairs: dict[str, tuple[Scored | None, Scored]] = {}
    for metric in metrics:
        scored_before = None if before is None else metric.scored(before.responses, references)
        for name, scored_after in metric.scored(after.responses, references).items():
            _add(pairs, name, None if scored_before is None else scored_before[name], scored_after)
    return pairs


def _add(pairs: dict[str, tuple[Scored | None, Scored]], name: str, before: Scored | None, after: Scored) -> None:
    if name in pairs:
        raise ValueError(f"two metrics are called {name}")
    pairs[name] = (before, after)


def _row(before: Scored | None, after: Scored, change: Interval | None, alone: Interval | None) -> Row:
    """One metric's cells; intervals are None where a single prompt has none, or there is nothing before."""
    value_after = float(after.score()[0])
    value_before = None if before is None else float(before.score()[0])
    return {
        "before": value_before,
        "after": value_after,
        "delta": None if value_before is None else value_after - value_before,
        "low": None if change is None else change.low,
        "high": None if change is None else change.high,
        "after_low": None if alone is None else alone.low,
        "after_high": None if alone is None else alone.high,
        "signature": after.signature,
    }
