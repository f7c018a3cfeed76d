"""The same functions by faster kernels: what a model's layers compute stays, how it is computed follows the processor.

On a CPU torch gives fp32 matrix products to MKL, which uses AVX-512 on Intel's processors alone. oneDNN, which torch
carries too, uses it on AMD's as well: on one core of an EPYC (Zen 5) 230 to 256 GFLOP/s in place of 100 to 112, with
the shapes of a model of width 128 to 384 (docs/performance.md). Where AMD has no AVX-512 (Zen 3), or computes it in two
steps (Zen 4), it is no faster, and torch has all products. bf16 products are oneDNN's already: there its rows are
filled up to few numbers of them, and attention is in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from harness.hardware import prefers_onednn
from harness.models.gelu import TanhGELU

FEWEST_ROWS = 32
"""A product of fewer rows is over sooner in MKL, whose calls cost less (measured at 8: 16 µs against 21)."""
MOST_ROWS = 8192
"""Beyond so many, oneDNN's own buffers add up to hundreds of megabytes; only the scoring of whole batches has them."""
SMALL = 192
"""Matrices of at most so many rows and columns are multiplied many at once, whatever the library: calls to oneDNN cost
more than it saves (twelve of 128 x 128 on a core of Zen 4: 0.54 ms in one call of torch, 0.95 in twelve)."""
TANH_GELUS = ("NewGELUActivation", "FastGELUActivation", "GELUTanh")
"""What transformers calls GELU's approximation by tanh."""


def use_fast_kernels(model: Any) -> Any:
    """Let a model's linear layers and activations use them, in place; it is saved, copied and trained as before.

    Args:
        model: any module; layers of other classes than torch's and GPT-2's own (quantised ones, say) stay as they are.
    Returns: the model. For all models of the process "sdpa" is ``attend`` from then on, which is torch's for others.
    """
    ALL_ATTENTION_FUNCTIONS.register("sdpa", attend)
    for module in model.modules():
        if any(isinstance(child, (nn.Linear, Conv1D)) for child in module.children()):
            module.attends_in_full = True  # adapters, which come between it and its layers, leave that
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
        for name, child in module.named_children():
            if type(child).__name__ in TANH_GELUS:
                setattr(module, name, TanhGELU())
    return model


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """transformers' attention "sdpa", which computes in fp32 what a CPU has in bf16: torch's pass back is slow there.

    Sampling and scoring then round alike. A single query of keys in bf16 stays as it is, which casting would
    make slow, and so do models without our layers. A compiler is not asked to look into it.

    Args:
        module: the layer.
        query, key, value: (B, heads, Q or K, size).
        attention_mask: (B, 1, Q, K), bool or what is added to scores; None: causal, or none.
        given: further arguments of transformers' function.
    """
    alone = query.shape[2] == 1 and key.dtype != torch.float32
    if not is_half(query) or alone or not getattr(module, "attends_in_full", False):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)  # type: ignore[no-any-return]
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask.float()
    if given.get("position_bias") is not None:  # T5's
        given["position_bias"] = given["position_bias"].float()
    with torch.autocast("cpu", enabled=False):
        both = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **given)
    return both[0].to(torch.bfloat16), None


class FastLinear(nn.Linear):
    """A linear layer that asks oneDNN where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        if _is_cast(input, self.weight):
            return _in_whole_rows(super().forward, input)
        if not _is_for_onednn(input, self.weight):
            return super().forward(input)
        return _linear(input, self.weight, self.bias, False)


class FastConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, which holds its matrix the other way round, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_cast(x, self.weight):
            return _in_whole_rows(super().forward, x)
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
        and _has_onednn()
    )


@functools.cache
def _has_onednn() -> bool:
    """Whether this torch has oneDNN's linear layer, an operator without a public name."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_cast(input: Tensor, weight: Tensor) -> bool:
    """Whether autocast has this product of a weight in fp32 in bf16."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and is_half(input)


def is_half(input: Tensor) -> bool:
    """Under autocast to bf16 on a CPU; compilers have autocast do it."""
    return (
        not torch.compiler.is_compiling()
        and input.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and input.dtype in (torch.float32, torch.bfloat16)
    )


def as_autocast(states: Tensor) -> Tensor:
    """Keys or values in the precision in which attention reads them under autocast, which casts what is in another.

    Rotary positions leave keys in fp32 there: in a cache they would be cast, all of them, for every token.

    Args:
        states: of any shape.

    Returns:
        The same in autocast's precision, where it is on for their device; else as they are.
    """
    kind = states.device.type
    cast = torch.is_autocast_enabled(kind) and states.dtype == torch.float32
    return states.to(torch.get_autocast_dtype(kind)) if cast else states


def product(left: Tensor, right: Tensor) -> Tensor:
    """left · rightᵀ by the faster library: (M, K), (N, K) -> (M, N), outside of autograd."""
    return _product(left, right) if _is_for_onednn(left, right) else left @ right.t()


def products(left: Tensor, right: Tensor) -> Tensor:
    """left · rightᵀ of each: (B, M, K), (B, N, K) -> (B, M, N), outside of autograd; small ones in one call."""
    if max(left.shape[1:]) <= SMALL or not _is_for_onednn(left[0], right[0]):
        return torch.bmm(left, right.mT)
    return torch.stack([_product(*pair) for pair in zip(left, right, strict=True)])


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
    step = _row_step(rows)
    return rows // step * step


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    # Of factors that lie the other way round it makes copies of its own, between which the heap falls to pieces.
    left, right = left.contiguous(), right.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result


def _in_whole_rows(layer: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """A layer's output for (…, K) in bf16, from as many rows as ``more_rows`` says, of which the last are zeros."""
    rows = input.reshape(-1, input.shape[-1])
    missing = more_rows(len(rows)) - len(rows)
    if missing:
        result = layer(nn.functional.pad(rows.to(torch.bfloat16), (0, 0, 0, missing)))[: len(rows)]
    else:
        result = layer(rows)
    return result.view(*input.shape[:-1], result.shape[-1])


def more_rows(rows: int) -> int:
    """The next number of rows with four leading binary digits, at most an eighth more; ``whole_rows`` is for fp32.

    oneDNN keeps code for every number of rows it meets. With five digits, at most a sixteenth more, SFT of nano is no
    faster and takes 140 MB more (docs/performance.md).

    >>> [more_rows(rows) for rows in (1, 15, 17, 1264, 1279, 1281)]
    [1, 15, 18, 1280, 1280, 1408]
    """
    step = _row_step(rows)
    return -(-rows // step) * step


def _row_step(rows: int) -> int:
    """What the numbers of four leading binary digits up to this one's power of two are multiples of."""
    return 1 << max(rows.bit_length() - 4, 0)


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
