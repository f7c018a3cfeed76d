"""Attention of one query to each row's keys, by products of a matrix and a vector.

While a batch is answered every row reads all its keys and values anew for one token: the fewest operations for the most
memory. torch makes a product of matrices of it, which a processor fetches memory for more slowly: for 256 times 60 keys
of 64 numbers 0.34 ms on a core of Zen 4 against 0.19 (docs/performance.md).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.models.one_thread import MOST_NUMBERS


def has_one(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether queries, (B, heads, Q, size), are of one token, on a CPU, and learn nothing.

    Args:
        queries: in fp32 or bf16.
        keys, values: (B, heads, T, size) in fp32, not too large; fewer heads than queries have are not for this.
    """
    return (
        queries.shape[2] == 1
        and queries.shape[1] == keys.shape[1]
        and keys.device.type == "cpu"
        and keys.dtype == values.dtype == torch.float32
        and keys.shape[2] * keys.shape[3] < MOST_NUMBERS
        and not torch.is_grad_enabled()
    )


def attend_to(
    keys: Tensor, values: Tensor, queries: Tensor, *, mask: Tensor | None = None, scaling: float | None = None
) -> Tensor:
    """(B, heads, 1, size), in the queries' precision: softmax(q kᵀ · scaling) v.

    Args:
        keys, values: (B, heads, T, size) in fp32.
        queries: (B, heads, 1, size).
        mask: (B, 1, 1, T) bool, True on what a row may see, which is something; None: all.
        scaling: None: size ** -0.5.
    """
    scaled = queries.float() * (queries.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.from_numpy(np.matvec(keys.numpy(), scaled.squeeze(2).numpy()))
    if mask is not None:
        scores.masked_fill_(~mask.squeeze(2), -torch.inf)
    found = torch.from_numpy(np.vecmat(torch.softmax(scores, -1).numpy(), values.numpy()))
    return found.unsqueeze(2).to(queries.dtype)
