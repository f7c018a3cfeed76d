"""A key–value cache that is allocated ahead, in place of one that is copied for every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from harness.models.kernels import as_autocast, is_half

ROOM = 64
"""Tokens for which there is space at most each time that a cache is made larger."""


def roomy(layers: Sequence[Any], *, tokens: int) -> list[Any]:
    """A cache's layers with room for further tokens: as they are, they would be copied whole for each of them.

    All are kept in the precision in which attention reads them, since they would be cast for every token: under
    autocast to bf16 that is fp32 on a CPU, and bf16 elsewhere.

    Args:
        layers: of a cache of transformers, which a prompt's pass filled; those of other kinds than the usual one
            (sliding windows, states) stay as they are.
        tokens: that may follow.
    """
    return [_with_room(layer, min(ROOM, tokens)) for layer in layers]


def _with_room(layer: Any, room: int) -> Any:
    if type(layer) is not DynamicLayer or not layer.is_initialized:
        return layer
    keys, values = (each.float() if is_half(each) else as_autocast(each) for each in (layer.keys, layer.values))
    return RoomyLayer(keys, values, room=room)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, (B, heads, T, size) each, which are the used part of larger tensors.

    Args:
        keys, values: what is in it already; they are copied.
        room: tokens for which there is space besides, now and whenever it runs out.
    """

    keys: Tensor
    values: Tensor
    _all_keys: Tensor
    _all_values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, *, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._room = room
        self._hold(keys, values, keys.shape[-2] + room)

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of further tokens; returns all keys and all values."""
        used, added = self.keys.shape[-2], key_states.shape[-2]
        if used + added > self._all_keys.shape[-2]:
            self._hold(self.keys, self.values, used + added + self._room)
        self._all_keys[:, :, used : used + added] = key_states
        self._all_values[:, :, used : used + added] = value_states
        return self._use(used + added)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        # With their room, of which nothing is known: whole rows are copied much faster than parts of them.
        self._all_keys = self._all_keys.index_select(0, indices)
        self._all_values = self._all_values.index_select(0, indices)
        self._use(self.keys.shape[-2])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times, one after the other."""
        rows = torch.arange(len(self.keys), device=self.keys.device).repeat_interleave(repeats)
        self.batch_select_indices(rows)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As ``batch_select_indices``."""
        self.batch_select_indices(beam_idx.to(self.keys.device))

    def _hold(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        rows, heads, used, _ = keys.shape
        self._all_keys = keys.new_empty(rows, heads, capacity, keys.shape[-1])
        self._all_values = values.new_empty(rows, heads, capacity, values.shape[-1])
        self._all_keys[:, :, :used] = keys
        self._all_values[:, :, :used] = values
        self._use(used)

    def _use(self, tokens: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._all_keys[:, :, :tokens], self._all_values[:, :, :tokens]
        return self.keys, self.values
