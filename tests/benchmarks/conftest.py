"""The benchmarks are no part of the wheel: they are imported from the checkout, however pytest was started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models and texts that all these tests share."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(autouse=True)
def _threads_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command sets for its own process is taken back."""
    monkeypatch.setenv("HARNESS_BENCHMARK_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
