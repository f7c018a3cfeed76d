"""Best-of-n by its closed form, against all choices written out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reward_bench.best_of_n import Pool, best_of_n_gain, expected_best, pools


def naive(scores: list[int], quality: list[float], n: int) -> float:
    """Every choice of n, the best of each (the mean of the best ones at a tie), averaged."""
    values = []
    for rows in combinations(range(len(scores)), n):
        top = max(scores[row] for row in rows)
        best = [quality[row] for row in rows if scores[row] == top]
        values.append(sum(best) / len(best))
    return sum(values) / len(values)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=4, max_size=7))
def test_the_closed_form_is_the_mean_over_all_choices(responses: list[tuple[int, float]]) -> None:
    scores, quality = map(list, zip(*responses, strict=True))
    for n in (1, 2, 3, 4):
        found = expected_best(Pool(np.array(scores, float), np.array(quality)), n)
        assert found == pytest.approx(naive(scores, quality, n))


def test_a_pool_holds_each_response_once() -> None:
    """x is chosen over y and over z, and y over z; scores of one text are equal."""
    found = pools(["q", "q", "q"], ["x", "x", "y"], ["y", "z", "z"], np.array([3.0, 3.0, 2.0, 2.0, 1.0, 1.0]))
    assert found["q"].scores.tolist() == [3.0, 2.0, 1.0]
    assert found["q"].quality.tolist() == [1.0, 0.5, 0.0]


def test_gain_of_a_perfect_and_of_a_blind_reward_model() -> None:
    """Two chosen and two rejected: a random answer is good half the time, the best of two 5 times in 6."""
    prompts = [name for name in "abc" for _ in range(2)]
    chosen, rejected = [f"good {i}" for i in range(6)], [f"bad {i}" for i in range(6)]
    for scores, best in ((np.repeat([1.0, 0.0], 6), 100 * 5 / 6), (np.zeros(12), 50.0)):
        found = pools(prompts, chosen, rejected, scores)
        (row,) = best_of_n_gain(found, [2, 8], resamples=100, generator=np.random.default_rng(0))
        assert (row["n"], row["prompts"], row["random"]) == (2, 3, 50.0)
        assert row["best"] == pytest.approx(best)
        assert row["gain"]["estimate"] == pytest.approx(best - 50)
        assert row["oracle"] == pytest.approx(100 * 5 / 6)


def test_single_pairs_have_no_best_of_n() -> None:
    found = pools(["a", "b"], ["x", "x"], ["y", "y"], np.zeros(4))
    assert best_of_n_gain(found, [2], resamples=100, generator=np.random.default_rng(0)) == []
