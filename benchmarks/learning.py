"""Whether two sides learn the same: their finished models, measured by one yardstick on what neither has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean as mean
from statistics import pvariance
from typing import Any, NamedTuple

from benchmarks.materials import Rows
from harness.evaluation.statistics import t_quantile
from harness.hardware import Hardware

CPU = Hardware("cpu", "fp32", 1)
TOLERANCE = 0.03
"""A difference below this share of what was learned counts as none, however close the seeds lie together."""


class Learned(NamedTuple):
    """One quantity of the models that each side finished, a value per seed.

    Args:
        name: what was measured.
        start: of the model that both began with.
        ours, theirs: of what they made of it.
        higher_is_better: else lower is.
    """

    name: str
    start: float
    ours: Sequence[float]
    theirs: Sequence[float]
    higher_is_better: bool

    @property
    def gains(self) -> tuple[list[float], list[float]]:
        """How much better than the start each finished model is, ours and theirs; below 0: worse."""
        sign = 1 if self.higher_is_better else -1
        ours, theirs = ([sign * (value - self.start) for value in side] for side in (self.ours, self.theirs))
        return ours, theirs

    @property
    def lead(self) -> float:
        """How much better our mean is; below 0: worse."""
        ours, theirs = self.gains
        return mean(ours) - mean(theirs)

    @property
    def spread(self) -> float:
        """What the seed alone changes: the wider of both ranges; with one seed there is none."""
        return max(max(side) - min(side) for side in (self.ours, self.theirs))

    @property
    def noise(self) -> float:
        """How far apart the means of two sides that learn the same lie by their seeds alone, in 95 of 100 comparisons.

        Half of the interval of a difference of two means, with one variance for both (Student's t). The few seeds of a
        comparison know their own variance badly, which the quantile of t makes up for.
        """
        sides = (self.ours, self.theirs)
        freedom = sum(map(len, sides)) - 2
        if freedom < 1:
            return math.nan
        pooled = sum(len(side) * pvariance(side) for side in sides) / freedom
        return t_quantile(freedom, 0.95) * math.sqrt(pooled * sum(1 / len(side) for side in sides))

    @property
    def verdict(self) -> str:
        """Whether both sides learn the same.

        ``unknown`` with one seed, which has no spread; ``void`` unless on both sides the worst seed has gained more
        than the spread, as nothing can be said of sides that learn nothing; ``less`` (of ours) where we are behind by
        more than the seeds alone explain, and by more than 3 % of what they learned; ``more`` likewise; else ``same``.
        """
        if min(map(len, self.gains)) < 2:
            return "unknown"
        if not all(gain > self.spread for side in self.gains for gain in side):  # nor is what is no number a gain
            return "void"
        if abs(self.lead) <= max(self.noise, TOLERANCE * mean(self.gains[1])):
            return "same"
        return "more" if self.lead > 0 else "less"

    def row(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "lead": self.lead,
            "spread": self.spread,
            "noise": self.noise if math.isfinite(self.noise) else None,
            "verdict": self.verdict,
        }


def held_out_loss(folder: Path, rows: Rows) -> float:
    """Nats per token of texts, the first token aside."""
    from harness.models.loading import load_language_model
    from harness.training.language_model import TokenExample, validation_loss

    examples = [TokenExample(row["input_ids"][:1], row["input_ids"][1:]) for row in rows]
    return validation_loss(load_language_model(folder), examples, CPU, batch_size=32)


def held_out_preference_loss(folder: Path, rows: Rows) -> float:
    """Bradley–Terry loss of pairs, in nats: ln 2 of a model that tells nothing apart."""
    import numpy as np

    from harness.models.loading import load_scorer
    from harness.models.scorer import Scorer

    scorer = Scorer(*load_scorer(folder), CPU)
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (
        scorer.scores(prompts, [row[side] for row in rows], batch_size=32) for side in ("chosen", "rejected")
    )
    return float(np.logaddexp(0.0, rejected - chosen).mean())


def sampled_score(folder: Path, reward_model: Path, rows: Rows, *, tokens: int, temperature: float) -> float:
    """Mean score of a policy's responses to prompts, each as long as the limit; every policy draws the same numbers.

    Args:
        folder: the policy's.
        reward_model: folder of the reward model that scores them.
        rows: the prompts, as token ids under ``input_ids``.
        tokens: of each response: no token ends it.
        temperature: of sampling.
    """
    from harness.models.loading import load_language_model
    from harness.models.scorer import Scorer
    from harness.rollouts.sampler import Sampling, sample

    lm, scorer = load_language_model(folder), Scorer.load(reward_model, CPU)
    prompts = [row["input_ids"] for row in rows]
    settings = Sampling(tokens, temperature=temperature, batch_size=128)
    rollout = sample(lm.model, prompts, settings, eos_id=-1, pad_id=lm.codec.pad_id, seed=0)
    return float(scorer.scores(prompts, rollout.tokens, batch_size=64).mean())


def compare(
    name: str,
    measure: Callable[[Path], float],
    start: Path | float,
    finished: Mapping[str, Sequence[Path]],
    *,
    higher_is_better: bool,
) -> Learned:
    """Measure the start and every finished model.

    Args:
        name: of the quantity.
        measure: it, of the model in a folder.
        start: the model that both sides began with, or its quantity where that is known.
        finished: side -> a folder per seed, ours first, theirs second.
        higher_is_better: which way the quantity goes as a model learns.
    """
    ours, theirs = ([measure(folder) for folder in folders] for folders in finished.values())
    begun = start if isinstance(start, float) else measure(start)
    return Learned(name, begun, ours, theirs, higher_is_better)
