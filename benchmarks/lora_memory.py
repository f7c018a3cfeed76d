"""Memory and time of PPO with full fine-tuning and with adapters: four roles on a random GPT-2, tiny batches.

    python -m benchmarks.lora_memory              # 12 layers of 768 (87 M parameters), one iteration each

Each way runs in a process of its own, since a process's peak memory is one number. Time is that process's own, by
default on one thread, so that what else runs does not count. Nothing is learned: the weights are random, and neither
memory nor time depends on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import parser, positive, run
from benchmarks.report import Figure, Report
from benchmarks.sides import ROOT
from benchmarks.timing import alternate
from harness.errors import RunFailed, UserError

PROMPT_TOKENS, RESPONSE_TOKENS, BATCH = 32, 16, 4
HEAD_SIZE = 64
SIZES = ("layers", "width", "rank", "iterations")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("lora_memory", __doc__, rounds=1, sizes=None, threads=1)
    for name, default, about in (
        ("--layers", 12, "layers of the model"),
        ("--width", 768, f"width of the model, a multiple of {HEAD_SIZE}"),
        ("--rank", 16, "rank of the adapters"),
        ("--iterations", 1, f"iterations of PPO, each with four passes over {BATCH} episodes"),
    ):
        options.add_argument(name, type=positive, default=default, metavar="N", help=f"{about} (default: {default})")
    options.add_argument("--way", choices=("base", "full", "lora"), default=None, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.way is not None:
        print(json.dumps(measure(given)))
        return 0
    return run(options, compare, arguments)


def compare(options: argparse.Namespace) -> Report:
    """Both ways, each round in new processes.

    Raises:
        UserError: a width that heads do not divide.
    """
    if options.width % HEAD_SIZE:
        raise UserError("--width", options.width, f"is no multiple of {HEAD_SIZE}", "give one")
    with tempfile.TemporaryDirectory() as folder:
        _apart("base", folder, options)
        ways = {"lora": lambda: _apart("lora", folder, options), "full": lambda: _apart("full", folder, options)}
        measured = alternate(ways, options.rounds)
    asked = {name: getattr(options, name) for name in (*SIZES, "rounds")}
    report = Report("lora_memory", asked, options.threads, details={"measurements": measured})
    for name in measured["full"][0]:
        title, _, unit = name.rpartition(", ")
        values = {way: [row[name] for row in rows] for way, rows in measured.items()}
        report.figures.append(Figure(title, unit, values, ("lora", "full")))
    return report


def _apart(way: str, folder: str, options: argparse.Namespace) -> dict[str, float]:
    given = [f"--{name}={getattr(options, name)}" for name in (*SIZES, "threads")]
    command = [sys.executable, "-m", "benchmarks.lora_memory", *given, "--way", way, "--folder", folder]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{way} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(given: Any) -> dict[str, float]:
    """One way: models are loaded from disk as the stages do it, trained, and the policy is kept."""
    import torch

    from harness.config import ChecksConfig, LimitsConfig, LoraConfig, ModelConfig, OptimizerConfig, PPOConfig
    from harness.hardware import Hardware
    from harness.memory import peak_memory_mb, reset_peak_memory
    from harness.models.adapters import trainable, twin
    from harness.models.kept import keep, load_new_scorer, load_trainable_policy, start_scorer
    from harness.models.loading import LanguageModel
    from harness.models.scorer import Scorer
    from harness.rollouts.sampler import Sampling
    from harness.training.algorithm import Setup
    from harness.training.gates import GATES
    from harness.training.ppo_training import PPOTraining

    size = {"layers": given.layers, "width": given.width, "heads": given.width // HEAD_SIZE, "context": 128}
    config = ModelConfig(kind="nano", **size, lora=LoraConfig(rank=given.rank if given.way == "lora" else None))
    sft = given.folder / "sft"
    if given.way == "base":
        _save_base(config, sft / "model")
        return {}
    torch.set_num_threads(given.threads)
    hardware = Hardware("cpu", "fp32", given.threads)
    reset_peak_memory()
    before = peak_memory_mb()
    policy = load_trainable_policy(sft, config, device="cpu", seed=0)
    scorer = (
        start_scorer(policy, head_seed=1)
        if given.way == "lora"
        else load_new_scorer(sft, config, device="cpu", seed=0, head_seed=1)
    )
    setup = Setup(
        policy=policy,
        reference=LanguageModel(twin(policy.model).requires_grad_(False), policy.codec),
        reward=Scorer(*scorer, hardware),
        prompts=[[2 + (7 * row + column) % 200 for column in range(PROMPT_TOKENS)] for row in range(BATCH)],
        sampling=Sampling(RESPONSE_TOKENS),
        probe=lambda policy, iteration: {},
        gold=None,
        report_card=None,
        hardware=hardware,
        seed_for=lambda purpose: len(purpose),
        log=lambda row: None,
        advance=lambda *_, **__: None,
        pairs=list,
    )
    nothing = LimitsConfig(max_kl=None, min_entropy=None, min_length=None, max_length_share=None)
    algorithm = PPOConfig(
        episodes=given.iterations * BATCH,
        batch_size=BATCH,
        minibatch_size=BATCH,
        epochs=4,
        optimizer=OptimizerConfig(lr=1e-5, warmup=0.0),
        checks=ChecksConfig(skip_gates=list(GATES), probes=0, limits=nothing),
    )
    started = time.process_time()
    PPOTraining(algorithm).train(setup)
    seconds, peak = time.process_time() - started, peak_memory_mb()
    keep(policy, given.folder / given.way, config.lora)
    trained = {id(p): p.numel() for model in (policy.model, scorer.model) for p in trainable(model).values()}
    return {
        "parameters of the policy, M": sum(p.numel() for p in policy.model.parameters()) / 1e6,
        "trained, policy and value, M": sum(trained.values()) / 1e6,
        "before any model, MB": before,
        "peak of training, MB": peak,
        "peak, saving included, MB": peak_memory_mb(),
        "CPU time per iteration, s": seconds / given.iterations,
    }


def _save_base(config: Any, folder: Path) -> None:
    from harness.models.codec import Codec
    from harness.models.loading import LanguageModel, save
    from harness.models.nano import new_model, train_tokenizer

    codec = Codec(train_tokenizer(["one two three four five six seven eight nine ten"] * 10, 300))
    model = new_model(config, vocab_size=2048, eos_id=codec.eos_id, pad_id=codec.pad_id, seed=0)
    save(LanguageModel(model, codec), folder)


if __name__ == "__main__":
    sys.exit(main())
