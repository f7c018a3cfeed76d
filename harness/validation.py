"""What types cannot express: ranges, choices and combinations, checked before any work and without heavy imports."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config import Config, PPOConfig
from harness.errors import UserError
from harness.evaluation.registry import BUILT_IN
from harness.needs import loaded_paths, needs_feedback, needs_reward_model, takes_finished_policy

CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": ("controlled", "local"),
    "model.kind": ("nano", "hf"),
    "model.architecture": ("gpt2", "llama"),
    "sft.source": ("train", "load"),
    "feedback.kind": ("gold", "pairs", "metric"),
    "reward_model.source": ("train", "load"),
    "judge.source": ("train", "load", "none"),
    "judge.model.kind": ("nano", "hf"),
    "judge.model.architecture": ("gpt2", "llama"),
    "judge.responses": ("mixture", "pairs", "samples"),
    "hardware.precision": ("auto", "fp32", "bf16"),
    "tracker.mode": ("rich", "plain", "quiet"),
    "algorithm.kl.estimator": ("k1", "k3"),
    "algorithm.value.kind": ("separate", "head"),
    "feedback.metric": ("chrf", "f1"),
}

POSITIVE = (
    "task.max_prompt_tokens",
    "task.max_response_tokens",
    "data.references",
    "data.workers",
    "data.max_turns",
    "model.layers",
    "model.width",
    "model.heads",
    "model.context",
    "sft.epochs",
    "sft.max_steps",
    "sft.batch_size",
    "sft.micro_batch_size",
    "feedback.samples_per_prompt",
    "feedback.sampling_temperature",
    "feedback.max_pairs",
    "feedback.heldout_pairs",
    "feedback.max_attempts",
    "feedback.temperature",
    "reward_model.epochs",
    "reward_model.batch_size",
    "reward_model.micro_batch_size",
    "judge.samples_per_prompt",
    "judge.max_pairs",
    "judge.heldout_pairs",
    "judge.sft_epochs",
    "judge.epochs",
    "judge.batch_size",
    "judge.annotator.temperature",
    "judge.model.layers",
    "judge.model.width",
    "judge.model.heads",
    "judge.model.context",
    "rollout.temperature",
    "rollout.batch_size",
    "evaluation.batch_size",
    "evaluation.best_of_n",
    "algorithm.batch_size",
    "algorithm.minibatch_size",
    "algorithm.micro_batch_size",
    "algorithm.epochs",
    "algorithm.clip_range",
    "algorithm.kl.horizon",
    "algorithm.value.clip_range",
    "algorithm.value.lr",
)

NOT_NEGATIVE = (
    "feedback.min_pairs",
    "feedback.indifference",
    "judge.annotator.indifference",
    "reward_model.margin",
    "reward_model.centering",
    "judge.min_pairs",
    "rollout.top_k",
    "evaluation.temperature",
    "evaluation.seed",
    "evaluation.curve_prompts",
    "evaluation.samples_in_record",
    "data.max_bad_rows",
    "seed",
    "data.seed",
    "judge.seed",
    "algorithm.kl_coef",
    "algorithm.entropy_coef",
    "algorithm.value.coef",
    "algorithm.checks.probes",
    "algorithm.checks.probe_prompts",
)

SHARES = ("feedback.noise", "judge.annotator.noise", "algorithm.advantage.gamma", "algorithm.advantage.lam")

FIXED_ROWS = ("references", "base", "sft", "sft-more", "best-of-n", "copy-input", "empty", "longest")


def validate(config: Config) -> None:
    """Raise UserError for the first value that breaks a rule."""
    for key, choices in CHOICES.items():
        _require(config, key, lambda value, c=choices: value in c, "is not a choice", f"choose {', '.join(choices)}")
    for key in POSITIVE:
        _require(config, key, lambda value: value > 0, "must be above 0", "give a larger number")
    for key in NOT_NEGATIVE:
        _require(config, key, lambda value: value >= 0, "must be at least 0", "give 0 or more")
    for key in SHARES:
        _require(config, key, lambda value: 0 <= value <= 1, "must lie between 0 and 1", "give a share such as 0.1")
    _require(
        config, "rollout.top_p", lambda value: 0 < value <= 1, "must be above 0 and at most 1", "1 keeps every token"
    )
    _require(config, "evaluation.resamples", lambda value: value >= 100, "is too few for an interval", "give 1000")
    _require(
        config,
        "model.vocab_size",
        lambda value: value >= 258,
        "has no room for the 256 bytes, pad and EOS",
        "give 2048",
    )
    _require(
        config, "feedback.samples_per_prompt", lambda value: value >= 2, "gives nothing to compare", "give 2 or more"
    )
    for group in (
        "sft.optimizer",
        "reward_model.optimizer",
        "judge.optimizer",
        "judge.backbone_optimizer",
        "algorithm.optimizer",
    ):
        _check_optimizer(config, group)
    if not re.fullmatch(r"[\w.+-]+", config.algorithm.name):  # its stage's folder is called so
        rule = "is no name of letters, digits and . _ + -"
        raise UserError("algorithm.name", config.algorithm.name, rule, "give one such as ppo-trl")
    _check_task(config)
    _check_data(config)
    _check_models(config)
    _check_evaluation(config)
    _check_hub(config)
    if isinstance(config.algorithm, PPOConfig):
        _check_ppo(config.algorithm)


def _require(config: Config, key: str, holds: Any, rule: str, remedy: str) -> None:
    value = lookup(config, key)
    if value is not None and not holds(value):
        raise UserError(key, value, rule, remedy)


def lookup(config: Any, key: str) -> Any:
    """The value at a dotted key, None where a part of the path does not exist (another algorithm's keys)."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def _check_optimizer(config: Config, group: str) -> None:
    _require(config, f"{group}.lr", lambda value: 0 < value < 1, "must lie between 0 and 1", "give a rate such as 1e-4")
    _require(config, f"{group}.weight_decay", lambda value: value >= 0, "must be at least 0", "give 0 or more")
    _require(config, f"{group}.eps", lambda value: value > 0, "must be above 0", "give 1e-5")
    _require(config, f"{group}.warmup", lambda value: 0 <= value < 1, "is a share of all updates", "give 0.05")
    _require(config, f"{group}.max_grad_norm", lambda value: value > 0, "must be above 0", "give 1.0")
    schedules = ("linear", "cosine", "constant")
    _require(
        config,
        f"{group}.schedule",
        lambda value: value in schedules,
        "is not a choice",
        f"choose {', '.join(schedules)}",
    )


def _check_task(config: Config) -> None:
    known = [column for columns in BUILT_IN.values() for column in columns]
    for metric in config.task.metrics:
        if metric not in known:
            remedy = f"choose among {', '.join(known)}, or name an `evaluate` module in evaluation.extra_metrics"
            raise UserError("task.metrics", metric, "is not a built-in metric", remedy)
    if config.task.main_metric not in config.task.metrics:
        raise UserError(
            "task.main_metric",
            config.task.main_metric,
            "is not among task.metrics",
            f"choose one of {config.task.metrics}",
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.source == "controlled":
        if config.task.world is None:
            raise UserError("task.world", None, "is missing", "name a controlled world, or use data=local")
        splits = ("sft", "preference", "judge", "rl", "validation", "test")
        for split in splits:
            if data.sizes.get(split, 0) < 1:
                raise UserError(
                    f"data.sizes.{split}", data.sizes.get(split), "must be above 0", "every split is needed"
                )
        unknown = sorted(set(data.sizes) - set(splits))
        if unknown:
            raise UserError(
                f"data.sizes.{unknown[0]}", data.sizes[unknown[0]], "is not a split", f"use {', '.join(splits)}"
            )
        if config.feedback.kind == "pairs" and needs_feedback(config):
            raise UserError(
                "feedback.kind",
                "pairs",
                "needs a data set with pairs of its own",
                "use feedback=gold with data=controlled",
            )
        return
    if not data.path:
        raise UserError("data.path", None, "is missing", "give a file or folder: data.path=PATH")
    _require_path("data.path", data.path)
    if data.pairs_path:
        _require_path("data.pairs_path", data.pairs_path)
    if config.feedback.kind == "gold" and needs_feedback(config):
        raise UserError(
            "feedback.kind",
            "gold",
            "needs a controlled world, whose gold reward is known",
            "use feedback=metric or feedback=pairs",
        )
    if config.feedback.kind == "pairs" and needs_feedback(config) and not data.pairs_path:
        raise UserError(
            "data.pairs_path", None, "is missing", "name the file with preference pairs, or use feedback=metric"
        )
    _check_shares(config)
    if config.judge.source == "train" and config.judge.responses == "mixture":
        raise UserError(
            "judge.responses", "mixture", "needs a controlled world", "use judge.responses=samples or pairs"
        )


def _check_shares(config: Config) -> None:
    """Every split that some stage reads needs rows."""
    needed = [] if takes_finished_policy(config) else ["rl"]
    if not takes_finished_policy(config) or config.sft.source == "train":
        needed.append("sft")
    if needs_feedback(config) and config.feedback.kind != "pairs":
        needed.append("preference")
    if config.judge.source == "train":
        needed.append("judge")
    for split, share in config.data.shares.items():
        if not 0 <= share < math.inf:
            raise UserError(f"data.shares.{split}", share, "is no share", "give a number of at least 0, such as 0.2")
    for split in needed:
        if not config.data.shares.get(split):
            raise UserError(
                f"data.shares.{split}", config.data.shares.get(split), "must be above 0", "give a share such as 0.2"
            )


def _require_path(key: str, value: str) -> None:
    if not Path(value).exists():
        raise UserError(key, value, "does not exist", "give an existing file or folder")


def _check_models(config: Config) -> None:
    tokens = config.task.max_prompt_tokens + config.task.max_response_tokens
    for key, model in (("model", config.model), ("judge.model", config.judge.model)):
        if key == "judge.model" and config.judge.source != "train":
            continue
        if model.kind == "hf":
            if not model.name:
                raise UserError(f"{key}.name", None, "is missing", f"give a folder or a hub id: {key}.name=...")
            if model.name.startswith((".", "/", "~")):
                _require_path(f"{key}.name", model.name)
            continue
        if model.width % model.heads:
            raise UserError(
                f"{key}.width", model.width, f"is not a multiple of {key}.heads={model.heads}", "set it to one"
            )
        if model.context < tokens:
            rule = f"is shorter than task.max_prompt_tokens + task.max_response_tokens = {tokens}"
            raise UserError(f"{key}.context", model.context, rule, f"set it to at least {tokens}")
    for key, path in loaded_paths(config).items():
        if not path:
            raise UserError(key, None, "is missing", f"give the folder of the finished model: {key}=...")
        _require_path(key, path)


def _check_evaluation(config: Config) -> None:
    for row in config.evaluation.fixed_rows:
        if row not in FIXED_ROWS:
            raise UserError("evaluation.fixed_rows", row, "is no fixed row", f"choose among {', '.join(FIXED_ROWS)}")
    for count in config.evaluation.curve_best_of:
        if count < 1:
            raise UserError("evaluation.curve_best_of", count, "must be at least 1", "give counts such as [1,2,4,8]")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.hardware.device):
        raise UserError(
            "hardware.device", config.hardware.device, "is no device", "choose auto, cpu, cuda or cuda:N (cuda:0)"
        )
    if config.hardware.threads is not None and config.hardware.threads < 1:
        raise UserError(
            "hardware.threads", config.hardware.threads, "must be at least 1", "leave it out to use every core"
        )


def _check_hub(config: Config) -> None:
    hub = config.hub
    if hub.license is not None and not hub.license.strip():
        rule = "names no licence"
        raise UserError("hub.license", hub.license, rule, "give the hub's identifier, such as mit, or leave it out")
    present = ["algorithm", "sft"]
    present += ["reward_model"] if needs_reward_model(config) else []
    present += ["judge"] if config.judge.source != "none" else []
    for part in hub.parts if hub.push else ():
        if part not in present:
            raise UserError("hub.parts", part, "is no model of this job", f"choose among {', '.join(present)}")
    if hub.push and not hub.repo:
        raise UserError("hub.repo", None, "is missing", "name the repository: hub.repo=OWNER/NAME")
    if hub.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(hub.repo)):
        raise UserError("hub.repo", hub.repo, "is no repository", "write OWNER/NAME")


def _check_ppo(ppo: PPOConfig) -> None:
    if ppo.episodes < 1:
        raise UserError(
            "algorithm.episodes", ppo.episodes, "must be above 0", "give a larger number, or algorithm=none"
        )
    _require_divides("algorithm.batch_size", ppo.batch_size, "algorithm.episodes", ppo.episodes)
    _require_divides("algorithm.minibatch_size", ppo.minibatch_size, "algorithm.batch_size", ppo.batch_size)
    gates = ("accuracy", "ratio", "invariance", "eos", "logprobs")
    for gate in ppo.checks.skip_gates:
        if gate not in gates:
            raise UserError("algorithm.checks.skip_gates", gate, "is no gate", f"choose among {', '.join(gates)}")
    if ppo.kl.target is not None and ppo.kl.target <= 0:
        raise UserError("algorithm.kl.target", ppo.kl.target, "must be above 0", "give nats per response, e.g. 6")
    if ppo.kl.target is not None and ppo.batch_size >= 5 * ppo.kl.horizon:
        rule = f"is too short for algorithm.batch_size={ppo.batch_size}: one update could turn β negative"
        raise UserError("algorithm.kl.horizon", ppo.kl.horizon, rule, f"give more than {ppo.batch_size // 5}")
    if ppo.missing_eos_penalty is not None and ppo.missing_eos_penalty < 0:
        raise UserError(
            "algorithm.missing_eos_penalty", ppo.missing_eos_penalty, "must be at least 0", "give null for none"
        )


def _require_divides(key: str, value: int, whole_key: str, whole: int) -> None:
    if whole % value:
        rule = f"does not divide {whole_key}={whole}"
        raise UserError(key, value, rule, f"set it to {_near_divisors(value, whole)}")


def _near_divisors(value: int, whole: int) -> str:
    divisors: Sequence[int] = [n for n in range(1, whole + 1) if whole % n == 0]
    below = max((n for n in divisors if n < value), default=None)
    above = min((n for n in divisors if n > value), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
