"""Padding and masks: prompts are padded on the left, responses on the right, and True always means *keep*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """The same values in fp32 at least: half precision is for models, not for sums over tokens."""
    import torch

    return values.to(torch.promote_types(values.dtype, torch.float32))


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """Values in `full_precision`, 0 wherever the mask is False, whatever stood there.

    Filled *before* the arithmetic, not after it: 0 * inf in a backward pass would be NaN.
    """
    return full_precision(values).masked_fill(~mask, 0.0)


class Padded(NamedTuple):
    """Token ids (B, T) long, and their mask (B, T) bool, True on real tokens."""

    ids: Tensor
    mask: Tensor


def position_ids(mask: Tensor) -> Tensor:
    """Each token's position among the real tokens of its row: the one rule, in rollout and in training alike.

    Args:
        mask: (B, T) bool, True on real tokens, wherever the pads are.
    Returns: (B, T) long; a pad has the position of the token before it, or 0.

    >>> import torch
    >>> position_ids(torch.tensor([[False, False, True, True, False]]))
    tensor([[0, 0, 0, 1, 1]])
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def last_index(mask: Tensor) -> Tensor:
    """Index of the last True in each row: where a sequence is scored and its score is paid.

    Args:
        mask: (B, T) bool.
    Returns: (B,) long.
    Raises: ValueError where a row has no True.

    >>> import torch
    >>> last_index(torch.tensor([[True, True, False], [False, True, True]]))
    tensor([1, 2])
    """
    import torch

    last = torch.arange(mask.shape[-1], device=mask.device).expand_as(mask).masked_fill(~mask, -1)
    if mask.shape[-1] == 0 or not bool(mask.any(-1).all()):
        raise ValueError(f"rows {(~mask.any(-1)).nonzero().flatten().tolist()} of the mask hold no token")
    return last.amax(-1)


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int, *, width: int | None = None) -> Padded:
    """Prompts as one batch, so that all of them end in the same column and the response follows at once.

    Args:
        sequences: B lists of token ids; a pad id among them counts as a real token.
        pad_id: what fills up.
        width: T; None: the longest sequence.
    Raises: ValueError where a sequence is longer than ``width``: nothing is cut here.

    >>> left_pad([[7], [8, 9]], pad_id=0).ids
    tensor([[0, 7],
            [8, 9]])
    """
    return _pad(sequences, pad_id, width, left=True)


def right_pad(sequences: Sequence[Sequence[int]], pad_id: int, *, width: int | None = None) -> Padded:
    """Responses, or whole sequences to train on, as one batch; see `left_pad`.

    >>> right_pad([[7], [8, 9]], pad_id=0).mask
    tensor([[ True, False],
            [ True,  True]])
    """
    return _pad(sequences, pad_id, width, left=False)


def _pad(sequences: Sequence[Sequence[int]], pad_id: int, width: int | None, *, left: bool) -> Padded:
    import torch

    longest = max((len(sequence) for sequence in sequences), default=0)
    columns = longest if width is None else width
    if longest > columns:
        raise ValueError(f"a sequence of {longest} tokens does not fit width={columns}")
    fill = [[pad_id] * (columns - len(sequence)) for sequence in sequences]
    rows = [[*pads, *ids] if left else [*ids, *pads] for pads, ids in zip(fill, sequences, strict=True)]
    ids = torch.tensor(rows, dtype=torch.long).view(len(rows), columns)
    pads = torch.tensor([len(each) for each in fill], dtype=torch.long)[:, None]
    column = torch.arange(columns)
    mask = column >= pads if left else column < columns - pads
    return Padded(ids, mask)
