"""What the tests of the formulae share: the naive reference, and random batches with ragged masks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

REFERENCE = Path(__file__).parents[1] / "reference" / "naive_rlhf.py"


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """tests/reference/naive_rlhf.py, however pytest was started."""
    spec = importlib.util.spec_from_file_location("naive_rlhf", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def halves_of_any_size(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The batches of tests go in halves, as a small one would not; returns what makes them worth it."""
    from harness.training import updates

    real = updates.WORTH_A_PASS
    monkeypatch.setattr(updates, "WORTH_A_PASS", dict.fromkeys(real, 0))
    return real


class Batch:
    """(4, 6) double tensors from a seed, with responses of 6, 1, 4 and 3 tokens."""

    lengths = (6, 1, 4, 3)

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.mask = torch.arange(6) < torch.tensor(self.lengths).unsqueeze(1)

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        shape = shape or (4, 6)
        return scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def tokens(self, vocabulary: int) -> torch.Tensor:
        return torch.randint(vocabulary, (4, 6), generator=self.generator)


@pytest.fixture(params=[0, 1, 2])
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch(request.param)


def pad_right(values: torch.Tensor, fill: float) -> torch.Tensor:
    """Three more columns at the end, all holding ``fill``."""
    shape = (values.shape[0], 3, *values.shape[2:])
    return torch.cat([values, torch.full(shape, fill, dtype=values.dtype)], dim=1)


@pytest.fixture(params=[0.0, 1e30, float("nan")], ids=["zeros", "huge", "nan"])
def padded(request: pytest.FixtureRequest):
    """A function that pads each tensor on the right: masks with False, floats with something nasty, integers with 0."""

    def pad_all(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [pad_right(x, request.param if x.is_floating_point() else 0) for x in tensors]

    return pad_all
