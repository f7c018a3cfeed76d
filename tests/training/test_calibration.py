from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.training.calibration import (
    confidence,
    expected_calibration_error,
    length_correlation,
    reliability_table,
)

quick = settings(max_examples=60, deadline=None)


def accuracy(margins, **options):
    return confidence(margins, **options).outcomes.mean()


def test_accuracy_counts_ties_one_half():
    assert accuracy([3.0, 0.5, -1.0, 0.0, 5e-7, -5e-7]) == pytest.approx((2 + 3 * 0.5) / 6)
    assert accuracy([3.0, 0.5, -1.0, 0.0], tolerance=1.0) == pytest.approx((1 + 3 * 0.5) / 4)
    assert accuracy([0.0, 0.0]) == 0.5


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_swapping_the_sides_mirrors_the_accuracy(margins):
    assert accuracy(margins) + accuracy([-m for m in margins]) == pytest.approx(1.0)


def test_confidence_speaks_for_the_preferred_side():
    probabilities, outcomes = confidence([math.log(3), -math.log(3), 0.0, 800.0])
    assert probabilities.tolist() == pytest.approx([0.75, 0.75, 0.5, 1.0])
    assert outcomes.tolist() == [1.0, 0.0, 0.5, 1.0]


@quick
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40), st.integers(1, 12)
)
def test_calibration_error_equals_the_naive_loop(naive, pairs, bins):
    predicted, happened = [p for p, _ in pairs], [y for _, y in pairs]
    expected = naive.expected_calibration_error(predicted, happened, bins)
    assert expected_calibration_error(predicted, happened, bins) == pytest.approx(expected, abs=1e-12)
    assert sum(row.n for row in reliability_table(predicted, happened, bins)) == len(pairs)


def test_calibration_error_by_hand():
    # bin [0, .5): mean p 0.2 against 0.5; bin [.5, 1]: mean p 0.9 against 2/3
    predicted, happened = [0.1, 0.3, 0.8, 0.9, 1.0], [0, 1, 1, 0, 1]
    assert expected_calibration_error(predicted, happened, bins=2) == pytest.approx(0.4 * 0.3 + 0.6 * (0.9 - 2 / 3))
    low, high = reliability_table(predicted, happened, bins=2)
    assert (low.low, low.high, low.n, high.low, high.high, high.n) == (0.0, 0.5, 2, 0.5, 1.0, 3)
    assert (low.probability, low.outcome) == pytest.approx((0.2, 0.5))
    assert (high.probability, high.outcome) == pytest.approx((0.9, 2 / 3))


def test_edges_belong_to_the_bin_above_and_empty_bins_say_so():
    table = reliability_table([k / 10 for k in range(11)], [1.0] * 11, bins=10)
    assert [row.n for row in table] == [1] * 9 + [2]
    assert reliability_table([0.9], [1], bins=2)[0][2:] == (0, None, None)


def test_honest_probabilities_have_a_small_error_and_doubled_margins_a_large_one():
    rng = np.random.default_rng(0)
    margins = rng.normal(0.0, 1.5, 40_000)
    wins = rng.random(40_000) < 1 / (1 + np.exp(-margins))
    signed = np.where(wins, margins, -margins)  # chosen minus rejected, labels drawn by Bradley-Terry
    assert expected_calibration_error(*confidence(signed)) < 0.01
    assert expected_calibration_error(*confidence(3.0 * signed)) > 0.08


@quick
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(1, 6)), min_size=2, max_size=30))
def test_length_correlation_is_spearmans(pairs):
    scores, lengths = [float(s) for s, _ in pairs], [n for _, n in pairs]
    ours = length_correlation(scores, lengths)
    if len(set(scores)) == 1 or len(set(lengths)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(stats.spearmanr(scores, lengths).statistic, abs=1e-12)


def test_only_the_order_counts():
    lengths = np.array([3, 8, 2, 9, 5])
    assert length_correlation(np.exp(lengths), lengths) == pytest.approx(1.0)
    assert length_correlation(-(lengths.astype(float) ** 3), lengths) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: confidence([]),
        lambda: confidence([math.nan]),
        lambda: confidence([[1.0]]),
        lambda: reliability_table([0.5], [1, 0]),
        lambda: reliability_table([1.5], [1]),
        lambda: reliability_table([0.5], [1], bins=0),
        lambda: length_correlation([1.0], [1, 2]),
    ],
)
def test_senseless_input_is_refused(call):
    with pytest.raises(ValueError, match=r"must be|numbers|outcomes|lengths"):
        call()
