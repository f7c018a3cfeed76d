"""From tokens as rows of a matrix to the heads of attention over padded columns, and back, in one step each way.

Attention reads padded batches, of prompts and of responses that see their prompts too, and in fp32 on a CPU (see
``kernels.attend``). One index for each number that it needs is all that takes; by torch's operators, each with a way
back of its own, it would be dozens for every layer, which in a small model take as long as the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.models.real_tokens import Cells, filled_up, gathered


class Columns(NamedTuple):
    """Padded columns of some rows.

    Args:
        rows, columns: B and T.
        cells: which of the B · T hold N tokens.
    """

    rows: int
    columns: int
    cells: Cells


class Layout(NamedTuple):
    """Where the tokens of a batch stand among the rows of a matrix: those of prompts, then those of responses.

    What comes after them fills the matrix up.

    Args:
        prompts: (B / shared, P); None: there are none.
        responses: (B, T).
        shared: so many consecutive responses have one prompt.
    """

    prompts: Columns | None
    responses: Columns
    shared: int

    @property
    def start(self) -> int:
        """The row of the first response's first token."""
        return 0 if self.prompts is None else self.prompts.cells.size

    @property
    def stop(self) -> int:
        """The row after the last token."""
        return self.start + self.responses.cells.size

    @property
    def columns(self) -> int:
        """P."""
        return 0 if self.prompts is None else self.prompts.columns


class Sizes(NamedTuple):
    """Heads of queries, and of keys and of values, and the numbers in each."""

    queries: int
    keys: int
    size: int

    @property
    def heads(self) -> int:
        return self.queries + 2 * self.keys


Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values: (B, heads, T, size), (B, heads, K, size) twice."""


def to_heads(
    projected: Tensor,
    layout: Layout,
    sizes: Sizes,
    *,
    kind: torch.dtype,
    last: bool = False,
    at: Tensor | None = None,
) -> list[Heads]:
    """What attention is given: of the prompts, where there are any, and of the responses, which see their prompts too.

    A pad has another token's queries, keys and values; no gradient comes from it.

    Args:
        projected: (N, heads · size), of each token its queries, keys and values, one after the other.
        layout: of the rows.
        sizes: of the heads.
        kind: what attention is given them in.
        last: the prompts ask nothing, and are left out.
        at: (B,) long, the row of the one token of each response that asks, where it is the last layer; None: all do.
    """
    found = _ToHeads.apply(projected, layout, sizes, last, at, kind)  # type: ignore[no-untyped-call]
    return [found[first : first + 3] for first in range(len(found) - 3, -1, -3)]


def to_rows(found: Sequence[Tensor], cells: Sequence[Cells], spare: int = 0) -> Tensor:
    """(N, d): of (B, T, d) of each part what its tokens have, one part after the other, then so many rows of zeros."""
    return _ToRows.apply(spare, cells, *found)  # type: ignore[no-untyped-call,no-any-return]


def _take(filled: Tensor, cells: Cells, out: Tensor) -> None:
    """Write the tokens' rows of all cells into ``out``."""
    if len(cells.pads) and filled.dtype == out.dtype:
        torch.index_select(filled, 0, cells.real, out=out)
    else:
        out.copy_(gathered(filled, cells))


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, layout: Layout, sizes: Sizes, last: bool, at: Tensor | None, kind: torch.dtype
    ) -> tuple[Tensor, ...]:
        ctx.layout, ctx.sizes, ctx.last, ctx.at = layout, sizes, last, at
        ctx.shape, ctx.kind = projected.shape, projected.dtype
        (count, columns, cells), before, width = layout.responses, layout.columns, sizes.queries * sizes.size
        own = projected[layout.start : layout.stop]
        joined = projected.new_empty((count, before + columns, 2 * sizes.keys, sizes.size), dtype=kind)
        if at is None:
            filled = filled_up(own, cells).view(count, columns, sizes.heads, sizes.size)
            queries = filled[:, :, : sizes.queries].to(kind).contiguous().transpose(1, 2)
            joined[:, before:] = filled[:, :, sizes.queries :]
        else:
            queries = projected.index_select(0, at)[:, :width].to(kind).view(count, sizes.queries, 1, sizes.size)
            joined[:, before:] = filled_up(own[:, width:], cells).view(count, columns, -1, sizes.size)
        keys, values = torch.split(joined.transpose(1, 2), sizes.keys, 1)
        if layout.prompts is None:
            return queries, keys, values
        alone = projected[: layout.start, width * last :]
        of_prompts = filled_up(alone, layout.prompts.cells).view(
            -1, 1, before, alone.shape[1] // sizes.size, sizes.size
        )
        seen = joined.view(-1, layout.shared, *joined.shape[1:])[:, :, :before]
        seen.copy_(of_prompts[..., -2 * sizes.keys :, :])
        if last:
            return queries, keys, values
        asking = of_prompts.squeeze(1)[:, :, : sizes.queries].to(kind).contiguous().transpose(1, 2)
        return queries, keys, values, asking, *torch.split(seen[:, 0].transpose(1, 2), sizes.keys, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layout, sizes, at = ctx.layout, ctx.sizes, ctx.at
        (count, columns, cells), before, width = layout.responses, layout.columns, sizes.queries * sizes.size
        result = grads[0].new_empty(ctx.shape, dtype=ctx.kind)
        result[layout.stop :] = 0
        queries, keys, values = grads[:3]
        asking = 0 if at is not None else sizes.queries
        filled = result.new_empty((count, columns, asking + 2 * sizes.keys, sizes.size))
        if at is None:
            filled[:, :, :asking] = queries.transpose(1, 2)
        filled[:, :, asking : asking + sizes.keys] = keys[:, :, before:].transpose(1, 2)
        filled[:, :, asking + sizes.keys :] = values[:, :, before:].transpose(1, 2)
        own = result[layout.start : layout.stop]
        if at is None:
            _take(filled.view(-1, ctx.shape[1]), cells, own)
        else:
            own[:, :width] = 0
            own[:, width:] = filled.view(count * columns, -1).index_select(0, cells.real)
            result[:, :width].index_copy_(0, at, queries.reshape(count, width).to(ctx.kind))
        if layout.prompts is not None:
            prompts, theirs = layout.prompts, grads[3:]
            filled = result.new_empty((prompts.rows, before, sizes.heads, sizes.size))
            filled[:, :, : sizes.queries] = theirs[0].transpose(1, 2) if theirs else 0
            for index, grad in enumerate((keys, values)):
                first = sizes.queries + index * sizes.keys
                seen = grad[:, :, :before]
                if layout.shared > 1:
                    seen = seen.view(prompts.rows, layout.shared, *seen.shape[1:]).sum(1)
                if theirs:
                    seen = seen + theirs[1 + index]
                filled[:, :, first : first + sizes.keys] = seen.transpose(1, 2)
            _take(filled.view(-1, ctx.shape[1]), prompts.cells, result[: layout.start])
        return result, None, None, None, None, None


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spare: int, parts: Sequence[Cells], *found: Tensor) -> Tensor:
        ctx.parts, ctx.shapes, ctx.kinds = parts, [each.shape for each in found], [each.dtype for each in found]
        rows = sum(each.size for each in parts)
        result = found[0].new_empty((rows + spare, found[0].shape[-1]))
        pieces = torch.split(result[:rows], [each.size for each in parts])
        for each, cells, piece in zip(found, parts, pieces, strict=True):
            _take(each.flatten(0, 1), cells, piece)
        result[rows:] = 0
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows = sum(each.size for each in ctx.parts)
        pieces = torch.split(grad[:rows], [each.size for each in ctx.parts])
        filled = [
            filled_up(piece, cells).index_fill(0, cells.pads, 0.0) if len(cells.pads) else piece
            for piece, cells in zip(pieces, ctx.parts, strict=True)
        ]
        given = zip(filled, ctx.shapes, ctx.kinds, strict=True)
        return None, None, *(each.view(shape).to(kind) for each, shape, kind in given)
