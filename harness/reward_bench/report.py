"""The report on an examined reward model: accuracy, by subset, calibration, length, order, best-of-n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.evaluation.shares import share_interval
from harness.reward_bench.best_of_n import best_of_n_gain, pools
from harness.reward_bench.preferences import Preferences, words
from harness.reward_bench.verdicts import Verdicts
from harness.training.calibration import confidence
from harness.training.preferences import report_card
from harness.types import PairExample

SEED = 0
"""Of the bootstrap."""


def report(found: Preferences, verdicts: Verdicts, *, counts: Sequence[int], resamples: int) -> dict[str, Any]:
    """All that is measured. Accuracies, shares and qualities are 0-100; lengths are in words.

    The report card's ``ece`` and ``reliability`` read the margin as Bradley–Terry does; a judge that compares without
    scoring states no probability, so they are None there, and ``length_correlation`` is that of its votes.

    Args:
        found: N pairs, with their prompts and subsets.
        verdicts: what was said of them.
        counts: values of n for best-of-n.
        resamples: of the bootstrap over prompts.
    """
    lengths = np.array([words(pair.chosen) for pair in found.pairs] + [words(pair.rejected) for pair in found.pairs])
    margins, scores = verdicts.margins, verdicts.scores
    card = report_card(
        margins,
        np.concatenate([margins, -margins]) if scores is None else scores,
        lengths,
        oracle=None,
        clusters=found.prompts,
        seed=SEED,
        resamples=resamples,
    )
    if scores is None:
        card |= {"ece": None, "reliability": None}
    right = confidence(margins).outcomes
    generator = np.random.default_rng(SEED)
    gains: list[dict[str, Any]] = []
    if scores is not None:
        chosen, rejected = [pair.chosen for pair in found.pairs], [pair.rejected for pair in found.pairs]
        pooled = pools(found.prompts, chosen, rejected, scores)
        gains = best_of_n_gain(pooled, counts, resamples=resamples, generator=generator)
    return {
        **card,
        "subsets": {
            name: _accuracy(right, rows, found.prompts, resamples, generator) for name, rows in found.subsets.items()
        },
        "longer": longer(found.pairs, margins),
        "flip_rate": None
        if verdicts.flips is None
        else share_interval(verdicts.flips, clusters=found.prompts, resamples=resamples, generator=generator)._asdict(),
        "best_of_n": gains,
        **verdicts.facts,
    }


def _accuracy(
    right: np.ndarray, rows: Sequence[int], prompts: Sequence[str], resamples: int, generator: np.random.Generator
) -> dict[str, Any]:
    """A subset's accuracy; without an interval where all its pairs are of one prompt.

    Args:
        right: (N,) 1 where the verdict on a pair is the label's, 0 where not, one half at a tie.
        rows: of the pairs in the subset.
        prompts: (N,) each pair's.
        resamples, generator: of the bootstrap over prompts.
    """
    clusters = [prompts[row] for row in rows]
    counts, values = {"pairs": len(rows), "prompts": len(set(clusters))}, right[list(rows)]
    if counts["prompts"] < 2:
        return {**counts, "accuracy": {"estimate": float(100 * values.mean()), "low": None, "high": None}}
    interval = share_interval(values, clusters=clusters, resamples=resamples, generator=generator)
    return {**counts, "accuracy": interval._asdict()}


def longer(pairs: Sequence[PairExample], margins: np.ndarray) -> dict[str, Any]:
    """How often the longer answer is preferred (0-100), by the reward model and by the labels; ties count one half.

    Args:
        pairs: N pairs; those of equal length do not count.
        margins: (N,) chosen minus rejected.
    """
    difference = np.array([words(pair.chosen) - words(pair.rejected) for pair in pairs])
    unequal = difference != 0
    if not unequal.any():
        return {"pairs": 0, "preferred": None, "labelled": None}
    right, labelled = confidence(margins).outcomes[unequal], difference[unequal] > 0
    preferred = np.where(labelled, right, 1 - right)
    return {
        "pairs": int(unequal.sum()),
        "preferred": float(100 * preferred.mean()),
        "labelled": float(100 * labelled.mean()),
    }
