"""The answers stage: the test prompts put to an endpoint, before anything else takes time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.api.cache import AnswerCache
from harness.api.client import Client
from harness.api.endpoint import Endpoint
from harness.api.request import request_body
from harness.config import APIModelConfig
from harness.context import Job
from harness.stages import Workspace

VERSION = 1
CACHE = "answers"
"""Where answers are kept, below ``output_dir``."""


def api_model(job: Job) -> APIModelConfig:
    """The configuration of ``model=api``."""
    assert isinstance(job.config.model, APIModelConfig)
    return job.config.model


def model_endpoint(config: APIModelConfig) -> Endpoint:
    """The endpoint of a candidate."""
    return Endpoint(str(config.base_url), str(config.name), config.api)


def answers_identity(config: APIModelConfig) -> dict[str, Any]:
    """What of the model's configuration decides answers; who serves it may change what is behind a name unseen."""
    return {
        "base_url": str(config.base_url).rstrip("/"),
        "name": config.name,
        "protocol": config.api.protocol,
        "system": config.api.system,
        "options": dict(config.api.options),
    }


def answers_seed(config: APIModelConfig, temperature: float, seed: int) -> int | None:
    """The seed that answers depend on; None where the likeliest are asked for, which all seeds share.

    Where the temperature is taken out of the request the endpoint has one of its own, which may be any.
    """
    return seed if temperature > 0 or "temperature" in config.api.options else None


def run_answers(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Ask for one answer per test prompt; ``answers.jsonl`` keeps them, the summary what they took."""
    config, examples = api_model(job), job.data(workspace).splits["test"]
    temperature = job.config.evaluation.temperature
    seed = answers_seed(config, temperature, job.config.seed)
    bodies = [
        request_body(
            job.task,
            example.fields,
            model=str(config.name),
            api=config.api,
            max_tokens=job.config.task.max_response_tokens,
            temperature=temperature,
            seed=seed,
        )
        for example in examples
    ]
    kept = Path(job.config.output_dir) / CACHE
    if seed is not None and "seed" in config.api.options:  # taken out: requests do not tell the seeds' answers apart
        kept = kept / f"seed-{seed}"
    client = Client(model_endpoint(config), AnswerCache(kept))
    with workspace.progress.stage(workspace.name, len(bodies), "answers") as bar:
        replies = client.ask(bodies, bar.update)
    with (workspace.directory / "answers.jsonl").open("w", encoding="utf-8") as file:
        for example, reply in zip(examples, replies, strict=True):
            file.write(json.dumps({"id": example.id, **reply._asdict()}, ensure_ascii=False) + "\n")
    usage = client.usage
    counts = f"{usage.prompt_tokens:,} + {usage.response_tokens:,} tokens"
    cost = "" if usage.cost is None else f", cost {usage.cost:.4g}"
    return {
        "usage": asdict(usage),
        "flags": answer_flags([(reply.text, reply.finish_reason) for reply in replies]),
        "line": f"{usage.answers} answers, {usage.asked} asked for now, {counts}{cost}",
    }


def answer_flags(said: list[tuple[str, str | None]]) -> list[str]:
    """What the table must say of the answers: how many are empty, how many the endpoint held back."""
    empty, filtered = sum(not text for text, _ in said), sum(reason == "content_filter" for _, reason in said)
    found = []
    if empty:
        found.append(f"{empty} empty answers")
    if filtered:
        found.append(f"{filtered} answers filtered by the endpoint")
    return found
