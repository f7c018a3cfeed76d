"""Proxy, judge and gold against √KL: where optimising the proxy stops paying.

Source: Gao et al. 2022 (arXiv 2210.10760), which plots scores over the square root of the KL from the initial policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.context import Job
from harness.evaluation.answers import gold_scores, samples_per_prompt
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.types import Example

Point = dict[str, Any]


def probe_curve(
    job: Job, probes: Sequence[Mapping[str, Any]], judge: Scorer | None, held_out: Sequence[Example]
) -> list[Point]:
    """Points of ``proxy``, ``gold`` and ``judge`` over the probes that training kept.

    Args:
        job: for the judge's prompts.
        probes: lines of ``probes.jsonl``.
        judge: None: there are no points of its own.
        held_out: the examples that the probes answered, and any that follow.
    Returns: ``series``, ``sqrt_kl`` (KL in nats) and ``value`` (a mean over responses) each.
    """
    points: list[Point] = []
    for probe in probes:
        root = math.sqrt(max(probe["kl"], 0.0))
        points += [point(name, root, probe[name]) for name in ("proxy", "gold") if probe[name] is not None]
        if judge is not None:
            examples = held_out[: len(probe["responses"])]
            prompts, _ = job.prompts(examples, judge.codec)
            scores = judge.score_texts(prompts, probe["responses"], ended=probe["ended"])
            points.append(point("judge", root, float(scores.mean())))
    return points


def best_of_n_curve(
    job: Job, policy: LanguageModel, reward: Scorer, judge: Scorer | None, examples: Sequence[Example], *, seed: int
) -> list[Point]:
    """Points of ``bon_proxy``, ``bon_gold`` and ``bon_judge`` over n, at KL = log n − (n − 1)/n.

    Args:
        job: with ``evaluation.curve_best_of``, the values of n.
        policy: the SFT policy, which is sampled as in training, as often as the largest n says.
        reward: who chooses; it reads the policy's tokens.
        judge: None: there are no points of its own.
        examples: held out.
        seed: of the samples.
    Returns: as ``probe_curve``; nothing where there are no examples or no n.
    Source of the KL: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; an upper bound where responses repeat.
    """
    counts = job.config.evaluation.curve_best_of
    if not counts or not examples:
        return []
    most = max(counts)
    prompts, rollout = samples_per_prompt(job, policy, examples, most, seed=seed)
    responses = policy.codec.decode(rollout.tokens)
    series = {"bon_proxy": reward.scores(prompts, rollout.tokens)}
    repeated = [example for example in examples for _ in range(most)]
    gold = gold_scores(job, repeated, responses)
    if gold:
        series["bon_gold"] = gold["gold"]
    proxy = series["bon_proxy"].reshape(-1, most)
    chosen_of = {count: np.arange(len(proxy)) * most + proxy[:, :count].argmax(1) for count in counts}
    if judge is not None:  # of the responses that are some count's best, the others have no place in the curve
        rows = np.unique(np.concatenate(list(chosen_of.values())))
        texts, _ = job.prompts(examples, judge.codec)
        series["bon_judge"] = np.full(len(responses), np.nan)
        series["bon_judge"][rows] = judge.score_texts(
            [texts[row // most] for row in rows],
            [responses[row] for row in rows],
            ended=[rollout.ended[row] for row in rows],
        )
    points: list[Point] = []
    for count, chosen in chosen_of.items():
        root = math.sqrt(math.log(count) - (count - 1) / count)
        points += [point(name, root, float(values[chosen].mean())) for name, values in series.items()]
    return points


def point(series: str, sqrt_kl: float, value: float) -> Point:
    """One point, as the record keeps it."""
    return {"series": series, "sqrt_kl": sqrt_kl, "value": value}
