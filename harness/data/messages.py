"""A prompt as chat messages: the turns of a dialogue by role, any other task's prompt as one message of the user."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.types import Fields, Task

Message = dict[str, str]


def chat_messages(task: Task, fields: Fields, *, system: str | None = None) -> list[Message]:
    """The messages that a chat model is to answer.

    In a dialogue the last turn is the user's, and roles alternate backwards from there, as speakers do in the task's
    own prompt; so a conversation may begin with the assistant.

    Args:
        task: where it has ``turns``, they become messages; elsewhere its prompt becomes one.
        fields: the task's fields.
        system: a first message of that role; None for none.
    """
    before = [] if system is None else [_message("system", system)]
    if "turns" not in task.required_fields:
        return [*before, _message("user", task.prompt(fields))]
    turns: list[Any] = list(fields["turns"])
    roles = ["user" if (len(turns) - place) % 2 else "assistant" for place in range(len(turns))]
    return [*before, *(_message(role, turn) for role, turn in zip(roles, turns, strict=True))]


def in_chat(task: Task, write: Callable[[Sequence[Mapping[str, str]]], str], system: str | None) -> Task:
    """The task with its prompts written as conversations; they are cut by the same rule.

    Args:
        task: whose ``cut`` makes prompts by its ``prompt``.
        write: messages as a text.
        system: as for ``chat_messages``.
    """
    made = copy.copy(task)
    made.prompt = lambda fields: write(chat_messages(task, fields, system=system))  # type: ignore[method-assign]
    return made


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
