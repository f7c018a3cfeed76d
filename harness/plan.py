"""``plan=true``: what would run, what is finished already, and what it is expected to take."""

from __future__ import annotations

import functools
from typing import Any

from harness.config import Config, ModelConfig, PPOConfig
from harness.context import Job
from harness.graph import Graph
from harness.needs import loaded_paths, takes_finished_policy
from harness.progress import PlanRow
from harness.stages import Stage, StageRunner, all_stages

BASE_MEMORY_MB = 550.0
"""Resident memory of Python with torch and transformers imported."""
TRAINED_BYTES, KEPT_BYTES = 16, 4
"""Per parameter: fp32 weight, gradient and AdamW's two moments; fp32 weight alone."""


def plan_rows(job: Job, graph: Graph, runner: StageRunner) -> list[PlanRow]:
    """One row per stage in the order of work. Memory and tokens are upper estimates, from sizes and limits alone."""
    ordered: dict[str, Stage] = {}
    for last in (*graph.rows.values(), graph.candidate):
        for stage in all_stages(last):
            ordered.setdefault(stage.fingerprint, stage)
    return [_row(job, stage, runner) for stage in ordered.values()]


def _row(job: Job, stage: Stage, runner: StageRunner) -> PlanRow:
    name = f"evaluation of {stage.config['row'] or 'candidate'}" if stage.name == "evaluation" else stage.name
    if stage.name == "sft" and "response_passes" in stage.config:
        name = "sft (more)"
    if stage.name == "data":
        return PlanRow(name, stage.fingerprint, runner.cached(stage) is not None, None, None, None)
    model = _model(job.config, stage)
    parameters = parameter_estimate(model)
    return PlanRow(
        name,
        stage.fingerprint,
        runner.cached(stage) is not None,
        parameters,
        None if parameters is None else _memory_mb(job, stage, model, parameters),
        _tokens(job, stage),
    )


def _model(config: Config, stage: Stage) -> ModelConfig:
    """The model that a stage works with: a finished one's size is read from its own configuration."""
    paths = loaded_paths(config)
    part = {"judge": "judge.path", "reward_model": "reward_model.path"}.get(stage.name, "sft.path")
    if path := paths.get("algorithm.path" if stage.name == config.algorithm.name else part):
        return ModelConfig(kind="hf", name=path)
    return config.judge.model if stage.name == "judge" else config.model


@functools.cache
def _counted(kind: str, name: str | None, revision: str | None, sizes: tuple[Any, ...]) -> int | None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        if kind == "nano":
            from harness.models.nano import new_model

            architecture, layers, width, heads, vocab_size, context = sizes
            shape = ModelConfig(kind, name, revision, architecture, layers, width, heads, vocab_size, context)
            model = new_model(shape, vocab_size=vocab_size, eos_id=0, pad_id=1, seed=0)
        else:
            hf_config = AutoConfig.from_pretrained(str(name), revision=revision, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(hf_config)
    total: int = sum(parameter.numel() for parameter in model.parameters())
    return total


def parameter_estimate(model: ModelConfig) -> int | None:
    """Parameters of the model, built without memory on torch's meta device; nano's vocabulary counts as full.

    None for a model behind an endpoint.
    """
    if model.kind == "api":
        return None
    sizes = (model.architecture, model.layers, model.width, model.heads, model.vocab_size, model.context)
    return _counted(model.kind, model.name, model.revision, sizes)


def _memory_mb(job: Job, stage: Stage, model: ModelConfig, parameters: int) -> float:
    """Weights by role, plus logits and activations of one batch."""
    config, task = job.config, job.config.task
    length = task.max_prompt_tokens + task.max_response_tokens
    roles = {"sft": (1, 0), "reward_model": (1, 0), "judge": (1, 0), "ppo": (2, 2), "feedback": (0, 1)}
    trained, kept = (0, 1) if _is_loaded(config, stage) else roles.get(stage.name, (0, 3))
    adapted = (config.judge.model if stage.name == "judge" else config.model).lora.rank is not None
    weights = parameters * (KEPT_BYTES if adapted else trained * TRAINED_BYTES + kept * KEPT_BYTES)  # one for all roles
    batch = {
        "sft": config.sft.batch_size,
        "reward_model": 2 * config.reward_model.batch_size,
        "judge": 2 * config.judge.batch_size,
    }
    rows = batch.get(stage.name, config.evaluation.batch_size)
    if isinstance(config.algorithm, PPOConfig) and stage.name == config.algorithm.name:
        rows = max(config.algorithm.batch_size, config.algorithm.minibatch_size)
    logits = rows * task.max_response_tokens * model.vocab_size * 4 * (3 if trained else 1)
    activations = rows * length * model.width * model.layers * 4 * (20 if trained else 4)
    return round(BASE_MEMORY_MB + (weights + logits + activations) / 1e6, 0)


def _is_loaded(config: Config, stage: Stage) -> bool:
    """Whether a stage takes a finished model as it is."""
    if stage.name == config.algorithm.name:
        return takes_finished_policy(config)
    more = "response_passes" in stage.config
    return not more and f"{stage.name}.path" in loaded_paths(config)


def _tokens(job: Job, stage: Stage) -> int | None:
    """Tokens that the stage reads or writes at most: rows times limits."""
    config, task = job.config, job.config.task
    sizes, limits = config.data.sizes, config.data.limits
    length = task.max_prompt_tokens + task.max_response_tokens

    def rows(split: str) -> int | None:
        return sizes.get(split) or limits.get(split)

    if _is_loaded(config, stage):
        return None
    if stage.name == "sft":
        count = rows("sft")
        return stage.config.get("response_passes", 0) * length or (
            None if count is None else int(config.sft.epochs * count * length)
        )
    if stage.name == "feedback":
        return 2 * (config.feedback.max_pairs + config.feedback.heldout_pairs) * length
    if stage.name == "reward_model":
        return int(2 * config.reward_model.epochs * config.feedback.max_pairs * length)
    if stage.name == "judge":
        return int(2 * config.judge.epochs * config.judge.max_pairs * length)
    if isinstance(config.algorithm, PPOConfig) and stage.name == config.algorithm.name:
        return config.algorithm.episodes * config.algorithm.epochs * length
    count = rows("test")
    return None if count is None else count * length
