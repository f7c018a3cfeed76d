"""Muon on a CPU against torch's own, and against the iteration written out in fp64."""

from __future__ import annotations

import pytest
import torch

from harness.hardware import Hardware
from harness.training import muon
from harness.training.muon import Muon, orthogonal

SHAPES = [(8, 8), (8, 20), (20, 8), (1, 6), (128, 48)]


def written_out(matrix: torch.Tensor) -> torch.Tensor:
    """X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, five times."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).double()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x.T if tall else x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_orthogonal_is_the_iteration_written_out(shape: tuple[int, int], spread: float) -> None:
    """Also where singular values lie three orders of magnitude apart."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(0, -spread, shape[1])
    other = torch.randn(shape[::-1])
    before = matrix.clone()
    for found, of in zip(orthogonal([matrix, other]), (matrix, other), strict=True):
        torch.testing.assert_close(found.double(), written_out(of), rtol=0, atol=2e-3)
    assert torch.equal(matrix, before)


def test_the_faster_library_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.models import kernels

    torch.manual_seed(0)
    matrix = torch.randn(48, 128)
    found = []
    for choice in (True, False):
        monkeypatch.setattr(kernels, "prefers_onednn", lambda choice=choice: choice)
        found.append(orthogonal([matrix, matrix.T])[1])
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_nothing_stays_nothing() -> None:
    assert torch.equal(orthogonal([torch.zeros(3, 5)])[0], torch.zeros(3, 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_torchs_within_the_rounding_of_its_bf16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    fast = Muon([ours], lr=0.1, weight_decay=0.01)
    plain = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in ((ours, fast), (theirs, plain)):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.01 * start.norm()
    assert (ours - theirs).norm() < 0.03 * moved
    torch.testing.assert_close(
        fast.state_dict()["state"][0]["momentum_buffer"], plain.state_dict()["state"][0]["momentum_buffer"]
    )


@pytest.mark.parametrize("stack", [1, 100, 2**20])
def test_a_matrix_moves_alike_alone_and_among_others(monkeypatch: pytest.MonkeyPatch, stack: int) -> None:
    monkeypatch.setattr(muon, "STACK", stack)
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in [*SHAPES, (6, 8), (8, 9)]]
    gradients = [torch.randn_like(start) for start in starts]

    def moved(rows: list[int]) -> list[torch.Tensor]:
        weights = [torch.nn.Parameter(starts[row].clone()) for row in rows]
        optimizer = Muon(weights, lr=0.1, weight_decay=0.01)
        for weight, row in zip(weights, rows, strict=True):
            weight.grad = gradients[row].clone()
        optimizer.step()
        return [weight.detach() for weight in weights]

    together = moved(list(range(len(starts))))
    for row, found in enumerate(together):
        torch.testing.assert_close(found, moved([row])[0], rtol=0, atol=1e-5)
        assert not torch.equal(found, starts[row])


@pytest.mark.parametrize("stack", [100, 2**20])
def test_two_threads_change_no_number(monkeypatch: pytest.MonkeyPatch, stack: int) -> None:
    monkeypatch.setattr(muon, "STACK", stack)
    shapes, found = [(8, 8), (8, 20), (20, 8), (8, 9), (64, 128), (128, 64), (64, 64)], []
    for workers in (1, 2):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = Muon(weights, lr=0.1, weight_decay=0.01, hardware=Hardware("cpu", "fp32", 1, workers))
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            optimizer.step()
        found.append([weight.detach() for weight in weights])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_matrix_without_a_gradient_stays_and_the_closure_is_called() -> None:
    still, moving = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    optimizer = Muon([still, moving], lr=0.1, weight_decay=0.1)

    def closure() -> float:
        moving.grad = torch.ones(2, 3)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert torch.equal(still.detach(), torch.ones(2, 3))
    assert not torch.equal(moving.detach(), torch.ones(2, 3))
