"""Intervals against naive loops, closed forms, and their stated coverage."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.evaluation.scored import SummedScored, mean_scored, ratio_of_sums
from harness.evaluation.statistics import (
    bootstrap,
    is_plug_in,
    jackknife_interval,
    leave_one_out_weights,
    mean_interval,
    paired_bootstrap,
    resample_weights,
    t_interval,
)
from harness.types import Metric

Corpus = tuple[list[str], list[list[str]]]


def means(values: np.ndarray) -> SummedScored:
    return mean_scored("m", values, signature="agg:mean")


def test_weights_count_the_draws_whatever_the_block(
    naive_statistics: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [np.bincount(row, minlength=7) for row in naive_statistics.drawn_indices(7, 30, seed=1)]
    for numbers_at_once in (2**21, 50, 1):
        monkeypatch.setattr("harness.evaluation.statistics.WEIGHTS_AT_ONCE", numbers_at_once)
        blocks = list(resample_weights(7, 30, np.random.default_rng(1)))
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
        np.testing.assert_array_equal(np.concatenate(list(leave_one_out_weights(7))), 1 - np.eye(7))


def test_paired_bootstrap_equals_the_naive_loop(naive_statistics: ModuleType) -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=23), generator.normal(size=23)
    expected = naive_statistics.bootstrap(
        lambda drawn: float(np.mean([after[i] for i in drawn]) - np.mean([before[i] for i in drawn])),
        23,
        resamples=200,
        seed=5,
        confidence=0.9,
    )
    found = paired_bootstrap(
        means(before), means(after), resamples=200, confidence=0.9, generator=np.random.default_rng(5)
    )
    assert found == pytest.approx(expected, abs=1e-12)


def test_bootstrap_of_bleu_equals_rescoring_the_drawn_texts(
    metrics: dict[str, Metric], corpus: Callable[..., Corpus], naive_statistics: ModuleType
) -> None:
    outputs, refs = corpus(2, 15, 1)
    streams = [row[0] for row in refs]
    expected = naive_statistics.bootstrap(
        lambda drawn: sacrebleu.corpus_bleu([outputs[i] for i in drawn], [[streams[i] for i in drawn]]).score,
        15,
        resamples=60,
        seed=9,
    )
    found = bootstrap(metrics["bleu"].scored(outputs, refs)["bleu"], resamples=60, generator=np.random.default_rng(9))
    assert found == pytest.approx(expected, abs=1e-9)


def test_distinct_gets_the_jackknife(
    metrics: dict[str, Metric], corpus: Callable[..., Corpus], naive_statistics: ModuleType, naive_metrics: ModuleType
) -> None:
    (first, refs), (second, _) = corpus(3, 20), corpus(4, 20)
    before, after = (metrics["distinct"].scored(texts, refs)["distinct2"] for texts in (first, second))
    assert not is_plug_in(after)
    expected = naive_statistics.jackknife(
        lambda kept: (
            naive_metrics.distinct([second[i] for i in kept], 2) - naive_metrics.distinct([first[i] for i in kept], 2)
        ),
        20,
    )
    assert paired_bootstrap(before, after, generator=np.random.default_rng(0)) == pytest.approx(expected, abs=1e-9)


def test_every_other_metric_gets_the_bootstrap(metrics: dict[str, Metric], corpus: Callable[..., Corpus]) -> None:
    outputs, refs = corpus(3, 20)
    for name in ("bleu", "chrf", "rouge", "squad"):
        assert all(is_plug_in(scored) for scored in metrics[name].scored(outputs, refs).values())


def test_jackknife_of_a_mean_is_the_t_interval_of_its_values() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    without = (values.sum() - values) / 4
    assert jackknife_interval(values.mean(), without) == pytest.approx(t_interval(values), abs=1e-12)


def test_identical_outputs_have_no_change_and_no_width(
    metrics: dict[str, Metric], corpus: Callable[..., Corpus]
) -> None:
    outputs, refs = corpus(1, 30)
    for metric in metrics.values():
        for name, scored in metric.scored(outputs, refs).items():
            again = metric.scored(list(outputs), refs)[name]
            assert paired_bootstrap(scored, again, resamples=50, generator=np.random.default_rng(0)) == (0, 0, 0)


def test_same_resamples_cancel_what_both_share() -> None:
    hardness = 100 * np.random.default_rng(0).random(50)
    found = paired_bootstrap(means(hardness), means(hardness + 1), resamples=99, generator=np.random.default_rng(1))
    assert found == pytest.approx((1, 1, 1))


def test_clusters_are_drawn_whole(naive_statistics: ModuleType) -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    clusters = ["p", "q", "p", "r", "q", "s", "s", "t", "q"]
    members = {"p": [0, 2], "q": [1, 4, 8], "r": [3], "s": [5, 6], "t": [7]}

    def score(drawn: list[int]) -> float:
        kept = [values[i] for number in drawn for i in members["pqrst"[number]]]
        return float(np.mean(kept))

    expected = naive_statistics.bootstrap(score, 5, resamples=80, seed=2)
    found = mean_interval(values, clusters=clusters, resamples=80, generator=np.random.default_rng(2))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found.estimate == pytest.approx(5 / 9)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_mean_over_few_prompts_has_the_t_interval(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    generator = np.random.default_rng(0)
    found = mean_interval(values, generator=generator)
    assert found == pytest.approx(t_interval(values), abs=1e-12)
    theirs = stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_few_prompts_are_covered_too(size: int) -> None:
    data, resampling = np.random.default_rng(71), np.random.default_rng(72)
    values = data.beta(2, 3, size=(1500, size))
    found = [mean_interval(row, resamples=250, generator=resampling) for row in values]
    covered = 100 * np.mean([low <= 0.4 <= high for _, low, high in found])
    assert (90 if size == 5 else 93) <= covered <= 97


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.integers(2, 4))
def test_copies_within_a_cluster_change_nothing(values: list[float], copies: int) -> None:
    repeated = np.repeat(values, copies)
    clusters = np.repeat(np.arange(len(values)), copies)
    alone = mean_interval(values, resamples=20, generator=np.random.default_rng(0))
    found = mean_interval(repeated, clusters=clusters, resamples=20, generator=np.random.default_rng(0))
    assert found == pytest.approx(alone, abs=1e-9)
    assert alone.low <= alone.high


@pytest.mark.parametrize(
    ("deltas", "mean", "half"),
    [
        ([1.0, 2.0, 3.0], 2.0, 4.302652729911275 / 3**0.5),  # s = 1; the quantile from a printed table: 4.303
        ([0.0, 2.0], 1.0, 12.706204736432095),  # s = sqrt 2, s / sqrt 2 = 1
        ([5.0, 5.0, 5.0], 5.0, 0.0),
    ],
)
def test_t_interval_by_hand(deltas: list[float], mean: float, half: float) -> None:
    assert t_interval(deltas) == pytest.approx((mean, mean - half, mean + half), abs=1e-9)


def test_what_has_no_interval_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two seeds"):
        t_interval([1.0])
    with pytest.raises(ValueError, match="two prompts"):
        bootstrap(means(np.array([1.0])), generator=generator)
    with pytest.raises(ValueError, match="two prompts or clusters"):
        mean_interval([1.0, 2.0], clusters=["p", "p"], generator=generator)
    with pytest.raises(ValueError, match="not the same prompts"):
        paired_bootstrap(means(np.zeros(3)), means(np.zeros(4)), generator=generator)
    with pytest.raises(ValueError, match="example 1 has no finite value"):
        means(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="3 values but 2 cluster labels"):
        mean_interval([1.0, 2.0, 3.0], clusters=["p", "q"], generator=generator)


TRIALS = 4000


@pytest.mark.parametrize("size", [50, 200])
def test_the_prompt_bootstrap_covers_the_true_change_95_times_in_100(size: int) -> None:
    """Skewed, correlated scores, a third of them unchanged, as greedy outputs before and after give them."""
    data, resampling = np.random.default_rng(11), np.random.default_rng(12)
    before = data.beta(2, 3, size=(TRIALS, size))
    gain = data.beta(2, 4, size=(TRIALS, size)) - 0.25
    changed = data.random((TRIALS, size)) < 2 / 3
    truth = 2 / 3 * (1 / 3 - 0.25)
    covered = 0
    for row in range(TRIALS):
        found = paired_bootstrap(
            means(before[row]),
            means(before[row] + gain[row] * changed[row]),
            resamples=250,
            generator=resampling,
        )
        covered += found.low <= truth <= found.high
    assert 93.5 <= 100 * covered / TRIALS <= 96.5


def test_the_prompt_bootstrap_covers_a_ratio_of_sums_95_times_in_100() -> None:
    """As corpus metrics are: matches over lengths, summed before they are divided."""
    data, resampling = np.random.default_rng(21), np.random.default_rng(22)
    covered = 0
    for _ in range(TRIALS):
        lengths = data.integers(5, 30, size=150).astype(float)
        matches = data.binomial(lengths.astype(int), 0.3)
        statistics = np.column_stack([matches, lengths])
        scored = SummedScored("r", "s", matches / lengths, statistics, ratio_of_sums)
        found = bootstrap(scored, resamples=250, generator=resampling)
        covered += found.low <= 0.3 <= found.high
    assert 93.5 <= 100 * covered / TRIALS <= 96.5


def test_the_seed_interval_covers_the_true_change_95_times_in_100() -> None:
    deltas = np.random.default_rng(31).normal(1.5, 0.7, size=(20_000, 3))
    intervals = np.array([t_interval(row) for row in deltas])
    covered = (intervals[:, 1] <= 1.5) & (intervals[:, 2] >= 1.5)
    assert 94.5 <= 100 * covered.mean() <= 95.5


def test_the_jackknife_of_distinct_errs_on_the_wide_side(metrics: dict[str, Metric]) -> None:
    generator = np.random.default_rng(41)
    shares = 1 / np.arange(1, 101)
    shares /= shares.sum()

    def sample() -> list[str]:
        return [" ".join(map(str, row)) for row in generator.choice(100, size=(40, 5), p=shares)]

    truth = np.mean([metrics["distinct"].scored(sample(), [[]] * 40)["distinct2"].score()[0] for _ in range(1000)])
    found = [
        bootstrap(metrics["distinct"].scored(sample(), [[]] * 40)["distinct2"], generator=generator) for _ in range(400)
    ]
    assert 100 * np.mean([low <= truth <= high for _, low, high in found]) >= 94
