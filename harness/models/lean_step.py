"""One token more for each row, by the layers of GPT-2 and Llama alone.

A model of transformers prepares every call anew (masks, settings, what to return), which takes longer than the layers
of a small model. While a batch is answered nothing of that changes: here the layers' own modules are called one after
the other, with the mask that the batch had from the start, and on a CPU a token's query reads its keys by
``one_query``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from harness.models.kernels import attend
from harness.models.one_query import attend_to, has_one
from harness.models.roomy_cache import RoomyLayer


class Step(Protocol):
    """One token more for each of B rows."""

    def __call__(
        self, model: Any, layers: Sequence[Any], *, ids: Tensor, positions: Tensor, mask: Tensor | None
    ) -> Tensor:
        """(B, V): the logits after the token, whose keys and values join the cache.

        Args:
            model: a causal language model.
            layers: of its cache, with T - 1 tokens.
            ids, positions: (B, 1) of the token.
            mask: (B, 1, 1, T) bool, True on what a row may see, the token included; None: all, or what the
                layers themselves know.
        """
        ...


def lean_step(model: Any, layers: Sequence[Any]) -> Step | None:
    """The step of such a model; None: it is another one, or one with something in its way.

    Args:
        model: a causal language model.
        layers: of its cache.
    """
    return STEPS[type(model).__name__] if is_plain(model) and _are_plain(layers) else None


def gpt2_step(model: Any, layers: Sequence[Any], *, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """A ``Step`` of a GPT-2: (B, V) logits after one token more.

    Args:
        model: the language model, for which ``lean_step`` gave this step.
        layers: of its cache, one for each block; the token's keys and values join them.
        ids: (B, 1) long, the token.
        positions: (B, 1) long, where it stands in its row, padding not counted.
        mask: (B, 1, 1, T) bool, True on what a row may see, the token included; None: all of it.
    """
    trunk = model.transformer
    states = trunk.wte(ids) + trunk.wpe(positions)
    for block, cache in zip(trunk.h, layers, strict=True):
        attention = block.attn
        projected = attention.c_attn(block.ln_1(states)).split(attention.split_size, dim=2)
        queries, keys, values = (each.view(len(ids), 1, -1, attention.head_dim).transpose(1, 2) for each in projected)
        states = attention.c_proj(_read_with(cache, attention, queries, keys, values, mask)) + states
        states = states + block.mlp(block.ln_2(states))
    logits: Tensor = model.lm_head(trunk.ln_f(states))
    return logits[:, -1]


def llama_step(model: Any, layers: Sequence[Any], *, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """A ``Step`` of a Llama: (B, V) logits after one token more.

    Args:
        model: the language model, for which ``lean_step`` gave this step.
        layers: of its cache, one for each block; the token's keys and values join them.
        ids: (B, 1) long, the token.
        positions: (B, 1) long, where it stands in its row, padding not counted.
        mask: (B, 1, 1, T) bool, True on what a row may see, the token included; None: all of it.
    """
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    trunk = model.model
    states = trunk.embed_tokens(ids)
    turns = trunk.rotary_emb(states, position_ids=positions)
    for block, cache in zip(trunk.layers, layers, strict=True):
        attention, given = block.self_attn, block.input_layernorm(states)
        projected = (project(given) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        queries, keys, values = (each.view(len(ids), 1, -1, attention.head_dim).transpose(1, 2) for each in projected)
        queries, keys = apply_rotary_pos_emb(queries, keys, *turns)
        states = states + attention.o_proj(_read_with(cache, attention, queries, keys, values, mask))
        states = states + block.mlp(block.post_attention_layernorm(states))
    logits: Tensor = model.lm_head(trunk.norm(states))
    return logits[:, -1]


def is_plain(model: Any) -> bool:
    """Whether ``STEPS`` has a step for the model, and nothing but its layers' modules is in its forward pass."""
    return type(model).__name__ in STEPS and not model.training and goes_by_its_layers(model)


def _are_plain(layers: Sequence[Any]) -> bool:
    return all(type(layer) is RoomyLayer for layer in layers)


def goes_by_its_layers(model: Any) -> bool:
    """Whether attention is the usual one, to the model's own tokens, and nothing watches or replaces a module."""
    return (
        model.config._attn_implementation == "sdpa"
        and not getattr(model.config, "add_cross_attention", False)
        and not any(_is_watched(module) for module in model.modules())
    )


def _is_watched(module: Any) -> bool:
    """Whether something beside its class's ``forward`` happens when the module is called: hooks, or another one."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


STEPS: dict[str, Step] = {"GPT2LMHeadModel": gpt2_step, "LlamaForCausalLM": llama_step}


def _read_with(
    cache: Any, attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """(B, 1, heads · size): what a token reads whose keys and values join the cache; all are (B, heads, 1, size)."""
    if not isinstance(cache, RoomyLayer):  # one whose prompts lie apart knows how it is read
        found: Tensor = cache.read(queries, keys, values, _scaling(attention, queries))
        return found
    return read(attention, queries, *cache.update(keys, values), mask=mask)


def _scaling(attention: Any, queries: Tensor) -> float:
    return float(getattr(attention, "scaling", queries.shape[-1] ** -0.5))


def read(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, Q, heads · size): what queries read, their heads side by side, before the output projection.

    Args:
        attention: the layer's module, which knows its scaling, and how many heads share a key.
        queries: (B, heads, Q, size).
        keys, values: (B, heads of keys, T, size).
        mask: (B, 1, 1 or Q, T) bool, True on what a query may see; None: one query sees all keys, several what stands
            up to their own place.
    """
    scaling = getattr(attention, "scaling", None)  # in transformers 5.0 GPT-2 leaves it to torch
    if has_one(queries, keys, values):
        return attend_to(keys, values, queries, mask=mask, scaling=scaling).flatten(1).unsqueeze(1)
    found: Tensor = attend(attention, queries, keys, values, mask, scaling=scaling)[0]
    return found.flatten(2)
