"""GELU's approximation by tanh, as GPT-2 has it, by the sigmoid that it is: on a CPU torch's tanh takes its time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
PIECE = 2**17
"""Numbers at a time: half a megabyte of each of the four that are worked on stays in a core's own cache."""


class TanhGELU(nn.Module):
    """y = x/2 (1 + tanh √(2/π) (x + 0.044715 x³)), which is x σ(2 √(2/π) (x + 0.044715 x³)).

    Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2.
    """

    def forward(self, input: Tensor) -> Tensor:
        kinds = (torch.float32, torch.bfloat16)
        if torch.compiler.is_compiling() or input.device.type != "cpu" or input.dtype not in kinds:
            return nn.functional.gelu(input, approximate="tanh")
        if torch.is_grad_enabled() and input.requires_grad:
            result: Tensor = _WithSlopes.apply(input)  # type: ignore[no-untyped-call]
            return result
        return _by_pieces(input)


def _by_pieces(input: Tensor, slopes: Tensor | None = None) -> Tensor:
    """y, of the input's shape; dy/dx goes into ``slopes``, of that shape too."""
    linear, result = torch.tensor(LINEAR), torch.empty(input.shape, dtype=input.dtype)
    into = torch.split(slopes.view(-1), PIECE) if slopes is not None else None
    pieces = zip(*(torch.split(each.reshape(-1), PIECE) for each in (input, result)), strict=True)
    for index, (given, out) in enumerate(pieces):
        x = given.float()
        sigmoid = torch.addcmul(linear, x, x, value=CUBIC).mul_(x).sigmoid_()
        if into is not None:  # σ + x (a + 3b x²) σ (1 - σ), of which torch has the last as a sigmoid's way back
            inner = torch.addcmul(linear, x, x, value=3 * CUBIC).mul_(x)
            into[index].copy_(torch.ops.aten.sigmoid_backward(inner, sigmoid).add_(sigmoid))
        out.copy_(sigmoid.mul_(x))
    return result


class _WithSlopes(torch.autograd.Function):
    """Keeps dy/dx, which is as large as the x that it takes the place of, for the way back."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        slopes = torch.empty(input.shape, dtype=input.dtype)
        result = _by_pieces(input, slopes)
        ctx.save_for_backward(slopes)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slopes: Tensor = ctx.saved_tensors[0]
        return grad * slopes
