"""Intervals of shares: against naive loops and published values, and what they cover where a prompt has many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness.evaluation.shares import effective_size, share_interval, wilson_interval
from harness.evaluation.statistics import mean_interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_wilsons_interval_against_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: 81/263, 15/148, 0/20 and 1/29."""
    published = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for right, count, low, high in published:
        found = wilson_interval(right / count, count)
        assert found.estimate == right / count
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    # All right is none wrong, seen from the other side.
    assert wilson_interval(1.0, 20).low == pytest.approx(1 - 0.1611, abs=5e-5)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (1, 3), (7, 9), (50, 50), (499, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilsons_interval_is_scipys(right: int, count: int, confidence: float) -> None:
    theirs = binomtest(right, count).proportion_ci(confidence, method="wilson")
    found = wilson_interval(right / count, count, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.low <= found.estimate <= found.high


@pytest.mark.parametrize(("share", "count"), [(0.5, 0), (1.1, 3), (-0.1, 3), (float("nan"), 3)])
def test_what_is_no_share_of_trials_is_refused(share: float, count: int) -> None:
    with pytest.raises(ValueError, match="no share of trials"):
        wilson_interval(share, count)


@pytest.mark.parametrize(
    ("outcomes", "clusters"),
    [
        ([1, 0, 1, 1, 0, 0.5, 1, 0], "pqprqsst"),  # of unequal sizes
        ([1, 0, 1, 1, 0, 0.5, 1, 0, 1], "pqprqsstu"),
        ([1, 0, 1, 1, 0, 0.5, 1, 0], "pppppppq"),  # nearly all of one prompt
        ([1] * 8, "pqprqsst"),  # all alike, so Wilson's
        ([0] * 8, "pppppppq"),
        ([1, 0, 0, 1, 0, 1], "ppqqrr"),  # the same share in both: every resample gives it
        ([1, 0, 0] * 4, "pppqqqrrrsss"),
        ([0.5] * 6, "ppqqrr"),
        ([1, 1, 0.5, 0, 1], "pqrst"),
    ],
)
def test_a_share_is_the_naive_loops(naive_statistics: ModuleType, outcomes: list[float], clusters: str) -> None:
    expected = naive_statistics.share(outcomes, clusters, resamples=80, seed=3)
    found = share_interval(outcomes, clusters=list(clusters), resamples=80, generator=rng(3))
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=20))
def test_one_pair_a_prompt_is_what_it_is_without_prompts(outcomes: list[float]) -> None:
    """Bit for bit the plain bootstrap's where its resamples differ; and the draws that follow are the same."""
    labels, drawn = [f"prompt {index}" for index in range(len(outcomes))], [rng(1) for _ in range(3)]
    plain = mean_interval(100 * np.array(outcomes), resamples=50, generator=drawn[0])
    alone = share_interval(outcomes, resamples=50, generator=drawn[1])
    labelled = share_interval(outcomes, clusters=labels, resamples=50, generator=drawn[2])
    assert alone == labelled
    if plain.high - plain.low > 1e-9:
        assert alone == (plain.estimate, max(plain.low, 0), min(plain.high, 100))
        assert len(outcomes) < 5 or alone == plain
    assert len({generator.random() for generator in drawn}) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=12), st.integers(2, 9))
def test_copies_of_a_prompts_pairs_narrow_nothing(outcomes: list[float], copies: int) -> None:
    alone = share_interval(outcomes, resamples=30, generator=rng())
    clusters = np.repeat(np.arange(len(outcomes)), copies)
    found = share_interval(np.repeat(outcomes, copies), clusters=clusters, resamples=30, generator=rng())
    assert found == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_alike_has_the_width_that_the_number_of_prompts_bears(share: float) -> None:
    """Wilson with all n right: n / (n + 1.96²); a prompt with 97 of 100 pairs is hardly helped by three others."""
    z2 = 1.959964**2
    for clusters, size in (("pqrs", 4), ("ppqqrrss", 4), ("p" * 97 + "qrs", 100**2 / (97**2 + 3))):
        found = share_interval([share] * len(clusters), clusters=list(clusters), generator=rng())
        inner = found.low if share else 100 - found.high
        assert inner == pytest.approx(100 * size / (size + z2), abs=1e-4)
        assert found.estimate == 100 * share == (found.high if share else found.low)


def test_ties_alone_have_no_width() -> None:
    assert share_interval([0.5] * 6, clusters=list("ppqqrr"), generator=rng()) == (50, 50, 50)


def test_what_is_no_outcome_or_has_no_interval_is_refused() -> None:
    for wrong in ([0.0, 2.0], [0.0, -1.0], [0.0, np.nan]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            share_interval(wrong, generator=rng())
    with pytest.raises(ValueError, match="two prompts or clusters"):
        share_interval([1.0, 1.0], clusters=["p", "p"], generator=rng())
    with pytest.raises(ValueError, match="one number per example"):
        share_interval([], generator=rng())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_the_effective_size_is_between_one_and_the_number_of_clusters(sizes: list[int]) -> None:
    found = effective_size(np.repeat(np.arange(len(sizes)), sizes))
    assert 1 <= found <= len(sizes) + 1e-9
    if len(set(sizes)) == 1:
        assert found == pytest.approx(len(sizes))


def pairs_of_prompts(
    generator: np.random.Generator, prompts: int, sizes: Sequence[int], a: float, b: float
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and prompts of pairs: each prompt has a rate of its own, Beta(a, b): correlation 1 / (a + b + 1)."""
    clusters = np.repeat(np.arange(prompts), generator.choice(sizes, size=prompts))
    return (generator.random(len(clusters)) < generator.beta(a, b, size=prompts)[clusters]).astype(float), clusters


@pytest.mark.parametrize("prompts", [20, 100])
def test_pairs_that_share_prompts_are_covered_95_times_in_100(prompts: int) -> None:
    """One to eight pairs a prompt, correlation 2/3 within it; to count pairs, as if each were alone, covers 70 %."""
    data, resampling = rng(51), rng(52)
    clustered = alone = by_pairs = 0
    for _ in range(trials := 600):
        outcomes, clusters = pairs_of_prompts(data, prompts, (1, 2, 4, 8), 0.3, 0.2)
        low, high = share_interval(outcomes, clusters=clusters, resamples=250, generator=resampling)[1:]
        clustered += low <= 60 <= high
        low, high = share_interval(outcomes, resamples=250, generator=resampling)[1:]
        alone += low <= 60 <= high
        low, high = wilson_interval(outcomes.mean(), len(outcomes))[1:]
        by_pairs += low <= 0.6 <= high
    assert 92 <= 100 * clustered / trials <= 98
    assert 100 * max(alone, by_pairs) / trials <= 80


def test_a_reward_model_that_is_nearly_always_right_is_covered_too() -> None:
    """30 prompts of 8 pairs that agree, 97 % of them right: in 40 samples of 100 no pair is wrong."""
    data, resampling = rng(61), rng(62)
    covered = without_width = by_pairs = 0
    for _ in range(trials := 600):
        right = np.repeat(data.random(30) < 0.97, 8).astype(float)
        clusters = np.repeat(np.arange(30), 8)
        low, high = share_interval(right, clusters=clusters, resamples=250, generator=resampling)[1:]
        covered += low <= 97 <= high
        without_width += right.all()
        by_pairs += right.all() and 100 * wilson_interval(1.0, len(right)).low <= 97
    assert 100 * covered / trials >= 92
    assert 100 * without_width / trials >= 30, "what the bootstrap alone, whose interval is 100 to 100, does not cover"
    assert by_pairs == 0, "what Wilson's interval does not cover where it counts pairs"
