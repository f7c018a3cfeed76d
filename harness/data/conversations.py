"""Conversations as data sets hold them: transcripts of two named speakers, or lists of messages with roles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.data.columns import BadRow, Empty

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "agent"), ASSISTANT),
    "system": SYSTEM,
}
"""What data sets call the sides of a conversation, in lower case."""


class Turn(NamedTuple):
    """What one side said before the other one spoke."""

    role: str
    text: str


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages: ``{"role": ..., "content": ...}`` or ``{"from": ..., "value": ...}``."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)


def is_transcript(value: Any, speakers: Sequence[str]) -> bool:
    """Whether a value is a text that starts with a speaker's name."""
    return isinstance(value, str) and value.lstrip().startswith(tuple(f"{speaker}:" for speaker in speakers))


def turns_of(value: Any, name: str, speakers: Sequence[str]) -> list[Turn]:
    """The turns of a transcript or of a list of messages, the sides alternating.

    What one side says in several turns on end is joined to one. A prompt has two sides: a system message belongs to the
    user's turn that it stands beside, else to the user's next one.

    Args:
        value: a text (``\\n\\nHuman: …\\n\\nAssistant: …``) or a list of messages.
        name: what the value is, for messages.
        speakers: the names in transcripts, the answering side's second.
    """
    if isinstance(value, str):
        said = _transcript(value, name, speakers)
    elif is_messages(value):
        said = [_message(part, name) for part in value]
    else:
        raise BadRow(f"has {name} of type {type(value).__name__}, neither a transcript nor a list of messages")
    return _joined(said, name)


def _transcript(text: str, name: str, speakers: Sequence[str]) -> list[Turn]:
    """A speaker's name counts at the start of a paragraph alone: elsewhere it belongs to what is said."""
    _, assistant = speakers
    parts = re.split(rf"(?:\A\s*|\n\s*\n)({'|'.join(map(re.escape, speakers))}):", text)
    if len(parts) == 1 or parts[0].strip():
        raise BadRow(f"has {name} that does not start with {' or '.join(repr(f'{side}:') for side in speakers)}")
    return [
        Turn(ASSISTANT if speaker == assistant else USER, said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _message(message: Mapping[str, Any], name: str) -> Turn:
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRow(f"has {name} with a message of the role {role!r}; known are {', '.join(ROLES)}")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "\n".join(str(part.get("text", "")) for part in content)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise BadRow(f"has {name} with a message whose content is of type {type(content).__name__}, not text")
    return Turn(ROLES[role.lower()], content.strip())


def _joined(said: Iterable[Turn], name: str) -> list[Turn]:
    turns: list[Turn] = []
    waiting = Turn(USER, "")  # what a system message said where the user had not spoken since the assistant
    for turn in said:
        if turn.role == SYSTEM and not (turns and turns[-1].role == USER):
            waiting = _longer(waiting, turn.text)
            continue
        role = USER if turn.role == SYSTEM else turn.role
        if turns and turns[-1].role == role:
            turns[-1] = _longer(turns[-1], turn.text)
        else:
            turns.append(turn)
        if role == USER:
            turns[-1], waiting = _longer(waiting, turns[-1].text), Turn(USER, "")
    if waiting.text:
        raise BadRow(f"has {name} with a system message that no turn of the user's follows")
    return turns


def _longer(turn: Turn, text: str) -> Turn:
    """The turn, and a paragraph more."""
    return Turn(turn.role, "\n\n".join(part for part in (turn.text, text) if part))


def context_of(turns: Sequence[Turn], name: str) -> list[str]:
    """The texts of turns that an answer follows; a last turn that only names the assistant is none."""
    if turns and turns[-1] == Turn(ASSISTANT, ""):
        turns = turns[:-1]
    if not turns or turns[-1].role != USER:
        raise BadRow(f"has {name} that does not end with the user's turn")
    return _texts(turns, name)


def split_reply(turns: Sequence[Turn], name: str) -> tuple[list[str], str]:
    """The context and the reply of a conversation that ends with the assistant's turn."""
    if len(turns) < 2 or turns[-1].role != ASSISTANT:
        raise BadRow(f"has {name} that does not end with the assistant's reply to a turn")
    texts = _texts(turns, name)
    return texts[:-1], texts[-1]


def _texts(turns: Sequence[Turn], name: str) -> list[str]:
    for turn in turns:
        if not turn.text:
            raise Empty(f"has an empty turn in {name}")
    return [turn.text for turn in turns]
