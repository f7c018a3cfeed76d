"""What types cannot express: ranges, choices and combinations, checked before any work and without heavy imports."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.adapting import QUANTIZATIONS, check_adapters
from harness.api.checks import validate_api
from harness.config import APIModelConfig, Config, PPOConfig
from harness.data.checks import check_data, require_path
from harness.errors import UserError
from harness.evaluation.registry import BUILT_IN
from harness.feedback.annotators import smooth_metrics
from harness.needs import loaded_paths, needs_reward_model, trains
from harness.records import LARGEST_INTEGER

CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": ("controlled", "local", "hub"),
    "data.cleaning.deduplicate": ("rows", "prompts", "none"),
    "model.kind": ("nano", "hf", "api"),
    "model.architecture": ("gpt2", "llama"),
    "model.quantization": QUANTIZATIONS,
    "sft.source": ("train", "load"),
    "feedback.kind": ("gold", "pairs", "metric"),
    "reward_model.source": ("train", "load"),
    "judge.source": ("train", "load", "none"),
    "judge.model.kind": ("nano", "hf"),
    "judge.model.architecture": ("gpt2", "llama"),
    "judge.model.quantization": QUANTIZATIONS,
    "judge.responses": ("mixture", "pairs", "samples"),
    "hardware.precision": ("auto", "fp32", "bf16"),
    "rollout.engine": ("native", "compiled", "vllm"),
    "evaluation.engine": ("native", "compiled", "vllm"),
    "tracker.mode": ("rich", "plain", "quiet"),
    "algorithm.kl.estimator": ("k1", "k3"),
    "algorithm.value.kind": ("separate", "head"),
}

POSITIVE = (
    "task.max_prompt_tokens",
    "task.max_response_tokens",
    "data.references",
    "data.workers",
    "data.max_turns",
    "data.cleaning.max_prompt_chars",
    "data.cleaning.max_response_chars",
    "model.layers",
    "model.width",
    "model.heads",
    "model.context",
    "sft.epochs",
    "sft.max_steps",
    "sft.batch_size",
    "sft.micro_batch_size",
    "sft.packed_tokens",
    "feedback.samples_per_prompt",
    "feedback.sampling_temperature",
    "feedback.max_pairs",
    "feedback.min_pairs",
    "feedback.heldout_pairs",
    "feedback.max_attempts",
    "feedback.temperature",
    "reward_model.epochs",
    "reward_model.batch_size",
    "reward_model.micro_batch_size",
    "judge.samples_per_prompt",
    "judge.max_pairs",
    "judge.min_pairs",
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
    "feedback.indifference",
    "judge.annotator.indifference",
    "reward_model.margin",
    "reward_model.centering",
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

SEEDS = ("seed", "data.seed", "judge.seed", "evaluation.seed")
PROMPT_SPLITS = ("sft", "preference", "rl")
SHARES = ("feedback.noise", "judge.annotator.noise", "algorithm.advantage.gamma", "algorithm.advantage.lam")

STAGES = ("data", "sft", "feedback", "reward_model", "judge", "evaluation", "answers", "reward_bench")
FIXED_ROWS = ("references", "base", "sft", "sft-more", "best-of-n", "copy-input", "empty", "longest")


def validate(config: Config) -> None:
    """Raise UserError for the first value that breaks a rule."""
    require_finite(asdict(config))
    for key, choices in CHOICES.items():
        _require(config, key, lambda value, c=choices: value in c, "is not a choice", f"choose {', '.join(choices)}")
    for key in POSITIVE:
        _require(config, key, lambda value: value > 0, "must be above 0", "give a larger number")
    for key in NOT_NEGATIVE:
        _require(config, key, lambda value: value >= 0, "must be at least 0", "give 0 or more")
    for key in SEEDS:
        _require(config, key, lambda value: value <= LARGEST_INTEGER, "has more than 63 bits", "give a smaller one")
    for key in SHARES:
        _require(config, key, lambda value: 0 <= value <= 1, "must lie between 0 and 1", "give a share such as 0.1")
    _require(
        config, "rollout.top_p", lambda value: 0 < value <= 1, "must be above 0 and at most 1", "1 keeps every token"
    )
    _require(config, "rollout.engine_memory", lambda value: 0 < value < 1, "must lie between 0 and 1", "give 0.4")
    _require(config, "evaluation.resamples", lambda value: value >= 100, "is too few for an interval", "give 1000")
    for key in ("model.vocab_size", "judge.model.vocab_size"):
        _require(config, key, lambda value: value >= 258, "has no room for the 256 bytes, pad and EOS", "give 2048")
    for key in ("feedback.samples_per_prompt", "judge.samples_per_prompt"):
        _require(config, key, lambda value: value >= 2, "gives nothing to compare", "give 2 or more")
        _require(
            config, key, lambda value: value % 2 == 0, "is odd: samples are compared in twos", "give an even number"
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
    if config.algorithm.name in STAGES:
        rule, remedy = "is the name of another stage", "give one that no stage has, such as ppo-trl"
        raise UserError("algorithm.name", config.algorithm.name, rule, remedy)
    if config.candidate in FIXED_ROWS:
        raise UserError("candidate", config.candidate, "is the name of a fixed row", "give another, or leave it out")
    for key in ("feedback.metric", "judge.annotator.metric"):
        if (name := lookup(config, key)) is not None:
            smooth_metrics(name, key)
    _check_task(config)
    _check_packing(config)
    check_data(config)
    _check_test_prompts(config)
    _check_models(config)
    _check_evaluation(config)
    _check_hub(config)
    _check_prompt_splits(config.algorithm.prompt_splits)
    if isinstance(config.algorithm, PPOConfig):
        _check_ppo(config.algorithm)
    _check_limits(config)


def require_finite(value: Any, key: str = "") -> None:
    """Raise UserError for the first number, however deep, that is infinite or none at all: no record can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(key, value, "is no number to reckon with", "give a finite one")
    if isinstance(value, Mapping):
        for name, inside in value.items():
            require_finite(inside, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inside in value:
            require_finite(inside, key)


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
    choices = {"schedule": ("linear", "cosine", "constant"), "kind": ("adamw", "muon")}
    for name, known in choices.items():
        remedy = f"choose {', '.join(known)}"
        _require(config, f"{group}.{name}", lambda value, known=known: value in known, "is not a choice", remedy)


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


def _check_test_prompts(config: Config) -> None:
    """An interval needs two test prompts. How many files hold shows when they have been read."""
    groups = ("sizes",) if config.data.source == "controlled" else ("limits", "max_rows")
    for name in groups:
        if getattr(config.data, name, {}).get("test") == 1:
            raise UserError(f"data.{name}.test", 1, "leaves one test prompt, too few for an interval", "give 2 or more")


def _check_packing(config: Config) -> None:
    """A row holds the longest example that the limits admit, and is of use only where there are rows."""
    given, needed = config.sft.packed_tokens, config.task.max_prompt_tokens + config.task.max_response_tokens
    if given is not None and not config.sft.packing:
        rule, remedy = "decides nothing without sft.packing", "set sft.packing=true, or leave it out"
        raise UserError("sft.packed_tokens", given, rule, remedy)
    if given is not None and given < needed:
        rule = f"is shorter than task.max_prompt_tokens + task.max_response_tokens = {needed}"
        raise UserError("sft.packed_tokens", given, rule, f"set it to at least {needed}, or leave it out")


def _check_models(config: Config) -> None:
    tokens = config.task.max_prompt_tokens + config.task.max_response_tokens
    for key, model in (("model", config.model), ("judge.model", config.judge.model)):
        if key == "judge.model" and config.judge.source != "train":
            continue
        if isinstance(model, APIModelConfig) != (model.kind == "api"):
            raise UserError(
                f"{key}.kind", model.kind, "does not fit the other keys", f"choose it as {key}={model.kind}"
            )
        check_adapters(key, model)
        if isinstance(model, APIModelConfig):
            validate_api(key, model.base_url, model.name, model.api)
        if model.system is not None and not model.chat:
            other = f"{key}.api.system" if model.kind == "api" else f"{key}.chat=true"
            raise UserError(f"{key}.system", model.system, "stands in no prompt without a chat", f"set {other}")
        if model.chat and model.kind != "hf" and (key != "model" or config.sft.source == "train"):
            rule = f"does not fit {key}={model.kind}"
            raise UserError(f"{key}.chat", True, rule, f"leave it out, or choose {key}=hf")
        if model.kind == "api":
            continue
        if model.kind == "hf":
            if not model.name:
                raise UserError(f"{key}.name", None, "is missing", f"give a folder or a hub id: {key}.name=...")
            if model.name.startswith((".", "/", "~")):
                require_path(f"{key}.name", model.name)
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
        require_path(key, path)


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
    for name in ("threads", "workers"):
        count = getattr(config.hardware, name)
        if count is not None and count < 1:
            raise UserError(f"hardware.{name}", count, "must be at least 1", "leave it out: the cores decide")


def _check_hub(config: Config) -> None:
    hub = config.hub
    if hub.license is not None and not hub.license.strip():
        rule = "names no licence"
        raise UserError("hub.license", hub.license, rule, "give the hub's identifier, such as mit, or leave it out")
    present = ["algorithm", "sft"] if trains(config) else []
    present += ["reward_model"] if needs_reward_model(config) else []
    present += ["judge"] if config.judge.source != "none" else []
    for part in hub.parts if hub.push else ():
        if part not in present:
            remedy = f"choose among {', '.join(present)}" if present else "leave hub=push out: it makes no model"
            raise UserError("hub.parts", part, "is no model of this job", remedy)
    if hub.push and not hub.repo:
        raise UserError("hub.repo", None, "is missing", "name the repository: hub.repo=OWNER/NAME")
    if hub.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(hub.repo)):
        raise UserError("hub.repo", hub.repo, "is no repository", "write OWNER/NAME")


def _check_prompt_splits(splits: Sequence[str]) -> None:
    """Prompts come from what the candidate may see: not from the judge's split, nor from what it is scored on."""
    wrong = [split for split in splits if split not in PROMPT_SPLITS]
    if wrong or not splits or len(set(splits)) < len(splits):
        rule = f"holds {wrong[0]}, none of its own prompts" if wrong else "is not one or several splits, each once"
        remedy = f"choose among {', '.join(PROMPT_SPLITS)}"
        raise UserError("algorithm.prompt_splits", list(splits), rule, remedy)


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


def _check_limits(config: Config) -> None:
    """Limits that a healthy run can keep, and a sick one leave."""
    group, remedy = "algorithm.checks.limits", "give {}, say, or null for no limit".format
    _require(config, f"{group}.max_kl", lambda value: value > 0, "must be above 0", remedy("50"))
    _require(config, f"{group}.min_entropy", lambda value: value >= 0, "must be at least 0", remedy("0.0001"))
    _require(config, f"{group}.min_length", lambda value: value >= 0, "must be at least 0", remedy("1.2"))
    rule = "is no share of task.max_response_tokens: it must lie between 0 and 1"
    _require(config, f"{group}.max_length_share", lambda value: 0 < value <= 1, rule, remedy("0.98"))


def _require_divides(key: str, value: int, whole_key: str, whole: int) -> None:
    if whole % value:
        rule = f"does not divide {whole_key}={whole}"
        raise UserError(key, value, rule, f"set it to {_near_divisors(value, whole)}")


def _near_divisors(value: int, whole: int) -> str:
    divisors: Sequence[int] = [n for n in range(1, whole + 1) if whole % n == 0]
    below = max((n for n in divisors if n < value), default=None)
    above = min((n for n in divisors if n > value), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
