"""The same functions by faster kernels: what a model's layers compute stays, how it is computed follows the processor.

On a CPU torch gives fp32 matrix products to MKL, which uses AVX-512 on Intel's processors alone. oneDNN, which torch
carries too, uses it on AMD's as well: on one core of an EPYC (Zen 5) 230 to 256 GFLOP/s in place of 100 to 112, with
the shapes of a model of width 128 to 384 (docs/performance.md). Without AVX-512 (Zen 3) it is no faster, and torch has
all products. bf16 products are oneDNN's already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from harness.hardware import prefers_onednn

FEWEST_ROWS = 32
"""A product of fewer rows is over sooner in MKL, whose calls cost less (measured at 8: 16 µs against 21)."""
MOST_ROWS = 8192
"""Beyond so many, oneDNN's own buffers add up to hundreds of megabytes; only the scoring of whole batches has them."""
TANH_GELUS = ("NewGELUActivation", "FastGELUActivation")
"""What transformers calls GELU's approximation by tanh where it is computed step by step."""


def use_fast_kernels(model: Any) -> Any:
    """Let a model's linear layers and activations use them, in place; it is saved, copied and trained as before.

    Args:
        model: any module; layers of other classes than torch's and GPT-2's own (quantised ones, say) stay as they are.
    Returns: the model.
    """
    for module in model.modules():
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
        for name, child in module.named_children():
            if type(child).__name__ in TANH_GELUS:
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])
    return model


class FastLinear(nn.Linear):
    """A linear layer that asks oneDNN where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        if not _is_for_onednn(input, self.weight):
            return super().forward(input)
        return _linear(input, self.weight, self.bias, False)


class FastConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, which holds its matrix the other way round, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_for_onednn(x, self.weight):
            result: Tensor = super().forward(x)
            return result
        return _linear(x, self.weight, self.bias, True)


FAST = {nn.Linear: FastLinear, Conv1D: FastConv1D}


def _is_for_onednn(input: Tensor, weight: Tensor) -> bool:
    """fp32 on a CPU outside of autocast, with rows enough to pay for the call, and not too many; compilers choose."""
    return (
        not torch.compiler.is_compiling()
        and input.device.type == weight.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and FEWEST_ROWS * input.shape[-1] <= input.numel() <= MOST_ROWS * input.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and prefers_onednn()
    )


def product(left: Tensor, right: Tensor) -> Tensor:
    """left · rightᵀ by the faster library: (M, K), (N, K) -> (M, N), outside of autograd."""
    return _product(left, right) if _is_for_onednn(left, right) else left @ right.t()


def products(left: Tensor, right: Tensor) -> Tensor:
    """left · rightᵀ of each: (B, M, K), (B, N, K) -> (B, M, N), outside of autograd; oneDNN takes one at a time."""
    if _is_for_onednn(left[0], right[0]):
        return torch.stack([_product(*pair) for pair in zip(left, right, strict=True)])
    return torch.bmm(left, right.mT)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    if torch.is_grad_enabled():
        result: Tensor = _Linear.apply(input, weight, bias, transposed)  # type: ignore[no-untyped-call]
        return result
    return _product(input, weight.t() if transposed else weight, bias)


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left · rightᵀ + bias: (…, K), (N, K), (N,) -> (…, N)."""
    rows = left.reshape(-1, left.shape[-1])
    most = whole_rows(len(rows))
    result = _by_onednn(rows[:most], right, bias)
    if most < len(rows):
        result = torch.cat([result, nn.functional.linear(rows[most:], right, bias)])
    return result.view(*left.shape[:-1], right.shape[0])


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ · right: (M, N), (M, K) -> (N, K); oneDNN copies its first factor's transpose: the smaller one."""
    if left.shape[1] > right.shape[1]:
        return _outer(right, left).t()
    most = whole_rows(len(left))
    result = _by_onednn(left[:most].t(), right[:most].t())
    return result.addmm_(left[most:].t(), right[most:]) if most < len(left) else result


def whole_rows(rows: int) -> int:
    """How many of so many rows oneDNN gets, at least seven in eight; torch has the rest.

    It writes and keeps code for every shape that it meets, 0.1 MB each, and batches of text are of ever other lengths:
    numbers of rows with four leading binary digits are few.

    >>> [whole_rows(rows) for rows in (32, 35, 36, 1264, 1343, 1344)]
    [32, 32, 36, 1152, 1280, 1280]
    """
    step = 1 << max(rows.bit_length() - 4, 0)
    return rows // step * step


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    # Of factors that lie the other way round it makes copies of its own, between which the heap falls to pieces.
    left, right = left.contiguous(), right.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b, whose gradients are products too: dx = dy W, dW = dyᵀ x, db = Σ dy."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        # What a frozen weight needs no gradient from is not kept.
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, weight)
        ctx.transposed = transposed
        return _product(input, weight.t() if transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        for_input, for_weight, for_bias, _ = ctx.needs_input_grad
        rows, weighed = grad.flatten(0, -2), None
        if for_weight:
            inputs = input.flatten(0, -2)
            weighed = _outer(*((inputs, rows) if ctx.transposed else (rows, inputs)))
        return (
            _product(grad, weight if ctx.transposed else weight.t()) if for_input else None,
            weighed,
            rows.sum(0) if for_bias else None,
            None,
        )
