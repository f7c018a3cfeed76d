"""One pass over prompts and responses together, by the layers of GPT-2 and Llama alone.

A cache makes two passes of it, of which each is prepared anew, and of a small model that and the calls take as long as
the products. Here norms, linear layers and feed-forward blocks see the tokens of prompts and responses as rows of one
matrix, which has none for pads. Attention alone tells them apart: a prompt's tokens see the prompt, which may be shared
by several responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.models.kernels import is_half
from harness.models.lean_step import goes_by_its_layers, read
from harness.models.real_tokens import Cells, cells, gathered, spread
from harness.training.masks import position_ids

if TYPE_CHECKING:
    from harness.models.forward import Batch


class Layer(NamedTuple):
    """What such a layer is made of.

    Args:
        before: the norm before attention.
        project: (N, d) -> queries, keys and values, (N, heads · size) each.
        attention: the module, which attention functions ask for its settings.
        out: the linear layer after attention.
        between: the norm before the feed-forward block.
        block: the feed-forward block.
    """

    before: nn.Module
    project: Callable[[Tensor], Sequence[Tensor]]
    attention: Any
    out: nn.Module
    between: nn.Module
    block: nn.Module


class Family(NamedTuple):
    """How a trunk begins and ends.

    Args:
        embed: trunk, ids and positions (N,) -> (N, d).
        layers: of the trunk.
        turned: trunk, states, positions (B, T) -> what queries and keys are turned by; None: they are not.
        norm: of the trunk, after its layers.
        dropouts: of the trunk, those that no layer's own modules make.
    """

    embed: Callable[[Any, Tensor, Tensor], Tensor]
    layers: Callable[[Any], list[Layer]]
    turned: Callable[[Any, Tensor, Tensor], Any]
    norm: Callable[[Any], nn.Module]
    dropouts: Callable[[Any], Sequence[nn.Dropout]]


class Part(NamedTuple):
    """Columns of a batch.

    Args:
        ids, positions: (B, T) long.
        sees: (B, 1, T, K) bool, True on the columns that a token sees.
        cells: which of them hold N tokens.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    cells: Cells


Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values: (B, heads, T, size), (B, heads, K, size) twice."""


def lean_family(model: Any) -> Family | None:
    """The family of such a model; None: it is another one, or something else takes part in its forward pass."""
    trunk, config = model.base_model, model.config
    family = FAMILIES.get(type(trunk).__name__)
    plain = (
        family is not None
        and not (trunk.training and getattr(config, "attention_dropout", 0.0))
        and not any(dropout.training and dropout.p for dropout in family.dropouts(trunk))
        and goes_by_its_layers(model)
    )
    return family if plain else None


def states_from(model: Any, family: Family, batch: Batch, start: int, stop: int, *, at: Tensor | None = None) -> Tensor:
    """(B, stop - start, d): the trunk's output for the columns from ``start`` on; a pad's is another token's.

    Args:
        model: any with such a trunk.
        family: of ``lean_family``.
        batch: prompts and responses; columns before ``start`` are the prompt's.
        start, stop: the columns whose output is wanted.
        at: (B,) long, one token of each row, counted from ``start``: the output is its alone, (B, d), and the last
            layer asks for nothing else. None: all.
    """
    trunk, layers = model.base_model, family.layers(model.base_model)
    parts = _parts(batch, start, stop)
    ids = torch.cat([gathered(part.ids.flatten(), part.cells) for part in parts])
    positions = torch.cat([gathered(part.positions.flatten(), part.cells) for part in parts])
    rows, sizes = family.embed(trunk, ids, positions), [part.cells.size for part in parts]
    turned = [family.turned(trunk, rows, part.positions) for part in parts]
    for layer in layers:
        last = layer is layers[-1]
        asking = at if last else None
        read_by_all = _attended(layer, parts, turned, layer.before(rows), shared=batch.shared, last=last, at=asking)
        if last:
            rows = rows[-sizes[-1] :]
            rows = rows if at is None else rows[one_of_each(parts[-1].cells.tokens.view(parts[-1].ids.shape), at)]
        rows = layer.out(read_by_all) + rows
        rows = rows + layer.block(layer.between(rows))
    states = family.norm(trunk)(rows)
    return spread(states, parts[-1].cells).view(*parts[-1].ids.shape, -1) if at is None else states


def _attended(
    layer: Layer,
    parts: Sequence[Part],
    turned: Sequence[Any],
    rows: Tensor,
    *,
    shared: int,
    last: bool,
    at: Tensor | None,
) -> Tensor:
    """(N, heads · size): what a layer's tokens read, of both parts; in the last layer nothing is asked of the prompt.

    Args:
        layer: whose attention.
        parts: prompts and responses, or one of them.
        turned: by what each part's queries and keys are.
        rows: (N, d), the tokens of all parts, normed.
        shared: responses to one prompt.
        last: whether it is the last layer.
        at: (B,) long, the one token of each response that reads, (B, heads · size) then; None: all do.
    """
    sizes = [part.cells.size for part in parts]
    projected = zip(*(each.tensor_split(sizes[:-1]) for each in layer.project(rows)), strict=True)
    heads = [_heads(layer, *each) for each in zip(parts, turned, projected, strict=True)]
    if len(heads) == 2:  # responses see their prompts too
        prompts = (each.repeat_interleave(shared, 0) if shared > 1 else each for each in heads[0][1:])
        keys, values = (torch.cat(both, 2) for both in zip(prompts, heads[1][1:], strict=True))
        heads[1] = heads[1][0], keys, values
    if last:
        parts, heads = parts[-1:], heads[-1:]
    if at is not None:
        queries, sees = (one_of_each(each.transpose(1, 2), at).unsqueeze(2) for each in (heads[-1][0], parts[-1].sees))
        keys, values = heads[-1][1:]
        if is_half(queries):  # a single query is read in the precision of its keys
            keys, values = keys.float(), values.float()
        return read(layer.attention, queries, (keys, values), sees).flatten(0, 1)
    found = [
        gathered(read(layer.attention, each[0], each[1:], part.sees).flatten(0, 1), part.cells)
        for part, each in zip(parts, heads, strict=True)
    ]
    return torch.cat(found) if len(found) == 2 else found[0]


def one_of_each(columns: Tensor, at: Tensor) -> Tensor:
    """(B, T, …) -> (B, …): one column of each row."""
    return columns[torch.arange(len(at), device=at.device), at]


def _parts(batch: Batch, start: int, stop: int) -> list[Part]:
    """The prompts, each once, where there is anything before ``start``, and the columns after them.

    A pad sees at least itself, since attention to nothing is no number. What stands next to the other part always
    counts as a token: so an empty prompt has a column from which its response is chosen, and no part is empty.
    """

    def part(rows: slice, first: int, end: int, beside: int) -> Part:
        mask = batch.mask[rows, :end]
        real = mask[:, first:].clone()
        real[:, beside] = True
        return Part(batch.ids[rows, first:end], positions[rows, first:end], _sees(mask, first), cells(real))

    positions, prompts = position_ids(batch.mask), slice(None, None, batch.shared)
    rest = part(slice(None), start, stop, 0)
    return [part(prompts, 0, start, -1), rest] if start else [rest]


def _sees(mask: Tensor, start: int) -> Tensor:
    """Which of K columns each from ``start`` on sees: (B, K) bool -> (B, 1, K - start, K)."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    own = columns[start:, None]
    return (columns <= own) & mask[:, None, None] | (columns == own)


def _heads(layer: Layer, part: Part, turned: Any, projected: Sequence[Tensor]) -> Heads:
    """(N, heads · size) of each -> (B, heads, T, size); queries and keys are turned."""
    shape = (*part.ids.shape, -1, layer.attention.head_dim)
    queries, keys, values = (spread(each, part.cells).view(shape).transpose(1, 2) for each in projected)
    if turned is not None:
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        queries, keys = apply_rotary_pos_emb(queries, keys, *turned)
    return queries, keys, values


def _gpt2_layers(trunk: Any) -> list[Layer]:
    def layer(block: Any) -> Layer:
        attention = block.attn

        def project(rows: Tensor) -> Sequence[Tensor]:
            found: Sequence[Tensor] = attention.c_attn(rows).split(attention.split_size, dim=-1)
            return found

        return Layer(block.ln_1, project, attention, attention.c_proj, block.ln_2, block.mlp)

    return [layer(block) for block in trunk.h]


def _gpt2_dropouts(trunk: Any) -> list[nn.Dropout]:
    attentions = [block.attn for block in trunk.h]
    return [trunk.drop, *(drop for each in attentions for drop in (each.attn_dropout, each.resid_dropout))]


def _llama_layers(trunk: Any) -> list[Layer]:
    def layer(block: Any) -> Layer:
        attention = block.self_attn

        def project(rows: Tensor) -> Sequence[Tensor]:
            return attention.q_proj(rows), attention.k_proj(rows), attention.v_proj(rows)

        return Layer(
            block.input_layernorm, project, attention, attention.o_proj, block.post_attention_layernorm, block.mlp
        )

    return [layer(block) for block in trunk.layers]


FAMILIES = {
    "GPT2Model": Family(
        lambda trunk, ids, positions: trunk.wte(ids) + trunk.wpe(positions),
        _gpt2_layers,
        lambda trunk, states, positions: None,
        lambda trunk: trunk.ln_f,
        _gpt2_dropouts,
    ),
    "LlamaModel": Family(
        lambda trunk, ids, positions: trunk.embed_tokens(ids),
        _llama_layers,
        lambda trunk, states, positions: trunk.rotary_emb(states, position_ids=positions),
        lambda trunk: trunk.norm,
        lambda trunk: [],
    ),
}
