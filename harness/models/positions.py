"""How many tokens a model can tell the places of, and whether a task's prompts and responses fit into them."""

from __future__ import annotations

from typing import Any

from harness.config import TaskConfig
from harness.errors import UserError
from harness.models.classifier import is_of_transformers
from harness.models.encoder_decoder import decoder_prefix


def positions(model: Any) -> int | None:
    """How many tokens the model can tell the places of; None where its configuration states no limit."""
    count = getattr(model.config, "max_position_embeddings", None)
    return None if count is None else int(count)


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
    if not reads_apart(model):
        tokens = prompt + response + len(getattr(model.config, "reward_separator", None) or [])
        if known < tokens:
            rule = f"knows {known} positions, fewer than task.max_prompt_tokens + task.max_response_tokens = {tokens}"
            raise UserError(key, name, rule, f"lower these to {known} together")
        return
    prefix = len(decoder_prefix(model.config))
    for limit, tokens, least in (("prompt", prompt, known), ("response", response, known - prefix)):
        if tokens > least:
            rule = f"knows {known} positions, too few for task.max_{limit}_tokens = {tokens}"
            raise UserError(key, name, rule, f"lower it to {least}")
