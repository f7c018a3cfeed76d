"""Decoding in shapes that stay as they are from token to token: a step is compiled once and, on a GPU, replayed.

A step of a small model, or of a large one at few rows, is over before Python has asked for the next kernel. Compiled by
torch it is few kernels, and replayed as a CUDA graph it is one call. Both want tensors that stay where they are and as
large as they are: keys and values lie in memory that one model's batches use in turn, rows that have ended go on until
half are left, and what is read of the cache grows by ``COLUMNS`` at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.models.forward import prompt_cache
from harness.training.masks import left_pad, position_ids

if TYPE_CHECKING:
    import torch

COLUMNS = 112
"""The cache is read in whole multiples of so many tokens, each a graph of its own. No batch is a multiple of seven:
torch compiles anew where two sizes that were the same once are so no more."""
FEWEST_ROWS = 8


def bucket(rows: int) -> int:
    """The batch in which so many rows are answered: a power of two, or one and a half times one.

    >>> [bucket(rows) for rows in (1, 9, 12, 13, 100, 128, 129)]
    [8, 12, 12, 16, 128, 128, 192]
    """
    power = FEWEST_ROWS
    while power < rows:
        if power * 3 // 2 >= rows:
            return power * 3 // 2
        power *= 2
    return power


def whole_columns(tokens: int) -> int:
    """The columns in which so many tokens are read."""
    return -(-tokens // COLUMNS) * COLUMNS


def expect(model: Any, *, rows: int, prompt: int, tokens: int) -> None:
    """Say how large the model's batches will be, so that the memory of their keys and values is taken once.

    Memory that is taken later would lie elsewhere, and a GPU replays a step where its tensors lay.

    Args:
        model: whose batches.
        rows: of the largest.
        prompt: tokens of the longest prompt.
        tokens: length limit of responses.
    """
    from harness.models.static_cache import memory_of

    memory_of(model).expected = bucket(rows) * whole_columns(max(prompt, 2) - 1 + tokens)


class StaticDecoding:
    """Rows that have a prompt and the tokens chosen so far, of a causal language model; see ``Decoding``."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, tokens: int, shared: int) -> None:
        import torch

        from harness.models.static_cache import memory_of

        ids, mask = (tensor.to(model.device) for tensor in left_pad(prompts, pad_id))
        if ids.shape[1] == 1:  # a prompt of one token leaves no keys, whose sizes the memory is made by
            ids, mask = (torch.nn.functional.pad(tensor, (1, 0), value=0) for tensor in (ids, mask))
        positions = position_ids(mask)
        cache = prompt_cache(model, ids[:, :-1], mask[:, :-1], positions[:, :-1], shared=shared)
        count, prompt = ids.shape
        self.model, self.rows, self.column = model, bucket(count), prompt - 1
        self.width = whole_columns(prompt - 1 + tokens)
        self.memory = memory_of(model)
        self.memory.take(cache.layers, rows=self.rows, width=self.width)
        self.index = torch.arange(count, device=ids.device)  # of the rows that go on, in the batch of ``rows``
        # What a row may not see is its padding; that it sees nothing ahead is the model's own rule.
        self.mask = torch.ones(self.rows, self.width, dtype=torch.long, device=ids.device)
        self.mask[:count, :prompt] = mask.long()
        self.ids = ids.new_full((self.rows, 1), pad_id)
        self.ids[:count] = ids[:, -1:]
        self.positions = positions.new_zeros(self.rows, 1)
        self.positions[:count] = positions[:, -1:]

    def logits(self) -> torch.Tensor:
        import torch

        columns = whole_columns(self.column + 1)
        cache = self.memory.cache(self.rows, self.width, columns)
        mask = self.mask[:, :columns].contiguous()
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # the last step's logits have been read
        logits: torch.Tensor = compiled_step(self.model.device.type)(self.model, self.ids, mask, self.positions, cache)
        return logits[self.index]

    def keep(self, rows: torch.Tensor) -> None:
        import torch

        self.index = self.index[rows.to(self.index.device)]
        count = len(self.index)
        if 2 * count > self.rows or self.rows == FEWEST_ROWS:
            return
        self.memory.keep(self.index, self.rows, self.width)
        self.rows = bucket(count)
        for name in ("ids", "mask", "positions"):
            held = getattr(self, name)
            kept = torch.ones_like(held[: self.rows])
            kept[:count] = held[self.index]
            setattr(self, name, kept)
        self.index = torch.arange(count, device=self.index.device)

    def append(self, tokens: torch.Tensor) -> None:
        self.ids[self.index, 0] = tokens.to(self.ids.device)
        self.positions += 1
        self.column += 1
        self.memory.column.fill_(self.column)


def step(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
    """(B, V): the logits after one token more; what ``compiled_step`` compiles.

    Args:
        model: a causal language model.
        ids: (B, 1) long, the token; its keys and values join the cache.
        mask: (B, columns) long, 0 on padding and 1 on all else, columns that are still to come included.
        positions: (B, 1) long, where the token stands in its row, padding not counted.
        cache: of ``StaticMemory``, with B rows and as many columns.
    """
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits


@functools.cache
def compiled_step(device_type: str) -> Callable[..., torch.Tensor]:
    """The step, compiled once for all sizes of batch and cache, and for all models of one architecture."""
    import torch

    # A sweep's models differ in their sizes, and each kind is compiled: torch gives up at eight.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    mode = "reduce-overhead" if device_type == "cuda" else None  # what torch calls CUDA graphs
    made: Callable[..., torch.Tensor] = torch.compile(step, dynamic=True, fullgraph=True, mode=mode)
    return made
