"""``algorithm=none``: the SFT policy is scored as it is."""

from __future__ import annotations

from typing import Any

from harness.training.algorithm import Result, Setup


class Untrained:
    """An algorithm that leaves the policy alone."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def steps(self) -> int:
        return 1

    def response_passes(self) -> int:
        return 0

    def train(self, setup: Setup) -> Result:
        setup.probe(setup.policy, 0)
        setup.advance(1)
        return Result("ok", None, 0, [])
