"""One side of a comparison, in a process of its own: it answers requests, one JSON line each, until there are no more.

Nothing here imports more than Python's own library: the other system's environment runs it too.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import measure
from harness.memory import peak_memory_mb, reset_peak_memory


class Prepared(NamedTuple):
    """A piece of work that is loaded and ready.

    Args:
        train: what is timed; returns what it counted.
        save: writes the trained model to a folder.
    """

    train: Callable[[], Mapping[str, Any]]
    save: Callable[[Path], None]


Prepare = Callable[[Mapping[str, Any]], Prepared]
"""A request -> what it asks for, models loaded and data read: none of that is timed."""


def warm_up() -> None:
    """One update of a model of no size: what torch and transformers import at first use belongs to the baseline."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


PACKAGES = ("trl", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Of Python, and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def serve(load: Callable[[], Mapping[str, Prepare]]) -> None:
    """Answer requests from standard input on standard output; whatever libraries print goes to standard error.

    The first line holds the ``versions`` of what the side runs on, before anything of it is imported. The second says
    what importing took, one update of a model of no size included. Each request names a ``stage``,
    a folder to ``save`` to or null, and what the stage wants to know; each answer holds ``seconds``, ``others``,
    ``peak_memory_mb`` and what the stage counted.

    Args:
        load: imports what the stages need and returns them by name.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(row: Mapping[str, Any]) -> None:
        replies.write(json.dumps(row) + "\n")
        replies.flush()

    reply({"versions": versions()})
    started = time.perf_counter()
    stages = load()
    warm_up()
    reply({"import_seconds": time.perf_counter() - started, "import_memory_mb": peak_memory_mb()})
    for line in sys.stdin:
        reply(answer(stages, json.loads(line)))


def answer(stages: Mapping[str, Prepare], request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what one request asks for, in this process; returns what was measured and counted."""
    gc.collect()  # models of the request before, which hold each other
    reset_peak_memory()
    prepared = stages[request["stage"]](request)
    counted, measured = measure(prepared.train)
    row = {**measured._asdict(), "peak_memory_mb": peak_memory_mb(), **counted}
    if request["save"] is not None:
        prepared.save(Path(request["save"]))
    return row
