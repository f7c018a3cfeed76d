"""GELU by the sigmoid: torch's function and its gradient, in one piece or many, also where it saturates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.models import gelu
from harness.models.gelu import TanhGELU


def both_ways(function: object, values: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    given = values.clone().requires_grad_()
    result = function(given)  # type: ignore[operator]
    result.backward(grad)
    assert given.grad is not None
    return result.detach(), given.grad


@pytest.mark.parametrize("piece", [7, 2**17])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5, 7), (3, 4, 50)])
def test_the_value_and_the_gradient_are_those_in_double_precision(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], piece: int
) -> None:
    monkeypatch.setattr(gelu, "PIECE", piece)
    generator = torch.Generator().manual_seed(1)
    values, grad = 4 * torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    expected = both_ways(nn.GELU(approximate="tanh"), values.double(), grad.double())
    for ours, theirs in zip(both_ways(TanhGELU(), values, grad), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    learning = both_ways(TanhGELU(), values, grad)[0]
    with torch.no_grad():
        assert torch.equal(TanhGELU()(values), learning)


def test_it_saturates_without_a_number_that_is_none() -> None:
    values = torch.tensor([-1e10, -1e4, -50.0, 0.0, 50.0, 1e4])
    result, slopes = both_ways(TanhGELU(), values, torch.ones(6))
    assert result.tolist() == [0, 0, 0, 0, 50, 1e4]
    assert slopes.tolist() == [0, 0, 0, 0.5, 1, 1]


def test_in_bf16_it_is_as_near_as_its_digits() -> None:
    values, grad = torch.linspace(-6, 6, 1001).bfloat16(), torch.ones(1001).bfloat16()
    expected = both_ways(nn.GELU(approximate="tanh"), values.double(), grad.double())
    for ours, theirs in zip(both_ways(TanhGELU(), values, grad), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=2**-8)


def test_a_transposed_input_keeps_its_places() -> None:
    values, grad = torch.randn(6, 9).t(), torch.randn(9, 6)
    expected = both_ways(nn.GELU(approximate="tanh"), values, grad)
    for ours, theirs in zip(both_ways(TanhGELU(), values, grad), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_in_double_precision_torch_is_asked() -> None:
    values = torch.randn(50, dtype=torch.float64)
    assert torch.equal(TanhGELU()(values), nn.functional.gelu(values, approximate="tanh"))
