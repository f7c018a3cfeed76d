from __future__ import annotations

import math

import pytest

from harness.training.limits import CollapseMonitor

HEALTHY = {"kl": 12.0, "entropy": 0.8, "response_length": 20.0, "score": 1.5, "lr": 1e-4}
MONITOR = CollapseMonitor(
    max_kl=30.0, min_entropy=0.1, min_length=2.0, max_length_share=0.9, min_score=-3.0, max_response_tokens=40
)


def test_a_healthy_step_and_one_on_every_limit_pass():
    assert MONITOR.reason(HEALTHY) is None
    assert MONITOR.reason({"kl": 30.0, "entropy": 0.1, "response_length": 36.0, "score": -3.0}) is None
    assert MONITOR.reason({**HEALTHY, "response_length": 2.0}) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kl": 30.5}, "kl=30.5 is above max_kl=30"),
        ({"entropy": 0.05}, "entropy=0.05 is below min_entropy=0.1"),
        ({"response_length": 1.5}, "response_length=1.5 is below min_length=2"),
        ({"response_length": 38.0}, "length_share=0.95 is above max_length_share=0.9"),
        ({"score": -3.5}, "score=-3.5 is below min_score=-3"),
    ],
)
def test_each_limit_has_its_reason(change, reason):
    assert MONITOR.reason({**HEALTHY, **change}) == reason


@pytest.mark.parametrize("name", ["kl", "entropy", "response_length", "score"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_left_every_limit(name, value):
    assert CollapseMonitor().reason({**HEALTHY, name: value}) == f"{name}={value} is not a finite number"


def test_without_limits_anything_finite_passes():
    assert CollapseMonitor().reason({"kl": 1e9, "entropy": 0.0, "response_length": 0.0, "score": -1e9}) is None


def test_a_limit_of_zero_is_a_limit():
    assert CollapseMonitor(min_score=0.0).reason({**HEALTHY, "score": -0.1}) == "score=-0.1 is below min_score=0"
    assert CollapseMonitor(max_kl=0.0).reason(HEALTHY) == "kl=12 is above max_kl=0"


def test_a_share_needs_what_it_is_a_share_of():
    with pytest.raises(ValueError, match="needs max_response_tokens"):
        CollapseMonitor(max_length_share=0.9)


def test_a_quantity_that_is_not_logged_is_a_bug_not_a_pass():
    with pytest.raises(KeyError):
        MONITOR.reason({"kl": 1.0})
