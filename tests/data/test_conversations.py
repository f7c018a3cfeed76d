from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.config import CleaningConfig
from harness.data.columns import BadRow, Columns
from harness.data.conversations import Turn, turns_of
from harness.data.examples import Reader
from harness.data.rows import Row, read_rows

SPEAKERS = ("Human", "Assistant")
HH = "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: A pen?\n\nAssistant: "
PAIRED = {"chosen": "chosen", "rejected": "rejected"}


def reader(rows: list[dict[str, Any]], columns: dict[str, str], **options: Any) -> Reader:
    made = [Row(f"row {i}", row) for i, row in enumerate(rows, 1)]
    settings = {"label": "train", "name": "rows", "max_bad_rows": 0, **options}
    return Reader(made, Columns(columns, ("turns",)), **settings)


def test_a_transcript() -> None:
    # A name inside a line or a paragraph is part of what is said.
    text = "\n\nHuman: I asked:\nHuman: who?\n\nSo Human: no.\n\nAssistant: An Assistant: yes.\n\nAssistant: More."
    assert turns_of(text, "dialog", SPEAKERS) == [
        Turn("user", "I asked:\nHuman: who?\n\nSo Human: no."),
        Turn("assistant", "An Assistant: yes.\n\nMore."),
    ]
    assert turns_of("Q: a\n\nA: b", "dialog", ("Q", "A")) == [Turn("user", "a"), Turn("assistant", "b")]
    with pytest.raises(BadRow, match="does not start with 'Human:' or 'Assistant:'"):
        turns_of("Well.\n\nHuman: Hi.", "dialog", SPEAKERS)


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": " Hello! "},
        ],
        [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hi."},
            {"from": "gpt", "value": "Hello!"},
        ],
        [
            {"role": "System", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "User", "content": [{"type": "text", "text": "Hi."}]},
            {"role": "Assistant", "content": [{"type": "text", "text": "Hello!"}]},
        ],
    ],
)
def test_messages(messages: list[dict[str, Any]]) -> None:
    assert turns_of(messages, "dialog", SPEAKERS) == [Turn("user", "Be kind.\n\nHi."), Turn("assistant", "Hello!")]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("u1 sX a2", ["user 1+X", "assistant 2"]),
        ("u1 sX u2 a3", ["user 1+X+2", "assistant 3"]),
        ("sX a1 u2 a3", ["assistant 1", "user X+2", "assistant 3"]),
        ("u1 a2 sX u3", ["user 1", "assistant 2", "user X+3"]),
        ("sX sY u1", ["user X+Y+1"]),
        ("u1 sX", ["user 1+X"]),
        ("u1 a2 sX a3 u4", ["user 1", "assistant 2+3", "user X+4"]),
        ("s u1 a2", ["user 1", "assistant 2"]),
    ],
)
def test_system_messages_are_never_the_assistants(said: str, expected: list[str]) -> None:
    roles = {"u": "user", "s": "system", "a": "assistant"}
    messages = [{"role": roles[part[0]], "content": part[1:]} for part in said.split()]
    turns = turns_of(messages, "dialog", SPEAKERS)
    assert turns == [Turn(line.split()[0], line.split()[1].replace("+", "\n\n")) for line in expected]
    assert all(one.role != other.role for one, other in pairwise(turns))


@pytest.mark.parametrize("said", [["system"], ["system", "assistant"], ["user", "assistant", "system"]])
def test_a_system_message_for_no_turn_of_the_users(said: list[str]) -> None:
    with pytest.raises(BadRow, match="has dialog with a system message that no turn of the user's follows"):
        turns_of([{"role": role, "content": "x"} for role in said], "dialog", SPEAKERS)


def test_a_reply_of_an_empty_system_message_alone_is_a_bad_row() -> None:
    rows = [{"q": "Hi.", "a": [{"role": "system", "content": ""}]}, {"q": "Hi.", "a": "Yes."}]
    found = reader(rows, {"turns": "q", "response": "a"}, max_bad_rows=1)
    assert [made.examples[0].response for made in found] == ["Yes."]
    assert found.tally.shown == ["row 1 has response that does not end with the assistant's message"]


def test_messages_that_cannot_be_read() -> None:
    for messages, problem in (
        ([{"role": "tool", "content": "x"}], "a message of the role 'tool'"),
        ([{"content": "x"}], "a message of the role None"),
        ([{"role": "user", "content": 3}], "content is of type int, not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content is of type list, not text"),
        (7, "of type int, neither a transcript nor a list of messages"),
    ):
        with pytest.raises(BadRow, match=problem):
            turns_of(messages, "dialog", SPEAKERS)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": HH + "Yes.", "rejected": HH + "No."},
        {
            name: [
                {"role": role, "content": text}
                for role, text in zip(
                    ("user", "assistant", "user", "assistant"), ("Hi.", "Hello!", "A pen?", last), strict=True
                )
            ]
            for name, last in (("chosen", "Yes."), ("rejected", "No."))
        },
    ],
)
def test_chosen_and_rejected_that_share_a_prefix(row: dict[str, Any]) -> None:
    (made,) = reader([row], PAIRED)
    assert made.pair is not None
    assert (made.pair.fields, made.pair.chosen, made.pair.rejected) == (
        {"turns": ["Hi.", "Hello!", "A pen?"]},
        "Yes.",
        "No.",
    )
    (example,) = made.examples
    assert (example.fields, example.response, example.references) == (made.pair.fields, "Yes.", ["Yes."])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"chosen": HH + "Yes.", "rejected": HH.replace("pen", "cat") + "No."}, "differ before the last turn"),
        ({"chosen": HH + "Yes.", "rejected": HH + "Yes."}, "equal chosen and rejected"),
        ({"chosen": "\n\nHuman: Hi.", "rejected": HH + "No."}, "does not end with the assistant's reply"),
        ({"chosen": "plain", "rejected": HH + "No."}, "chosen that does not start with"),
    ],
)
def test_conversations_that_are_no_pair(row: dict[str, Any], problem: str) -> None:
    found = reader([row, {"chosen": HH + "a", "rejected": HH + "b"}], PAIRED, max_bad_rows=1)
    assert len(list(found)) == 1
    assert problem in found.tally.shown[0]


def test_an_empty_turn_is_dropped_and_counted() -> None:
    rows = [{"chosen": HH, "rejected": HH + "No."}, {"chosen": HH + "a", "rejected": HH + "b"}]
    found = reader(rows, PAIRED)
    assert len(list(found)) == 1
    assert (found.tally.empty, found.tally.bad) == (1, 0)
    assert found.tally.shown_dropped == ["row 1 has an empty turn in chosen"]


def test_a_prompt_beside_its_responses() -> None:
    """As a transcript that ends with the assistant's name, as a plain text, as messages."""
    columns = {"turns": "prompt", "chosen": "a", "rejected": "b"}
    message = [{"role": "user", "content": "Hi."}]
    reply = [*message, {"role": "assistant", "content": "Yes."}]
    rows: list[dict[str, Any]] = [
        {"prompt": "\n\nHuman: Hi.\n\nAssistant:", "a": "Yes.", "b": "No."},
        {"prompt": "Hi.", "a": "Yes.", "b": "No."},
        {"prompt": message, "a": reply, "b": "No."},
    ]
    for made in reader(rows, columns):
        assert made.pair is not None
        assert (made.pair.fields, made.pair.chosen, made.pair.rejected) == ({"turns": ["Hi."]}, "Yes.", "No.")


def test_only_the_assistants_turns_are_answers() -> None:
    dialog = [
        {"role": role, "content": text}
        for role, text in (("assistant", "Welcome."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    (made,) = reader([{"talk": dialog}], {"dialog": "talk"})
    assert [(row.fields["turns"], row.response) for row in made.examples] == [(["Welcome.", "a"], "b")]


@pytest.mark.realdata
def test_the_real_transcripts() -> None:
    """Counts by another way: the set's own parsed columns."""
    path = Path(os.environ["HARNESS_REAL_DATA"]) / "hh_rlhf_harmless" / "train.jsonl.gz"
    columns = Columns({**PAIRED, "id": "id"}, ("turns",))
    settings = {"label": "train", "name": "hh", "max_bad_rows": 20, "cleaning": CleaningConfig(normalise=False)}
    found = Reader(read_rows(path), columns, **settings)  # type: ignore[arg-type]
    made = {row.pair.id: row.pair for row in found if row.pair is not None}
    own = {f"train:{row['id']}": row for row in map(json.loads, gzip.decompress(path.read_bytes()).splitlines())}
    assert len(made) + found.tally.bad + found.tally.empty == len(own)
    assert len(made) > 0.99 * len(own)
    for name, pair in made.items():
        assert pair.chosen == own[name]["chosen_response"].strip()
        assert pair.rejected == own[name]["rejected_response"].strip()
