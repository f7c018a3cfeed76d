"""PPO as an algorithm: how long it is, and where it trains.

``ppo_training`` needs torch, whose import takes a second; a plan and a run whose stages are all cached have no use for
it.
"""

from __future__ import annotations

from harness.config import PPOConfig
from harness.training.algorithm import Result, Setup


class PPO:
    """Proximal policy optimisation with a KL penalty against the SFT policy.

    Args:
        config: ``algorithm.*``.
    """

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def steps(self) -> int:
        return self.config.episodes // self.config.batch_size

    def response_passes(self) -> int:
        return self.steps() * self.config.batch_size * self.config.epochs

    def train(self, setup: Setup) -> Result:
        """Train ``setup.policy`` in place. A run that leaves its limits stops with its best probe's weights."""
        from harness.training.ppo_training import PPOTraining

        return PPOTraining(self.config).train(setup)
