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

from harness.models.kernels import is_half, more_rows
from harness.models.lean_step import goes_by_its_layers, read
from harness.models.real_tokens import Cells, cells, gathered, spread
from harness.models.token_heads import Columns, Heads, Layout, Sizes, to_heads, to_rows
from harness.training.masks import position_ids

if TYPE_CHECKING:
    from harness.models.forward import Batch


class Layer(NamedTuple):
    """What such a layer is made of.

    Args:
        before: the norm before attention.
        project: (N, d) -> (N, heads · size): queries, keys and values, one after the other.
        sizes: of the heads.
        attention: the module, which attention functions ask for its settings.
        out: the linear layer after attention.
        between: the norm before the feed-forward block.
        block: the feed-forward block.
    """

    before: nn.Module
    project: Callable[[Tensor], Tensor]
    sizes: Sizes
    attention: Any
    out: nn.Module
    between: nn.Module
    block: nn.Module


class Family(NamedTuple):
    """How a trunk begins and ends.

    Args:
        embed: trunk, ids and positions (N,) -> (N, d).
        layers: of the trunk, for states (N, d), whose positions come in parts, one after the other.
        norm: of the trunk, after its layers.
        dropouts: of the trunk, those that no layer's own modules make.
    """

    embed: Callable[[Any, Tensor, Tensor], Tensor]
    layers: Callable[[Any, Tensor, Sequence[Tensor]], list[Layer]]
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

    @property
    def columns(self) -> Columns:
        rows, columns = self.ids.shape
        return Columns(rows, columns, self.cells)


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
    trunk, half = model.base_model, is_half(next(model.base_model.parameters()))
    *prompts, rest = parts = _parts(batch, start, stop)
    layout = Layout(prompts[0].columns if prompts else None, rest.columns, batch.shared)
    spare = more_rows(layout.stop) - layout.stop if half else 0
    positions = _of_tokens(parts, [part.positions for part in parts], spare)
    rows = family.embed(trunk, _of_tokens(parts, [part.ids for part in parts], spare), positions)
    *layers, last = family.layers(trunk, rows, [each for each in positions.tensor_split([layout.start]) if len(each)])

    def heads(layer: Layer, **asking: Any) -> list[Heads]:
        projected = layer.project(layer.before(rows))
        kind = torch.float32 if half else projected.dtype
        return to_heads(projected, layout, layer.sizes, kind=kind, **asking)

    def read_by_all(layer: Layer) -> Tensor:  # what it makes on the way is not held beside the feed-forward block
        found = [read(layer.attention, *each, part.sees) for each, part in zip(heads(layer), parts, strict=True)]
        return to_rows(found, [part.cells for part in parts], spare)

    for layer in layers:
        rows = _after_attention(layer, rows, read_by_all(layer))
    if at is not None:
        at_rows = layout.start + one_of_each(rest.cells.tokens.view(rest.ids.shape), at)
        sees = one_of_each(rest.sees.transpose(1, 2), at).unsqueeze(2)
        (alone,) = heads(last, last=True, at=at_rows)
        rows = _after_attention(last, rows[at_rows], read(last.attention, *alone, sees).flatten(0, 1))
        states: Tensor = family.norm(trunk)(rows)
        return states
    spare = more_rows(rest.cells.size) - rest.cells.size if half else 0
    (responses,) = heads(last, last=True)
    found = to_rows([read(last.attention, *responses, rest.sees)], [rest.cells], spare)
    rows = nn.functional.pad(rows[layout.start : layout.stop], (0, 0, 0, spare))
    states = family.norm(trunk)(_after_attention(last, rows, found))
    return spread(states[: rest.cells.size], rest.cells).view(*rest.ids.shape, -1)


def _of_tokens(parts: Sequence[Part], numbers: Sequence[Tensor], spare: int) -> Tensor:
    """(N,): of (B, T) numbers of each part those of its tokens, then so many zeros."""
    found = [gathered(each.flatten(), part.cells) for each, part in zip(numbers, parts, strict=True)]
    return torch.cat([*found, found[0].new_zeros(spare)])


def _after_attention(layer: Layer, rows: Tensor, found: Tensor) -> Tensor:
    """(N, d): what a layer makes of its tokens, which have read (N, heads · size)."""
    rows = layer.out(found) + rows
    done: Tensor = rows + layer.block(layer.between(rows))
    return done


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


def _gpt2_layers(trunk: Any, states: Tensor, positions: Sequence[Tensor]) -> list[Layer]:
    def layer(block: Any) -> Layer:
        attention = block.attn
        sizes = Sizes(attention.num_heads, attention.num_heads, attention.head_dim)
        return Layer(block.ln_1, attention.c_attn, sizes, attention, attention.c_proj, block.ln_2, block.mlp)

    return [layer(block) for block in trunk.h]


def _gpt2_dropouts(trunk: Any) -> list[nn.Dropout]:
    attentions = [block.attn for block in trunk.h]
    return [trunk.drop, *(drop for each in attentions for drop in (each.attn_dropout, each.resid_dropout))]


def _llama_layers(trunk: Any, states: Tensor, positions: Sequence[Tensor]) -> list[Layer]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    # Each token is a row of one column. A rule of turning that looks for the last position does so in each part.
    parts = (trunk.rotary_emb(states, position_ids=part[:, None]) for part in positions)
    turns = [torch.cat(each) for each in zip(*parts, strict=True)]

    def layer(block: Any) -> Layer:
        attention = block.self_attn
        sizes = Sizes(attention.config.num_attention_heads, attention.config.num_key_value_heads, attention.head_dim)

        def project(rows: Tensor) -> Tensor:
            # What is turned has no name: of a large batch it would be held beside all that is made of it.
            both = (
                weights(rows).view(len(rows), -1, 1, sizes.size) for weights in (attention.q_proj, attention.k_proj)
            )
            turned = apply_rotary_pos_emb(*both, *turns)
            return torch.cat([*(each.flatten(1) for each in turned), attention.v_proj(rows)], 1)

        norms = block.input_layernorm, block.post_attention_layernorm
        return Layer(norms[0], project, sizes, attention, attention.o_proj, norms[1], block.mlp)

    return [layer(block) for block in trunk.layers]


FAMILIES = {
    "GPT2Model": Family(
        lambda trunk, ids, positions: trunk.wte(ids) + trunk.wpe(positions),
        _gpt2_layers,
        lambda trunk: trunk.ln_f,
        _gpt2_dropouts,
    ),
    "LlamaModel": Family(
        lambda trunk, ids, positions: trunk.embed_tokens(ids),
        _llama_layers,
        lambda trunk: trunk.norm,
        lambda trunk: [],
    ),
}
