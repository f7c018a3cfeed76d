"""Responses to prompts, token by token: what a prompt left in the cache lies by itself, once for all its responses.

Of what a step of a small model takes, reading keys and values is up to half, and most of them are of prompts. Here a
prompt's lie in memory once, without room between one row's and the next: a processor reads them at 20 GB/s, and rows of
a cache with room for what follows at 11 (docs/performance.md). The queries of a prompt's responses read them in one
product of matrices, and each its own response's by products of a matrix and a vector. Both are numpy's, which autocast
leaves in fp32 (see ``one_query``), and which has a single response's query multiplied as a vector too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.models.decoding import PROMPTS_AT_ONCE
from harness.models.forward import prompt_cache
from harness.models.lean_step import STEPS, is_plain
from harness.models.one_thread import are_small
from harness.models.roomy_cache import RoomyLayer
from harness.training.masks import left_pad, position_ids


def lean_decoding(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int, *, tokens: int, shared: int
) -> LeanDecoding | None:
    """Read the prompts; None: this model, or this device, is not for it.

    Args:
        model: a causal language model.
        prompts: B lists of token ids, of which every ``shared`` consecutive ones are the same.
        pad_id: fills up shorter prompts.
        tokens: that may follow.
        shared: 1, or more.
    """
    ids, mask = left_pad(prompts[::shared], pad_id)
    if torch.is_grad_enabled() or not _is_for(model, ids.shape[1] - 1, tokens, shared) or not bool(mask[:, -1].all()):
        return None
    positions = position_ids(mask)
    layers = _read_prompts(model, ids[:, :-1], mask[:, :-1], positions[:, :-1])
    return LeanDecoding(model, layers, ids, mask, positions, tokens, shared)


def _read_prompts(model: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The keys and values, (G, heads, P, size) in fp32 each, that prompts leave in every layer; all are (G, P)."""
    layers: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(ids), PROMPTS_AT_ONCE):
        some = slice(start, start + PROMPTS_AT_ONCE)
        found = prompt_cache(model, ids[some], mask[some], positions[some]).layers
        if not layers:
            shape = (len(ids), *found[0].keys.shape[1:])
            layers = [(torch.empty(shape), torch.empty(shape)) for _ in found]
        for (keys, values), layer in zip(layers, found, strict=True):
            keys[some], values[some] = layer.keys, layer.values
    return layers


def _is_for(model: Any, prompt: int, tokens: int, shared: int) -> bool:
    """Whether it is a plain fp32 model on a CPU, as many heads of keys as of queries, and products stay small.

    Args:
        model: any.
        prompt: columns of a prompt before its last token.
        tokens: of a response.
        shared: responses to a prompt.
    """
    if model.device.type != "cpu" or prompt < 1 or not is_plain(model):
        return False
    if model.get_input_embeddings().weight.dtype != torch.float32:
        return False
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    alike = getattr(config, "num_key_value_heads", config.num_attention_heads) == config.num_attention_heads
    return bool(alike and are_small(prompt, tokens, size=size, shared=shared))


class LeanDecoding:
    """A ``Decoding``. A prompt's last token is run with its responses' first step."""

    def __init__(
        self,
        model: Any,
        layers: Sequence[tuple[Tensor, Tensor]],
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        tokens: int,
        shared: int,
    ) -> None:
        self.model, self.places, self.step = model, Places(len(ids), shared), STEPS[type(model).__name__]
        seen = None if bool(mask.all()) else mask[:, None, None, :-1]
        self.layers = [SplitLayer(keys, values, self.places, seen, tokens) for keys, values in layers]
        self.ids = ids[:, -1:].repeat_interleave(shared, 0)
        self.positions = positions[:, -1:].repeat_interleave(shared, 0)

    def logits(self) -> Tensor:
        return self.step(self.model, self.layers, ids=self.ids, positions=self.positions, mask=None)

    def keep(self, rows: Tensor) -> None:
        self.positions = self.positions[rows]
        prompts = self.places.keep(rows)
        for layer in self.layers:
            layer.keep(rows, prompts)

    def append(self, tokens: Tensor) -> None:
        self.ids = tokens[:, None]
        self.positions = self.positions + 1


class Places:
    """Where B rows stand among the n responses to each of G prompts, of which some have ended."""

    def __init__(self, prompts: int, shared: int) -> None:
        self.prompts, self.shared = prompts, shared
        self._rows: Tensor | None = None  # (B,) long, of G · n places; None: every one has its row

    def spread(self, rows: Tensor) -> Tensor:
        """(B, …) -> (G, n, …), with zeros for those that have ended."""
        filled = rows
        if self._rows is not None:
            filled = rows.new_zeros(self.prompts * self.shared, *rows.shape[1:]).index_copy_(0, self._rows, rows)
        return filled.view(self.prompts, self.shared, *rows.shape[1:])

    def taken(self, filled: Tensor) -> Tensor:
        """(G, n, …) -> (B, …)."""
        flat = filled.flatten(0, 1)
        return flat if self._rows is None else flat.index_select(0, self._rows)

    def keep(self, rows: Tensor) -> Tensor | None:
        """Go on with these rows alone; returns the prompts that still have some, (H,) long, or None: all have."""
        places = rows if self._rows is None else self._rows[rows]
        left, prompt = torch.unique(places // self.shared, return_inverse=True)
        taken = prompt * self.shared + places % self.shared
        self._rows = None if torch.equal(taken, torch.arange(len(left) * self.shared)) else taken
        if len(left) == self.prompts:
            return None
        self.prompts = len(left)
        found: Tensor = left
        return found


class SplitLayer:
    """One layer's keys and values: (G, heads, P, size) of prompts, and of each response its own.

    Args:
        keys, values: that the prompts left.
        places: of the rows, the same for all layers.
        seen: (G, 1, 1, P) bool, False on pads; None: there are none.
        tokens: that a response may have.
    """

    def __init__(self, keys: Tensor, values: Tensor, places: Places, seen: Tensor | None, tokens: int) -> None:
        self.keys, self.values, self.places, self.seen = keys, values, places, seen
        empty = self.keys.new_empty(places.prompts * places.shared, self.keys.shape[1], 0, self.keys.shape[-1])
        self.own = RoomyLayer(empty, empty, room=tokens)

    def keep(self, rows: Tensor, prompts: Tensor | None) -> None:
        """Go on with these rows, and with these prompts; None: with all of them."""
        self.own.batch_select_indices(rows)
        if prompts is not None:
            self.keys, self.values = self.keys.index_select(0, prompts), self.values.index_select(0, prompts)
            self.seen = None if self.seen is None else self.seen.index_select(0, prompts)

    def read(self, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """(B, 1, heads · size): what each row's token reads, whose own keys and values, (B, heads, 1, size), join.

        Args:
            queries: (B, heads, 1, size).
            keys, values: of the same token.
            scaling: of the queries.
        """
        own_keys, own_values = self.own.update(keys, values)
        asking = queries.squeeze(2).float() * scaling
        own = torch.from_numpy(np.matvec(own_keys.numpy(), asking.numpy()))
        weights = torch.softmax(torch.cat((self._scores_of_prompts(asking), own), -1), -1)
        to_prompts, to_own = weights.tensor_split([self.keys.shape[2]], -1)
        read_here = torch.from_numpy(np.vecmat(to_own.numpy(), own_values.numpy()))
        return read_here.add_(self._read_from_prompts(to_prompts)).flatten(1).unsqueeze(1)

    def _scores_of_prompts(self, asking: Tensor) -> Tensor:
        """(B, heads, P), -inf on pads, of queries (B, heads, size)."""
        each = self.places.spread(asking).transpose(1, 2)
        scores = torch.from_numpy(np.matmul(each.numpy(), self.keys.mT.numpy()))
        if self.seen is not None:
            scores.masked_fill_(~self.seen, -torch.inf)
        return self.places.taken(scores.transpose(1, 2))

    def _read_from_prompts(self, weights: Tensor) -> Tensor:
        """(B, heads, size) of (B, heads, P)."""
        each = self.places.spread(weights).transpose(1, 2)
        return self.places.taken(torch.from_numpy(np.matmul(each.numpy(), self.values.numpy())).transpose(1, 2))
