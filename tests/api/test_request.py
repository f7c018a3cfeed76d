"""What is sent for a task's prompt."""

from __future__ import annotations

from harness.api.request import request_body
from harness.config import APIConfig
from harness.data.messages import chat_messages
from harness.tasks.dialogue import Dialogue
from harness.tasks.qa import QA


def test_turns_become_messages_that_alternate_back_from_the_users_last() -> None:
    task = Dialogue()
    said = chat_messages(task, {"turns": ["a", "b", "c"]}, system="Be brief.")
    assert [(m["role"], m["content"]) for m in said] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert [m["role"] for m in chat_messages(task, {"turns": ["a", "b"]})] == ["assistant", "user"]


def test_other_tasks_are_one_message_or_one_prompt() -> None:
    task = QA(template="{context} Q: {question} A:")
    fields = {"context": "Ann sings.", "question": "Who sings?"}
    common = {"model": "m", "max_tokens": 5}
    chat = request_body(task, fields, model="m", api=APIConfig(), max_tokens=5, temperature=0.0)
    text = "Ann sings. Q: Who sings? A:"
    assert chat == {**common, "temperature": 0.0, "messages": [{"role": "user", "content": text}]}
    plain = APIConfig(protocol="completions", options={"max_tokens": None, "max_completion_tokens": 7, "top_p": 0.5})
    made = request_body(task, fields, model="m", api=plain, max_tokens=5, temperature=0.5, seed=3)
    expected = {"model": "m", "prompt": text, "temperature": 0.5, "seed": 3, "max_completion_tokens": 7, "top_p": 0.5}
    assert made == expected
