"""Win rates against hand counts, naive loops and a general optimiser."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evaluation.wins import compare_scores, length_controlled_win_rate, win_rate

NONE_SAME = np.zeros(4, dtype=bool)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_wins_losses_and_ties_by_hand() -> None:
    scores_a = [1.0, 0.0, 2e-6, 5e-7, -5e-7, np.nan, 7.0]
    scores_b = [0.0, 1.0, 0.0, 0.0, 0.0, np.nan, 0.0]
    same = [False, False, False, False, False, True, True]
    assert compare_scores(scores_a, scores_b, same).tolist() == [1.0, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def test_identical_policies_are_an_even_match() -> None:
    scores = rng().normal(size=30)
    assert win_rate(scores, scores, np.zeros(30, dtype=bool), generator=rng()) == (50, 50, 50)
    assert win_rate(scores, scores + 1, np.ones(30, dtype=bool), generator=rng()) == (50, 50, 50)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.booleans()), min_size=2, max_size=20))
def test_win_rate_is_the_naive_count_and_turns_over(
    naive_statistics: ModuleType, rows: list[tuple[float, float, bool]]
) -> None:
    scores_a, scores_b, same = (list(column) for column in zip(*rows, strict=True))
    found = win_rate(scores_a, scores_b, same, resamples=30, generator=rng())
    turned = win_rate(scores_b, scores_a, same, resamples=30, generator=rng())
    assert found.estimate == pytest.approx(naive_statistics.win_rate(scores_a, scores_b, same))
    assert turned == pytest.approx((100 - found.estimate, 100 - found.high, 100 - found.low), abs=1e-9)
    assert 0 <= found.low <= found.high <= 100


def test_scores_that_miss_or_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        compare_scores([np.nan], [0.0], [False])
    with pytest.raises(ValueError, match="not the same prompts"):
        compare_scores([1.0, 2.0], [0.0], [False])


def test_length_controlled_rate_equals_a_general_optimiser(naive_statistics: ModuleType) -> None:
    generator = rng()
    for ridge in (0.1, 1.0, 10.0):
        deltas = generator.integers(-9, 15, size=40).astype(float)
        wins = generator.choice([0.0, 0.5, 1.0], size=40, p=[0.3, 0.2, 0.5])
        expected = naive_statistics.length_controlled(wins.tolist(), deltas.tolist(), ridge)
        assert length_controlled_win_rate(wins, deltas, ridge=ridge) == pytest.approx(expected, abs=1e-5)


def test_length_controlled_rate_without_a_length_effect_is_the_raw_rate() -> None:
    # three wins of four at either length: phi = 0 solves it, and sigmoid(intercept) = 3/4
    wins, deltas = [1, 1, 1, 0, 1, 1, 1, 0], [-2, -2, -2, -2, 2, 2, 2, 2]
    assert length_controlled_win_rate(wins, deltas) == pytest.approx(75, abs=1e-8)


def test_length_controlled_rate_takes_away_what_length_won() -> None:
    generator = rng()
    deltas = generator.normal(5, 5, size=4000)
    wins = (generator.random(4000) < 1 / (1 + np.exp(-3 * np.tanh(deltas / deltas.std())))).astype(float)
    assert 100 * wins.mean() > 75
    assert length_controlled_win_rate(wins, deltas) == pytest.approx(50, abs=5)


@pytest.mark.parametrize(
    ("wins", "deltas", "expected"),
    [
        ([1, 0, 1], [3, 3, 3], None),
        ([1, 0, 1], [0, 0, 0], None),
        ([1, 1], [0, 1], 100.0),
        ([0, 0], [0, 1], 0.0),
        ([0.5, 0.5], [0, 1], 50.0),
        ([0, 1], [-1, 1], 50.0),  # the longer one always wins: all of it is put down to length
    ],
)
def test_length_controlled_rate_of_degenerate_cases(
    wins: list[float], deltas: list[float], expected: float | None
) -> None:
    found = length_controlled_win_rate(wins, deltas)
    assert found is expected or found == pytest.approx(expected, abs=1e-8)


def test_length_controlled_rate_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ValueError, match=r"0, 0\.5 or 1"):
        length_controlled_win_rate([0.7, 0.2], [0, 1])
    with pytest.raises(ValueError, match="ridge"):
        length_controlled_win_rate([1, 0], [0, 1], ridge=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500)), min_size=2, max_size=30))
def test_length_controlled_rate_turns_over_with_the_sides(rows: list[tuple[float, int]]) -> None:
    wins, deltas = np.array(rows).T
    found, turned = length_controlled_win_rate(wins, deltas), length_controlled_win_rate(1 - wins, -deltas)
    if found is None:
        assert turned is None
    else:
        assert found == pytest.approx(100 - turned, abs=1e-4)
