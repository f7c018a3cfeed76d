"""What choosing the best of n responses by a reward model is worth, exactly, from pairs that share their prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np


class Pool(NamedTuple):
    """The distinct responses to one prompt.

    Args:
        scores: (M,) the reward model's.
        quality: (M,) the share of its pairs in which a response was the chosen one, 0 to 1.
    """

    scores: np.ndarray
    quality: np.ndarray


def pools(
    prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str], scores: np.ndarray
) -> dict[str, Pool]:
    """Prompt -> its pool.

    Args:
        prompts: (N,) each pair's prompt.
        chosen, rejected: (N,) the texts; one may be in several pairs.
        scores: (2N,) float, those of the chosen responses first.
    """
    said: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row, prompt in enumerate(prompts):
        responses = said.setdefault(prompt, {})
        responses.setdefault(chosen[row], []).append((float(scores[row]), 1.0))
        responses.setdefault(rejected[row], []).append((float(scores[len(prompts) + row]), 0.0))
    return {
        prompt: Pool(*np.array([np.mean(seen, axis=0) for seen in responses.values()]).T)
        for prompt, responses in said.items()
    }


def expected_best(pool: Pool, n: int) -> float:
    """Mean quality of the response with the highest score among n of the pool, over all choices of n.

    Of m responses, l with a lower score and g equal to it: the best of n lies in that group in C(l + g, n) - C(l, n)
    of the C(m, n) choices, and each of the group is then equally likely.

    >>> expected_best(Pool(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])), 2)
    0.6666666666666666
    """
    total, below = 0.0, 0
    for score in np.unique(pool.scores):
        group = pool.quality[pool.scores == score]
        ways = comb(below + len(group), n) - comb(below, n)
        total += ways * float(group.mean())
        below += len(group)
    return total / comb(len(pool.scores), n)


def best_of_n_gain(
    found: Mapping[str, Pool], counts: Sequence[int], *, resamples: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """For each n: mean quality (0-100) of a random response, of the best of n, of an oracle's, and the gain.

    Prompts with fewer than n responses do not count for n, and none with two alone does: there best-of-two is the
    accuracy again. An n that too few prompts can serve is left out.

    Args:
        found: prompt -> its pool.
        counts: values of n.
        resamples: of the bootstrap over prompts, which gives the gain's interval.
        generator: where the draws come from.
    """
    from harness.evaluation.statistics import mean_interval

    rows = []
    for n in counts:
        served = [pool for pool in found.values() if len(pool.scores) >= max(n, 3)]
        if len(served) < 2:
            continue
        random = np.array([100 * pool.quality.mean() for pool in served])
        best = np.array([100 * expected_best(pool, n) for pool in served])
        oracle = np.array([100 * expected_best(Pool(pool.quality, pool.quality), n) for pool in served])
        gain = mean_interval(best - random, resamples=resamples, generator=generator)
        rows.append(
            {
                "n": n,
                "prompts": len(served),
                "random": float(random.mean()),
                "best": float(best.mean()),
                "oracle": float(oracle.mean()),
                "gain": gain._asdict(),
            }
        )
    return rows
