"""Which parts a set-up has: what nothing needs is neither made nor asked for."""

from __future__ import annotations

from harness.config import Config, FinishedPolicyConfig, JudgeConfig, RewardModelConfig, SFTConfig


def trains(config: Config) -> bool:
    """False for a model behind an endpoint, which answers and is not trained."""
    return config.model.kind != "api"


def takes_finished_policy(config: Config) -> bool:
    """Whether the policy comes from another trainer, so that nothing is optimised here."""
    return isinstance(config.algorithm, FinishedPolicyConfig)


def loaded_paths(config: Config) -> dict[str, str | None]:
    """Configuration key -> folder, of every finished model that is to take a stage's place."""
    parts: dict[str, SFTConfig | RewardModelConfig | JudgeConfig] = {
        "sft": config.sft,
        "reward_model": config.reward_model,
        "judge": config.judge,
    }
    paths = {f"{name}.path": part.path for name, part in parts.items() if part.source == "load"}
    if isinstance(config.algorithm, FinishedPolicyConfig):
        paths["algorithm.path"] = config.algorithm.path
    return paths


def needs_reward_model(config: Config) -> bool:
    """Whether a reward model is trained or loaded: to be optimised, or, beside a finished policy, if one is given."""
    return trains(config) and (not takes_finished_policy(config) or config.reward_model.source == "load")


def needs_feedback(config: Config) -> bool:
    """Whether preference pairs are collected: to train on, or to examine a reward model that was given.

    ``feedback=gold`` on data without a gold reward is a mistake where a reward model is to be trained; beside a
    finished policy, where it is the default that nobody chose, it means that there are no pairs.
    """
    possible = config.feedback.kind != "gold" or config.data.source == "controlled"
    return needs_reward_model(config) and (possible or not takes_finished_policy(config))


def packed_tokens(config: Config) -> int | None:
    """Most tokens of a row that demonstrations are laid end to end into; None where each has a row of its own."""
    if not config.sft.packing:
        return None
    return config.sft.packed_tokens or config.task.max_prompt_tokens + config.task.max_response_tokens
