"""``plan=true``: what would run, what is finished already, and what it is expected to take."""

from __future__ import annotations

from collections.abc import Container, Mapping

from harness.config import Config, LocalDataConfig, ModelConfig, PPOConfig
from harness.context import Job
from harness.footprint import by_role, peak
from harness.graph import Graph, planned_stages
from harness.models.shape import Shape, shape_of
from harness.needs import loaded_paths, takes_finished_policy
from harness.progress import PlanRow
from harness.stage_memory import Memory
from harness.stages import Stage
from harness.types import TRAIN_SPLITS


def plan_rows(job: Job, graph: Graph, finished: Container[str]) -> list[PlanRow]:
    """One row per stage in the order of work. Memory and tokens are upper estimates, from sizes and limits alone.

    Args:
        job, graph: what would run.
        finished: fingerprints of the stages that are cached.
    Raises:
        UserError: the configuration of a model that is named cannot be read.
    """
    ordered: dict[str, Stage] = {}
    for stage in planned_stages(graph):
        ordered.setdefault(stage.fingerprint, stage)
    return [_row(job, stage, stage.fingerprint in finished) for stage in ordered.values()]


def _row(job: Job, stage: Stage, cached: bool) -> PlanRow:
    name = f"evaluation of {stage.config['row'] or 'candidate'}" if stage.name == "evaluation" else stage.name
    if stage.name == "sft" and "response_passes" in stage.config:
        name = "sft (more)"
    if stage.name == "data":
        return PlanRow(name, stage.fingerprint, cached, None, None, None)
    judge = None if job.config.judge.source == "none" else _shape(job.config, "judge.path", job.config.judge.model)
    policy = _policy_shape(job.config, stage)
    shape = judge if stage.name == "judge" else policy
    if shape is None or policy is None:
        return PlanRow(name, stage.fingerprint, cached, None, None, _tokens(job, stage))
    phases = Memory(job, policy, judge).phases(stage, loaded=_is_loaded(job.config, stage))
    roles = {role: size / 1e6 for role, size in by_role(phases).items()}
    memory = round(peak(phases) / 1e6, 0)
    adapters = _adapter_parameters(job.config, stage, shape)
    parameters = shape.parameters + (adapters or 0)
    return PlanRow(name, stage.fingerprint, cached, parameters, memory, _tokens(job, stage), roles, adapters)


def _adapter_parameters(config: Config, stage: Stage, shape: Shape) -> int | None:
    """Parameters of the adapter, a classifier's with its head, on the model that a stage trains or asks; None: none."""
    if shape.adapters is None or _is_loaded(config, stage):
        return None
    if stage.name in ("reward_model", "judge"):
        return shape.scorer_trained
    row = stage.config.get("row") if stage.name == "evaluation" else ""
    given = config.sft.source == "load" and (stage.name == "feedback" or row in ("sft", "best-of-n"))
    whole = row is None and takes_finished_policy(config)
    return None if row == "base" or given or whole else shape.adapters.parameters


def _policy_shape(config: Config, stage: Stage) -> Shape | None:
    """The shape of the policy that a stage works with."""
    paths, model = loaded_paths(config), config.model
    part = "algorithm.path" if stage.name == config.algorithm.name else f"{stage.name}.path"
    return _shape(config, part if part in paths and part != "judge.path" else "sft.path", model)


def _shape(config: Config, part: str, model: ModelConfig) -> Shape | None:
    """A finished model's size is read from its own configuration."""
    if path := loaded_paths(config).get(part):
        given = ModelConfig(kind="hf", name=path)
        if part == "sft.path":  # which then is a base; other parts' models stay as they are
            given.lora, given.quantization = model.lora, model.quantization
        return shape_of(given, key=part)
    return shape_of(model, key="judge.model.name" if part == "judge.path" else "model.name")


def _is_loaded(config: Config, stage: Stage) -> bool:
    """Whether a stage takes a finished model as it is."""
    if stage.name == config.algorithm.name:
        return takes_finished_policy(config)
    more = "response_passes" in stage.config
    return not more and f"{stage.name}.path" in loaded_paths(config)


def _tokens(job: Job, stage: Stage) -> int | None:
    """Tokens that the stage reads or writes at most: rows times limits."""
    config, task = job.config, job.config.task
    counts = row_counts(config)
    length = task.max_prompt_tokens + task.max_response_tokens
    if _is_loaded(config, stage):
        return None
    if stage.name == "sft":
        count = counts.get("sft")
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
    count = counts.get("test")
    return None if count is None else count * length


def row_counts(config: Config) -> Mapping[str, int]:
    """Rows of each split at most, where the configuration states them.

    A world's sizes, ``data.limits``, and ``data.max_rows``, whose train rows are shared out.
    """
    data = config.data
    counts = dict(data.sizes)
    if isinstance(data, LocalDataConfig):
        counts = {split: count for split, count in data.max_rows.items() if split != "train"}
        total = sum(data.shares.values())
        for split in TRAIN_SPLITS if "train" in data.max_rows and total else ():
            counts[split] = int(data.max_rows["train"] * data.shares.get(split, 0.0) / total)
    for name, limit in data.limits.items():
        counts[name] = min(limit, counts.get(name, limit))
    return counts
