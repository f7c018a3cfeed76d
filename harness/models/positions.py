"""How many tokens a model can tell the places of, and whether a task's prompts and responses fit into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config import TaskConfig
from harness.errors import UserError
from harness.models.classifier import is_of_transformers
from harness.models.encoder_decoder import decoder_prefix


def positions(model: Any) -> int | None:
    """How many tokens the model can tell the places of; None where its configuration states no limit.

    Of a model with longrope (Phi-3 for 128k tokens, say), those before it turns to its long factors: it does so for a
    whole batch by its longest row, whose neighbours would have other logprobs beside it than alone.
    """
    count, switch = getattr(model.config, "max_position_embeddings", None), _switch(model.config)
    known = [int(each) for each in (count, switch) if each is not None]
    return min(known, default=None)


def _switch(config: Any) -> int | None:
    """From how many positions on rotary embeddings have other factors; None where they never have."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [each for each in (rope, *rope.values()) if isinstance(each, Mapping)]  # for all layers, or by kind
    if not any(each.get("rope_type") == "longrope" for each in kinds):
        return None
    stated = [each.get("original_max_position_embeddings") for each in kinds]
    stated.append(getattr(config, "original_max_position_embeddings", None))
    return min((int(each) for each in stated if each is not None), default=None)


def room_for_response(model: Any, prompt_tokens: int) -> int | None:
    """How many tokens of a response the model can read beside a prompt; None where it states no limit."""
    known = positions(model)
    if known is None:
        return None
    between = getattr(model.config, "reward_separator", None) or []
    taken = len(decoder_prefix(model.config)) if reads_apart(model) else prompt_tokens + len(between)
    return max(known - taken, 0)


def reads_apart(model: Any) -> bool:
    """Whether prompt and response have positions of their own, in an encoder and a decoder.

    They have not in a causal model, nor in an encoder–decoder classifier of transformers, which reads one text twice.

    Args:
        model: a model, or anything with its configuration.
    """
    if not model.config.is_encoder_decoder:
        return False
    names = {type(model).__name__, *(getattr(model.config, "architectures", None) or [])}
    return not any(map(is_of_transformers, names))


def require_positions(model: Any, task: TaskConfig, *, key: str = "model.name") -> None:
    """The longest prompt and the longest response must fit: into the model together, or into encoder and decoder.

    Raises:
        UserError: naming ``key``: they do not.
    """
    known, prompt, response = positions(model), task.max_prompt_tokens, task.max_response_tokens
    if known is None:
        return
    name = model.config.name_or_path or None
    knows = f"knows {known} positions"
    if known == _switch(model.config):
        knows += " before its longrope changes factors (original_max_position_embeddings)"
    if not reads_apart(model):
        tokens = prompt + response + len(getattr(model.config, "reward_separator", None) or [])
        if known < tokens:
            rule = f"{knows}, fewer than task.max_prompt_tokens + task.max_response_tokens = {tokens}"
            raise UserError(key, name, rule, f"lower these to {known} together")
        return
    prefix = len(decoder_prefix(model.config))
    for limit, tokens, least in (("prompt", prompt, known), ("response", response, known - prefix)):
        if tokens > least:
            rule = f"{knows}, too few for task.max_{limit}_tokens = {tokens}"
            raise UserError(key, name, rule, f"lower it to {least}")
