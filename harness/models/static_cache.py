"""A key–value cache whose tensors stay where they are, as compiled steps and CUDA graphs want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from harness.models.kernels import as_autocast


class FixedLayer(StaticLayer):  # type: ignore[misc]
    """One layer's keys and values, (B, heads, W, size) each, that another owns.

    Args:
        keys, values: the next token's are written into them; what lies behind it is finite.
        column: () long, into which column that is; whoever owns it counts on.
    """

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__(keys.shape[-2])
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values, self.cumulative_length = keys, values, column

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the states of one token, in the precision of those that are there; returns all keys and all values."""
        self.keys.index_copy_(2, self.cumulative_length.view(1), key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.cumulative_length.view(1), value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The columns that are seen, and the first of them."""
        return self.keys.shape[-2], 0


class StaticMemory:
    """Where a model's keys and values lie: as much as its largest batch needs, which all others use in turn.

    They are in the precision in which attention reads them, autocast's where it is on.
    """

    def __init__(self) -> None:
        self.column: Tensor
        self._flat: list[tuple[Tensor, Tensor]] = []
        self._sizes: list[tuple[int, int, int]] = []
        self._caches: dict[tuple[int, int, int], Cache] = {}
        self._room = 0
        self.expected = 0
        """Rows times columns of the largest batch that is to come: what is allocated later would lie elsewhere."""

    def take(self, layers: Sequence[Any], *, rows: int, width: int) -> None:
        """Copy what a prompt's pass left into the first columns of a batch.

        Args:
            layers: of a cache that the pass filled, (B, heads, T, size) each.
            rows: of the batch, B or more; those beyond B hold zeros.
            width: columns that it may come to.
        """
        sizes = [(one.keys.shape[1], one.keys.shape[3], one.values.shape[3]) for one in layers]
        kinds = [(as_autocast(one.keys[:0]).dtype, as_autocast(one.values[:0]).dtype) for one in layers]
        same = sizes == self._sizes and kinds == [(keys.dtype, values.dtype) for keys, values in self._flat]
        if rows * width > self._room or not same:
            self._allocate(layers[0].keys.device, sizes, kinds, max(rows * width, self.expected))
        count, column = layers[0].keys.shape[0], layers[0].keys.shape[2]
        for taken, held in zip(layers, self._all(rows, width), strict=True):
            for states, room in zip((taken.keys, taken.values), held, strict=True):
                room[:count, :, :column] = states
                room[:count, :, column:] = 0
                room[count:] = 0
        self.column.fill_(column)

    def cache(self, rows: int, width: int, columns: int) -> Cache:
        """The first ``columns`` of the batch that was taken with so many rows (or keeps so many now) and ``width``."""
        key = rows, width, columns
        if key not in self._caches:
            parts = [tuple(one[:, :, :columns] for one in held) for held in self._all(rows, width)]
            for tensor in (each for part in parts for each in part):
                torch._dynamo.mark_static_address(tensor)
            self._caches[key] = Cache(layers=[FixedLayer(keys, values, self.column) for keys, values in parts])
        return self._caches[key]

    def keep(self, index: Tensor, rows: int, width: int) -> None:
        """Move these rows of a batch of so many to its beginning, in this order: a smaller batch starts there too."""
        for held in self._all(rows, width):
            for states in held:
                states[: len(index)] = states[index]

    def _all(self, rows: int, width: int) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                keys[: rows * width * heads * size].view(rows, heads, width, size),
                values[: rows * width * heads * other].view(rows, heads, width, other),
            )
            for (keys, values), (heads, size, other) in zip(self._flat, self._sizes, strict=True)
        ]

    def _allocate(
        self, device: Any, sizes: list[tuple[int, int, int]], kinds: list[tuple[Any, Any]], room: int
    ) -> None:
        self._caches.clear()
        self._flat.clear()
        self._flat = [
            (
                torch.zeros(room * heads * size, dtype=of_keys, device=device),
                torch.zeros(room * heads * other, dtype=of_values, device=device),
            )
            for (heads, size, other), (of_keys, of_values) in zip(sizes, kinds, strict=True)
        ]
        self._sizes, self._room = sizes, room
        self.column = torch.zeros((), dtype=torch.long, device=device)
        torch._dynamo.mark_static_address(self.column)


_MEMORIES: WeakKeyDictionary[Any, StaticMemory] = WeakKeyDictionary()


def memory_of(model: Any) -> StaticMemory:
    """The memory of this model's batches, kept as long as the model is."""
    return _MEMORIES.setdefault(model, StaticMemory())
