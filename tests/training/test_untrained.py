from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.config import AlgorithmConfig
from harness.training.algorithm import Result, make_algorithm
from harness.training.untrained import Untrained


def test_the_policy_is_probed_once_and_left_alone():
    probed: list[Any] = []
    advanced: list[int] = []
    policy = object()
    setup: Any = SimpleNamespace(
        policy=policy, probe=lambda policy, iteration: probed.append((policy, iteration)), advance=advanced.append
    )
    algorithm = make_algorithm(AlgorithmConfig(_target_="harness.training.untrained.Untrained", name="none"))
    assert isinstance(algorithm, Untrained)
    assert algorithm.train(setup) == Result(status="ok", reason=None, tokens=0, flags=[])
    assert probed == [(policy, 0)]
    assert sum(advanced) == algorithm.steps() == 1
    assert algorithm.response_passes() == 0
