"""Memory and time of PPO with full fine-tuning and with adapters: four roles on a random GPT-2, tiny batches.

    python benchmarks/lora_memory.py                      # 12 layers of 768 (87 M parameters), one iteration each

Each way runs in a process of its own, since a process's peak memory is one number. Time is that process's own on one
thread, so that what else runs does not count. Nothing is learned: the weights are random, and neither memory nor time
depends on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS, RESPONSE_TOKENS, BATCH = 32, 16, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--way", choices=("base", "full", "lora"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is not None:
        print(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _, *rows = [_apart(way, folder, sys.argv[1:]) for way in ("base", "full", "lora")]
    print(f"{'':32}{'full':>12}{'lora':>12}")
    for name in rows[0]:
        print(f"{name:32}" + "".join(f"{row[name]:>12,.1f}" for row in rows))


def _apart(way: str, folder: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments, "--way", way, "--folder", folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
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
    from harness.training.ppo_training import PPOTraining

    size = {"layers": given.layers, "width": given.width, "heads": given.width // 64, "context": 128}
    config = ModelConfig(kind="nano", **size, lora=LoraConfig(rank=given.rank if given.way == "lora" else None))
    sft = given.folder / "sft"
    if given.way == "base":
        _save_base(config, sft / "model")
        return {}
    torch.set_num_threads(1)
    hardware = Hardware("cpu", "fp32", 1)
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
    gates = ["accuracy", "ratio", "invariance", "eos", "logprobs"]
    algorithm = PPOConfig(
        episodes=given.iterations * BATCH,
        batch_size=BATCH,
        minibatch_size=BATCH,
        epochs=4,
        optimizer=OptimizerConfig(lr=1e-5, warmup=0.0),
        checks=ChecksConfig(skip_gates=gates, probes=0, limits=nothing),
    )
    started = time.process_time()
    PPOTraining(algorithm).train(setup)
    seconds, peak = time.process_time() - started, peak_memory_mb()
    keep(policy, given.folder / given.way, config.lora)
    trained = {id(p): p.numel() for model in (policy.model, scorer.model) for p in trainable(model).values()}
    return {
        "parameters of the policy, M": sum(p.numel() for p in policy.model.parameters()) / 1e6,
        "trained, policy and value, M": sum(trained.values()) / 1e6,
        "MB before any model": before,
        "MB at the peak of training": peak,
        "MB at the peak, saving included": peak_memory_mb(),
        "CPU seconds per iteration": seconds / given.iterations,
    }


def _save_base(config: Any, folder: Path) -> None:
    from harness.models.codec import Codec
    from harness.models.loading import LanguageModel, save
    from harness.models.nano import new_model, train_tokenizer

    codec = Codec(train_tokenizer(["one two three four five six seven eight nine ten"] * 10, 300))
    model = new_model(config, vocab_size=2048, eos_id=codec.eos_id, pad_id=codec.pad_id, seed=0)
    save(LanguageModel(model, codec), folder)


if __name__ == "__main__":
    main()
