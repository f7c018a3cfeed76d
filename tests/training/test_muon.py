"""Muon on a CPU: against its iteration written out in fp64, and against torch's own."""

from __future__ import annotations

import pytest
import torch

from harness.hardware import Hardware
from harness.training import muon
from harness.training.muon import Muon, orthogonal

SHAPES = [(8, 8), (8, 20), (20, 8), (1, 6), (128, 48)]


STEPS = [(8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257)]


def written_out(matrix: torch.Tensor) -> torch.Tensor:
    """X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, three times."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).double()
    x = x / torch.linalg.svdvals(x).pow(4).sum() ** 0.25
    for a, b, c in STEPS:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x.T if tall else x


def exact(matrix: torch.Tensor, *_: object) -> torch.Tensor:
    """The matrix nearest to this one whose singular values are all 1."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def test_each_step_is_the_polynomial_nearest_to_one() -> None:
    """Chebyshev's alternation: of three numbers to choose, the largest error is met four times, with signs in turn."""
    lowest, highest = 0.003, 1.0
    for a, b, c in STEPS:
        x = torch.linspace(lowest, highest, 200_001, dtype=torch.float64)
        error = a * x + b * x**3 + c * x**5 - 1
        largest = error.abs().max().item()
        signs = error[error.abs() > 0.995 * largest].sign()
        turns = int((signs.diff() != 0).sum())
        assert (turns, signs[0].item()) == (3, -1.0)
        lowest, highest = 1 - largest, 1 + largest
    assert lowest == pytest.approx(0.354, abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonal([matrix])[0]
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.35
    assert values.max() < 1.65
    along = exact(matrix).T @ found
    torch.testing.assert_close(along, along.T, rtol=0, atol=1e-3)
    assert torch.linalg.eigvalsh(along).min() > -1e-3


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
def test_all_but_the_direction_is_torchs(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    """Momentum, scale and decay: both are given the exact direction in place of what they iterate to."""
    monkeypatch.setattr(muon, "orthogonal", lambda matrices, _: [exact(matrix) for matrix in matrices])
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", exact)
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
    assert (ours - theirs).norm() < 1e-4 * moved
    torch.testing.assert_close(
        fast.state_dict()["state"][0]["momentum_buffer"], plain.state_dict()["state"][0]["momentum_buffer"]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_direction_is_about_torchs(shape: tuple[int, int]) -> None:
    """Torch's five steps, in bf16, leave singular values of 0.7 to 1.2."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    ours.grad = torch.randn(shape)
    theirs.grad = ours.grad.clone()
    Muon([ours], lr=0.1, weight_decay=0.0).step()
    torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    one, two = ours.detach().flatten(), theirs.detach().flatten()
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.8
    assert 0.3 < one.norm() / two.norm() < 2.5  # at most 1.65 or 0.35, of 0.7 to 1.2


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_in_bf16_the_direction_is_about_that_of_fp32(shape: tuple[int, int], spread: float) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(0, -spread, shape[1])
    half, full = (orthogonal([matrix], kind)[0] for kind in (torch.bfloat16, torch.float32))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.nn.functional.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.96
    assert torch.linalg.svdvals(half).min() > 0.15
    assert torch.linalg.svdvals(half).max() < 2.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("able", [True, False])
def test_products_are_in_the_precision_of_the_hardware_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, alone: bool, able: bool
) -> None:
    kinds: list[torch.dtype] = []

    def seen(matrices: list[torch.Tensor], kind: torch.dtype) -> list[torch.Tensor]:
        kinds.append(kind)
        return orthogonal(matrices, kind)

    monkeypatch.setattr(muon, "orthogonal", seen)
    monkeypatch.setattr(muon, "multiplies_bf16", lambda: able)
    weight = torch.nn.Parameter(torch.zeros(8, 20))
    weight.grad = torch.randn(8, 20)
    Muon([weight], lr=0.1, weight_decay=0.0, hardware=Hardware("cpu", precision, 2, 1), alone=alone).step()
    assert kinds == [torch.bfloat16 if precision == "bf16" and able else torch.float32]
    assert weight.dtype == torch.float32
