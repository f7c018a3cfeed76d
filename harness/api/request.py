"""The body of a request: a task's prompt, the length limit of all policies, and how the answer is drawn."""

from __future__ import annotations

from typing import Any

from harness.config import APIConfig
from harness.data.messages import chat_messages
from harness.types import Fields, Task


def request_body(
    task: Task,
    fields: Fields,
    *,
    model: str,
    api: APIConfig,
    max_tokens: int,
    temperature: float,
    seed: int | None = None,
) -> dict[str, Any]:
    """Chat messages, or the prompt's text for ``completions``, with ``api.options`` over all of it.

    Args:
        task: whose wording the prompt has.
        fields: of the example. The prompt is sent whole: only the endpoint knows its tokens.
        model: the name that the endpoint knows.
        api: protocol, system message and further fields; a field that is null there is left out.
        max_tokens: of the answer, in the endpoint's tokens.
        temperature: 0 for the likeliest answer.
        seed: sent where answers are drawn at random.
    """
    said: dict[str, Any]
    if api.protocol == "chat":
        said = {"messages": chat_messages(task, fields, system=api.system)}
    else:
        said = {"prompt": task.prompt(fields)}
    return with_options({"model": model, **said, "max_tokens": max_tokens, "temperature": temperature}, api, seed)


def with_options(body: dict[str, Any], api: APIConfig, seed: int | None = None) -> dict[str, Any]:
    """The body with its seed, where it has one, and ``api.options``."""
    whole = {**body, **({} if seed is None else {"seed": seed}), **api.options}
    return {name: value for name, value in whole.items() if value is not None}
