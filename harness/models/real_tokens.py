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
    return filled.index_select(0, where.real) if len(where.pads) else filled


def filled_up(rows: Tensor, where: Cells) -> Tensor:
    """What ``spread`` makes of rows that learn nothing, or whose way back is another's."""
    return rows.index_select(0, where.tokens) if len(where.pads) else rows


class _Spread(torch.autograd.Function):
    """Whose way back is a copy: torch's own adds into zeros, one number at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, where: Cells) -> Tensor:
        ctx.where = where
        return filled_up(rows, where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.where.real), None
