"""Dialogues in a tokenizer's chat template, through the loop and back out to transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from smoke_run import smoke_run

from harness.records import read_records

TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)
SYSTEM = "You are the agent of a shop."


@pytest.fixture(scope="module")
def finished(family_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    from transformers import AutoTokenizer

    base, folder = tmp_path_factory.mktemp("chat") / "base", tmp_path_factory.mktemp("run-chat")
    shutil.copytree(family_folder("llama", peaked=False, max_position_embeddings=512), base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    given = ["task=dialogue", "model=hf", f"model.name={base}", "model.chat=true", f"model.system={SYSTEM}"]
    given += ["task.max_prompt_tokens=300", "task.max_response_tokens=24", "feedback=metric", "judge.model.context=400"]
    given += [
        "sft.epochs=0.5",
        "algorithm.episodes=32",
        "algorithm.checks.limits.max_length_share=null",
        "evaluation.fixed_rows=[references,base,sft]",
    ]
    assert smoke_run(*given, "candidate=chat", f"output_dir={folder}") == 0
    return folder


def test_prompts_are_conversations_and_the_loop_ends(finished: Path) -> None:
    row = next(record for record in read_records(finished / "records") if not record["fixed"])
    assert row["status"] in ("ok", "unchanged")
    for sample in row["samples"]:
        assert sample["prompt"].startswith(f"<|endoftext|>system\n{SYSTEM}\n<|endoftext|>user\n")
        assert sample["prompt"].endswith("<|endoftext|>assistant\n")
    assert any(sample["prompt"].count("<|endoftext|>user") > 1 for sample in row["samples"]), "several turns"


def test_the_final_policy_answers_messages_alike_in_a_pipeline(finished: Path) -> None:
    import re

    from transformers import pipeline

    (folder,) = (path for path in (finished / "stages").glob("ppo-*/model"))
    row = next(record for record in read_records(finished / "records") if not record["fixed"])
    generate = pipeline("text-generation", model=str(folder))
    for sample in row["samples"][:3]:
        parts: list[Any] = re.split(r"<\|endoftext\|>(system|user|assistant)\n", sample["prompt"])[1:]
        messages = [{"role": a, "content": b.removesuffix("\n")} for a, b in zip(parts[::2], parts[1::2], strict=True)]
        (found,) = generate(messages[:-1], do_sample=False, max_new_tokens=24, return_full_text=False)
        assert found["generated_text"].strip() == sample["after"]


def test_the_card_says_that_prompts_are_conversations(finished: Path) -> None:
    (folder,) = (path for path in (finished / "stages").glob("ppo-*/model"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "generate(MESSAGES," in card
    assert SYSTEM in card
