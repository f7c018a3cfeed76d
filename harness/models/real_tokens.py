"""The tokens of padded columns as rows of a matrix, and back: what goes row by row need not be computed for pads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Cells(NamedTuple):
    """Which of M cells, those of (B, T) one row after the other, hold N tokens.

    Args:
        size: N.
        real: (N,) long, their cells.
        tokens: (M,) long: the token in each cell; in a pad's the first one, which is no one's in particular.
        pads: (M - N,) long, the other cells.
    """

    size: int
    real: Tensor
    tokens: Tensor
    pads: Tensor


def cells(real: Tensor) -> Cells:
    """Those of a mask (B, T), bool, True on at least one token."""
    flat = real.flatten()
    found = flat.nonzero().squeeze(1)
    tokens = (flat.cumsum(0) - 1) * flat
    return Cells(len(found), found, tokens, (~flat).nonzero().squeeze(1))


def spread(rows: Tensor, where: Cells) -> Tensor:
    """(N, d) -> (M, d): each token in its cell; a pad has a copy of another's, into which no gradient flows."""
    return _Spread.apply(rows, where) if len(where.pads) else rows  # type: ignore[no-untyped-call]


def gathered(filled: Tensor, where: Cells) -> Tensor:
    """(M, …) -> (N, …): what the tokens' cells hold."""
    if not len(where.pads):
        return filled
    if not filled.requires_grad:
        return filled.index_select(0, where.real)
    return _Gathered.apply(filled, where)  # type: ignore[no-untyped-call,no-any-return]


# torch's own passes back add into zeros, one number at a time: here each is a copy.


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, where: Cells) -> Tensor:
        ctx.where = where
        return rows.index_select(0, where.tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.where.real), None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, filled: Tensor, where: Cells) -> Tensor:
        ctx.where = where
        return filled.index_select(0, where.real)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.where.tokens).index_fill_(0, ctx.where.pads, 0.0), None
