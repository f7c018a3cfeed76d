"""What the tests of the evaluation share: the naive references, random corpora, the built-in metrics."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from harness.evaluation.registry import load_metric
from harness.types import Metric

REFERENCE = Path(__file__).parents[1] / "reference"
WORDS = ["the", "a", "cat", "cats", "sat", "sitting", "on", "mat", "mats,", "dog.", "U.S.", "running?", "runs!", "3.5"]
WORDS += ["größer", "über", "it's", "(yes)", "&amp;", "-"]

Corpus = tuple[list[str], list[list[str]]]


def load_reference(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def naive_metrics() -> ModuleType:
    """tests/reference/naive_metrics.py, however pytest was started."""
    return load_reference("naive_metrics")


@pytest.fixture(scope="session")
def naive_statistics() -> ModuleType:
    """tests/reference/naive_statistics.py, however pytest was started."""
    return load_reference("naive_statistics")


@pytest.fixture(scope="session")
def corpus() -> Callable[..., Corpus]:
    """Random texts, some empty, some copies of a reference; one to three references each, or a fixed number."""

    def make(seed: int, size: int, references: int | None = None) -> Corpus:
        rng = random.Random(seed)

        def text(least: int) -> str:
            joint = rng.choice([" ", " ", " ", "\n"])
            return joint.join(rng.choice(WORDS) for _ in range(rng.randint(least, 14)))

        refs = [[text(1) for _ in range(references or rng.randint(1, 3))] for _ in range(size)]
        outputs = [rng.choice([text(0), text(0), text(1), "", rng.choice(row)]) for row in refs]
        return outputs, refs

    return make


@pytest.fixture(scope="session")
def metrics() -> dict[str, Metric]:
    """The built-in metrics by module name."""
    return {name: load_metric(name) for name in ("bleu", "chrf", "rouge", "squad", "distinct")}
