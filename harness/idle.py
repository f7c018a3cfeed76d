"""What a user gave and nothing reads: it is refused, since a row that is named after it would say something untrue."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.config import Config, PPOConfig
from harness.errors import UserError
from harness.overrides import leaves


class Idle(NamedTuple):
    """Keys that decide nothing in some set-ups.

    Args:
        keys: each with all below it.
        holds: whether the set-up is one of these.
        rule: when it is.
        remedy: what to do instead.
    """

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    rule: str
    remedy: str = "leave it out"


def _under(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names)


def _unless_loaded(part: str) -> Idle:
    """A finished model's folder, where the part is not to be loaded."""
    return Idle(
        (f"{part}.path",),
        lambda config: getattr(config, part).source != "load",
        f"without {part}=load",
        f"add {part}=load, or leave it out",
    )


JUDGE_TRAINING = (
    *_under("judge", "model", "responses", "annotator", "samples_per_prompt", "max_pairs", "min_pairs"),
    *_under("judge", "sft_epochs", "epochs", "batch_size", "optimizer", "backbone_optimizer"),
)
"""What decides how a judge is made."""

IDLE = (
    _unless_loaded("sft"),
    _unless_loaded("reward_model"),
    _unless_loaded("judge"),
    Idle(
        _under("model", "name", "revision"),
        lambda config: config.model.kind == "nano",
        "with model=nano, which is made anew",
        "add model=hf, or leave it out",
    ),
    Idle(
        _under("judge.model", "name", "revision"),
        lambda config: config.judge.model.kind == "nano",
        "with judge.model.kind=nano, which is made anew",
        "add judge.model.kind=hf, or leave it out",
    ),
    Idle(
        _under("data", "path", "pairs_path", "files", "columns", "pairs_columns", "limits", "shares", "max_bad_rows"),
        lambda config: config.data.source == "controlled",
        "with data=controlled, which is generated",
        "add data=local or data=hub, or leave it out",
    ),
    Idle(
        ("data.sizes",),
        lambda config: config.data.source != "controlled",
        "for rows that are there already",
        "use data.shares and data.limits, or leave it out",
    ),
    Idle(
        _under("feedback", "samples_per_prompt", "sampling_temperature", "max_attempts")
        + _under("feedback", "temperature", "indifference", "noise", "length_bias", "metric"),
        lambda config: config.feedback.kind == "pairs",
        "with feedback=pairs, which are labelled already",
    ),
    Idle(
        ("feedback.metric",),
        lambda config: config.feedback.kind == "gold",
        "with feedback=gold, which knows the reward",
        "add feedback=metric, or leave it out",
    ),
    Idle(
        _under("reward_model", "epochs", "batch_size", "micro_batch_size", "optimizer")
        + _under("reward_model", "margin", "centering", "balance_length"),
        lambda config: config.reward_model.source == "load",
        "with reward_model=load, which is trained already",
    ),
    Idle(
        JUDGE_TRAINING,
        lambda config: config.judge.source == "load",
        "with judge=load, which is trained already",
    ),
    Idle(
        ("algorithm.value.lr",),
        lambda config: isinstance(config.algorithm, PPOConfig) and config.algorithm.value.kind == "head",
        "with algorithm.value.kind=head, which learns with the policy",
        "set algorithm.optimizer.lr, or leave it out",
    ),
    Idle(
        ("evaluation.engine",),
        lambda config: config.model.kind == "api",
        "with model=api, whose endpoint answers",
    ),
    Idle(
        ("rollout.engine_memory",),
        lambda config: "vllm" not in (config.rollout.engine, config.evaluation.engine),
        "without rollout.engine=vllm or evaluation.engine=vllm",
        "add one of them, or leave it out",
    ),
    Idle(
        _under("judge", "annotator", "samples_per_prompt"),
        lambda config: config.judge.source == "train" and config.judge.responses == "pairs",
        "with judge.responses=pairs, which are labelled already",
    ),
    Idle(
        (*JUDGE_TRAINING, *_under("judge", "heldout_pairs", "seed")),
        lambda config: config.judge.source == "none",
        "with judge=none",
        "leave it out, or let there be a judge",
    ),
)

UNTRAINED = ("sft", "feedback", "reward_model", "algorithm", "rollout")
"""Groups that decide nothing where the model only answers."""


def refuse_idle(config: Config, overrides: Sequence[str]) -> None:
    """Raise UserError for the first override that decides nothing; what an overlay says beside it is let pass.

    Args:
        config: what the overrides, among others, made.
        overrides: as given, ``KEY=VALUE`` each; null takes a value away, and is never refused.
    """
    for override in overrides:
        if (complaint := idleness(config, override)) is not None:
            raise complaint


def idleness(config: Config, override: str) -> UserError | None:
    """The complaint of an override that decides nothing; None: it decides something, or takes a value away."""
    key, _, text = override.lstrip("+~").partition("=")
    for name, inside in leaves(override):
        complaint = _idleness(config, name, text if name == key else inside, removed=override.startswith("~"))
        if complaint is not None:
            return complaint
    return None


def _idleness(config: Config, key: str, value: object, *, removed: bool) -> UserError | None:
    """The same of one key, which a mapping may have set among others."""
    if config.model.kind == "api" and _group(key) in UNTRAINED and (key, value) != ("algorithm", "none"):
        return UserError(key, value, "decides nothing with model=api, which trains nothing", "leave it out")
    if removed or value is None or value == "null":
        return None
    for idle in IDLE:
        if any(key == name or key.startswith(f"{name}.") for name in idle.keys) and idle.holds(config):
            return UserError(key, value, f"decides nothing {idle.rule}", idle.remedy)
    return None


def _group(key: str) -> str:
    return re.split(r"[./@]", key)[0]
