"""The seam of algorithms, and the stage that runs one: (policy, reference, reward, prompts) → policy.

Another algorithm is one file with a class like ``PPO`` and one YAML in ``conf/algorithm`` that names it in
``_target_``; keys of its own are a schema in ``harness/config.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.config import AlgorithmConfig, PPOConfig
from harness.context import Job
from harness.errors import RunFailed
from harness.feedback.pairs import read_pairs
from harness.hardware import Hardware
from harness.models.adapters import twin
from harness.models.kept import keep, load_kept_scorer, load_start_of_value, load_trainable_policy
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling
from harness.stages import Workspace
from harness.training.preferences import TokenPair
from harness.training.probes import Probe
from harness.types import TRAIN_SPLITS, Example, World

VERSION = 10

Gold = Callable[[Sequence[int], Sequence[str]], list[float]]
"""(prompt rows, responses) -> gold rewards."""

Measure = Callable[[LanguageModel, int], dict[str, Any]]
"""(policy, iteration) -> a row of held-out measurements, as ``Probe`` makes it; empty where nothing is measured."""


@dataclass
class Setup:
    """All that an algorithm works with.

    Args:
        policy: the SFT policy, to be trained in place.
        reference: the same policy, frozen.
        reward: the optimised reward model.
        prompts: token ids of the rl split's prompts.
        sampling: how training rollouts are drawn.
        probe: measures the policy on held-out prompts and keeps what it answered.
        gold: the known gold reward of responses to rows of ``prompts``; None where there is none.
        report_card: the reward model's, which a gate reads.
        hardware: where it trains, and in which precision.
        seed_for: a seed for each random stream, by its purpose.
        log: takes one row of ``metrics.jsonl``.
        advance: moves the progress bar by so many iterations and shows metrics.
        pairs: reads the labelled preference pairs, in the policy's tokens, for an algorithm that learns from them.
    """

    policy: LanguageModel
    reference: LanguageModel
    reward: Scorer
    prompts: list[list[int]]
    sampling: Sampling
    probe: Measure
    gold: Gold | None
    report_card: Mapping[str, Any] | None
    hardware: Hardware
    seed_for: Callable[[str], int]
    log: Callable[[Mapping[str, Any]], None]
    advance: Callable[..., None]
    pairs: Callable[[], list[TokenPair]]


class Result(NamedTuple):
    """How training ended.

    Args:
        status: ``ok`` or ``collapsed``.
        reason: which limit a collapsed run left.
        tokens: response tokens that were trained on, each as often as it was.
        flags: what the table must say of it, e.g. ``gate skipped``.
    """

    status: str
    reason: str | None
    tokens: int
    flags: list[str]


class Algorithm(Protocol):
    """Trains a policy. Constructed with its group's configuration."""

    def __init__(self, config: Any) -> None: ...

    def steps(self) -> int:
        """Iterations, for the progress bar."""
        ...

    def response_passes(self) -> int:
        """Responses that training goes over, each counted as often as it does: the budget of ``sft-more``."""
        ...

    def train(self, setup: Setup) -> Result: ...


def make_algorithm(config: AlgorithmConfig) -> Algorithm:
    """The class that ``algorithm._target_`` names, with its configuration."""
    from hydra.utils import get_class

    algorithm: Algorithm = get_class(config._target_)(config)
    return algorithm


def run_algorithm(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train the SFT policy against the reward model into ``model/``; probes go to ``probes.jsonl``.

    Raises:
        RunFailed: ``algorithm.prompt_splits`` holds no prompt, or a gate does not hold.
    """
    config = job.config
    data, reward_stage = job.data(workspace), workspace.inputs["reward_model"]
    policy = load_trainable_policy(
        workspace.inputs["sft"].directory, config.model, device=job.hardware.device, seed=workspace.seed_for("adapter")
    )
    reference = LanguageModel(twin(policy.model).requires_grad_(False), policy.codec)
    reward = _load_reward(workspace, job, policy)
    wanted = config.algorithm.prompt_splits
    examples = [example for split in TRAIN_SPLITS if split in wanted for example in data.splits[split]]
    held_out = data.splits["validation"]
    if not examples:
        raise RunFailed(f"no prompts in algorithm.prompt_splits={list(wanted)}")
    prompts, cuts = job.prompts(examples, policy.codec)
    sampling = job.training_sampling()
    probe = Probe(job, reference, reward, held_out, sampling, seed=workspace.seed_for("probe"))

    def pairs() -> list[TokenPair]:
        return [pair.tokens() for pair in read_pairs(workspace.inputs["feedback"].directory / "pairs.jsonl")]

    algorithm = make_algorithm(config.algorithm)
    with workspace.progress.stage(workspace.name, algorithm.steps(), "iterations") as bar:
        result = algorithm.train(
            Setup(
                policy=policy,
                reference=reference,
                reward=reward,
                prompts=policy.codec.encode_prompts(prompts),
                sampling=sampling,
                probe=probe,
                gold=None if job.world is None else _gold_of(job.world, examples),
                report_card=reward_stage.summary.get("report_card"),
                hardware=job.hardware,
                seed_for=workspace.seed_for,
                log=workspace.log,
                advance=bar.update,
                pairs=pairs,
            )
        )
    keep(policy, workspace.directory, config.model.lora)
    _write_lines(workspace.directory / "probes.jsonl", probe.rows)
    last = probe.rows[-1] if probe.rows else {}
    shown = ", ".join(f"{key} {last[key]:.2f}" for key in ("proxy", "gold", "kl") if last.get(key) is not None)
    return {
        "status": result.status,
        "reason": result.reason,
        "tokens": result.tokens,
        "flags": result.flags,
        "cuts": cuts._asdict(),
        "line": f"{result.status}: held-out {shown}" if shown else result.status,
    }


def _gold_of(world: World, examples: Sequence[Example]) -> Gold:
    """The world's gold reward of responses to these examples' prompts."""

    def gold(rows: Sequence[int], responses: Sequence[str]) -> list[float]:
        return [
            sum(world.gold_parts(examples[row].facts or {}, text).values())
            for row, text in zip(rows, responses, strict=True)
        ]

    return gold


def _load_reward(workspace: Workspace, job: Job, policy: LanguageModel) -> Scorer:
    config, directory = job.config, workspace.inputs["reward_model"].directory
    if isinstance(config.algorithm, PPOConfig) and config.algorithm.value.kind == "separate":
        seed = workspace.seed_for("reward adapter")
        return load_start_of_value(directory, config.model, job.hardware, policy=policy, seed=seed)
    return load_kept_scorer(directory, config.model, job.hardware, policy=policy)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
