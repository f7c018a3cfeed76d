"""A process with the hub's real clients: reads one task per line, as JSON, and answers each with a line.

The libraries read HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when they are imported, so each setting has a process.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The report and the test rows of a data set on the hub."""
    from harness.config import CleaningConfig, HubDataConfig
    from harness.data.prepared import prepare
    from harness.hub import resolve_commit
    from harness.tasks.translate import Translate

    resolve_commit.cache_clear()  # each task stands for a run of its own
    columns = config.pop("columns", {"source": "en", "response": "de"})
    shares = config.pop("shares", {"sft": 1.0})
    pairs_columns = config.pop("pairs_columns", {})
    hub = HubDataConfig(source="hub", cleaning=CleaningConfig(), **config)
    data = prepare(
        Translate(),
        source="hub",
        path=hub.path,
        columns=columns,
        pairs_path=hub.pairs_path,
        pairs_columns=pairs_columns,
        shares=shares,
        hub=hub,
    )
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


TASKS = {"prepare": prepare, "model": model, "fingerprint": fingerprint}


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
