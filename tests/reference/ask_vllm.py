"""Rollouts by a real vLLM beside our own, as JSON lines: run by ``tests/elsewhere`` in an environment that has it."""

from __future__ import annotations

import json
from typing import Any

import torch

from harness.config import ModelConfig
from harness.hardware import Hardware
from harness.models.nano import new_model
from harness.rollouts.sampler import Rollout, Sampling, sample
from harness.rollouts.scored import response_logprobs
from harness.rollouts.vllm_engine import COMPARED_ROWS, logprob_gap, serving

EOS, PAD = 0, 1
HARDWARE = Hardware("cpu", "fp32", 1)
PROMPTS = [[5 + (7 * row + 3 * column) % 290 for column in range(1 + row % 12)] for row in range(24)]


def peaked(architecture: str) -> Any:
    """A random model that is sure of what it says, and ends now and then."""
    config = ModelConfig(kind="nano", architecture=architecture, width=64, heads=2, layers=2, context=64)
    model = new_model(config, vocab_size=300, eos_id=EOS, pad_id=PAD, seed=1).eval()
    shake(model, 0)
    return model


def shake(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))


def ask(model: Any, engine: str, temperature: float, seed: int = 3, **options: Any) -> Rollout:
    settings = Sampling(12, temperature=temperature, engine=engine, **options)
    return sample(model, PROMPTS, settings, eos_id=EOS, pad_id=PAD, seed=seed, hardware=HARDWARE)


def equal(some: Rollout, other: Rollout) -> int:
    return sum(one == two for one, two in zip(some.tokens, other.tokens, strict=True))


def gap(model: Any) -> float:
    """How far vLLM's own logprobs of what it samples are from the model's, nats per token."""
    settings = Sampling(12, temperature=1.0, engine="vllm")
    engine = serving(model, max_tokens=24, memory=settings.engine_memory, precision="fp32")
    engine.load(model)
    answers = engine.answer(PROMPTS, settings, [EOS], seed=3)[:COMPARED_ROWS]
    ours = response_logprobs(
        model,
        PROMPTS[: len(answers)],
        [answer.tokens for answer in answers],
        temperature=1.0,
        width=12,
        batch_size=8,
        pad_id=PAD,
        hardware=HARDWARE,
    )
    return logprob_gap(answers, ours)


def main() -> None:
    for architecture in ("gpt2", "llama"):
        model = peaked(architecture)
        for trained in (False, True):
            if trained:
                shake(model, 1)
            native, vllm = (ask(model, engine, 0.0) for engine in ("native", "vllm"))
            found = {
                "architecture": architecture,
                "trained": trained,
                "rows": len(PROMPTS),
                "equal": equal(native, vllm),
                "ended": sum(vllm.ended),
                "logprobs": float((native.logprobs - vllm.logprobs).abs().max()),
            }
            found["gap"] = gap(model)
            print(json.dumps(found), flush=True)
        likeliest = ask(model, "vllm", 1.0, top_k=1)
        drawn = [ask(model, "vllm", 1.0, seed) for seed in (3, 3, 4)]
        again, other = (equal(drawn[0], each) for each in drawn[1:])
        print(
            json.dumps(
                {"architecture": architecture, "again": again, "other_seed": other, "likeliest": equal(likeliest, vllm)}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
