"""A process with the hub's real clients: reads one task per line, as JSON, and answers each with a line.

The libraries read HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when they are imported, so each setting has a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Process:
    """This file as a process of its own, to be called with a task and its configuration."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "TRANSFORMERS_VERBOSITY": "error", **environment}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **settings},
        )

    def __call__(self, task: str, config: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([task, config]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The report and the test rows of a data set on the hub."""
    from harness.config import HubDataConfig
    from harness.data.sources import prepare
    from harness.hub import resolve_commit
    from harness.tasks.translate import Translate

    resolve_commit.cache_clear()  # each task stands for a run of its own
    given = {"columns": {"source": "en", "response": "de"}, "shares": {"sft": 1.0}, **config}
    data = prepare(Translate(), HubDataConfig(source="hub", **given))
    return {"report": data.report, "test": [row.fields["source"] for row in data.splits["test"]]}


def model(config: dict[str, Any]) -> dict[str, Any]:
    """What identifies a model on the hub, and its size once it is loaded."""
    from harness.config import ModelConfig
    from harness.hub import resolve_commit
    from harness.models.content import model_identity
    from harness.models.loading import load_base, parameter_count

    resolve_commit.cache_clear()
    base = ModelConfig(kind="hf", **config)
    return {"content": model_identity(base)["content"], "parameters": parameter_count(load_base(base).model)}


def fingerprint(config: dict[str, Any]) -> dict[str, Any]:
    """The data stage's fingerprint of a whole set-up, as the command line would make it."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from harness.config import register_schemas
    from harness.graph import build_graph
    from harness.hub import resolve_commit
    from harness.pipeline import make_job
    from harness.validation import validate

    resolve_commit.cache_clear()
    register_schemas()
    columns = ["data.columns.source=en", "data.columns.response=de"]
    given = ["task=translate", "data=hub", "feedback=metric", "judge.responses=samples", "hardware.threads=1"]
    with initialize_config_module("harness.conf", version_base="1.3"):
        made: Any = OmegaConf.to_object(compose("config", overrides=[*given, *columns, *config["typed"]]))
    validate(made)
    return {"fingerprint": build_graph(make_job(made)).parts["data"].fingerprint}


def composed(typed: list[str]) -> Any:
    """A whole set-up as the command line would make it, validated."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from harness.config import register_schemas
    from harness.validation import validate

    register_schemas()
    with initialize_config_module("harness.conf", version_base="1.3"):
        made: Any = OmegaConf.to_object(compose("config", overrides=typed))
    validate(made)
    return made


def plan(config: dict[str, Any]) -> dict[str, Any]:
    """The rows of the plan of a whole set-up."""
    from harness.graph import build_graph
    from harness.hub import resolve_commit
    from harness.pipeline import make_job
    from harness.plan import plan_rows

    resolve_commit.cache_clear()
    made = composed(config["typed"])
    job = make_job(made)
    return {"rows": [row._asdict() for row in plan_rows(job, build_graph(job), ())]}


def rows(config: dict[str, Any]) -> dict[str, Any]:
    """How many rows and pairs each split of a set-up's data has, and its first test prompt and pair."""
    from harness.data.sources import prepare
    from harness.pipeline import make_task

    made = composed(config["typed"])
    task = make_task(made.task)
    ready = prepare(task, made.data)
    first, pairs = ready.splits["test"][0], [pair for split in ready.pairs.values() for pair in split]
    return {
        "counts": ready.report["counts"],
        "pairs": len(pairs),
        "prompt": task.prompt(first.fields),
        "references": first.references,
        "pair": [task.prompt(pairs[0].fields), pairs[0].chosen, pairs[0].rejected] if pairs else None,
    }


TASKS = {"prepare": prepare, "model": model, "fingerprint": fingerprint, "plan": plan, "rows": rows}


def main() -> None:
    from harness.errors import UserError

    for line in sys.stdin:
        task, config = json.loads(line)
        start = time.perf_counter()
        try:
            answer = TASKS[task](config)
        except UserError as error:
            answer = {"error": str(error)}
        print(json.dumps({**answer, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
