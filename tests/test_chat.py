"""Dialogues in a tokenizer's chat template, through the loop and back out to transformers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from smoke_run import smoke_run

from harness.records import read_records

pytestmark = pytest.mark.extended


class Chat(NamedTuple):
    """How a family writes a conversation: what opens a message, what closes it."""

    family: str
    opens: str
    closes: str

    @property
    def template(self) -> str:
        return (
            "{% for m in messages %}" + self.opens + "{{ m.role }}\n{{ m.content }}" + self.closes + "\n{% endfor %}"
            "{% if add_generation_prompt %}" + self.opens + "assistant\n{% endif %}"
        )


class Finished(NamedTuple):
    chat: Chat
    folder: Path

    @property
    def policy(self) -> Path:
        (found,) = (self.folder / "stages").glob("ppo-*/model")
        return found

    @property
    def row(self) -> dict[str, Any]:
        return next(record for record in read_records(self.folder / "records") if not record["fixed"])


CHATS = (Chat("llama", "<|endoftext|>", ""), Chat("qwen2", "<|im_start|>", "<|im_end|>"))
SYSTEM = "You are the agent of a shop."


def as_qwen(base: Path) -> None:
    """ChatML's tokens, EOS at the end of each message, another pad token, and a generation config full of sampling."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    sampled = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], **sampled)
    model.config.eos_token_id, model.config.pad_token_id = ends
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)


@pytest.fixture(scope="module", params=CHATS, ids=lambda chat: chat.family)
def finished(
    request: pytest.FixtureRequest, family_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    from transformers import AutoTokenizer

    chat: Chat = request.param
    base, folder = tmp_path_factory.mktemp("chat") / "base", tmp_path_factory.mktemp("run-chat")
    shutil.copytree(family_folder(chat.family, peaked=False, max_position_embeddings=512), base)
    if chat.family == "qwen2":
        as_qwen(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = chat.template
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
    return Finished(chat, folder)


def test_prompts_are_conversations_and_the_loop_ends(finished: Finished) -> None:
    chat, row = finished.chat, finished.row
    assert row["status"] in ("ok", "unchanged")
    for sample in row["samples"]:
        assert sample["prompt"].startswith(f"{chat.opens}system\n{SYSTEM}{chat.closes}\n{chat.opens}user\n")
        assert sample["prompt"].endswith(f"{chat.opens}assistant\n")
    assert any(sample["prompt"].count(f"{chat.opens}user") > 1 for sample in row["samples"]), "several turns"


def test_the_final_policy_answers_messages_alike_in_a_pipeline(finished: Finished) -> None:
    from transformers import pipeline

    chat = finished.chat
    generate = pipeline("text-generation", model=str(finished.policy))
    for sample in finished.row["samples"][:3]:
        parts: list[str] = re.split(re.escape(chat.opens) + r"(system|user|assistant)\n", sample["prompt"])[1:]
        contents = [text.removesuffix("\n").removesuffix(chat.closes) for text in parts[1::2]]
        messages = [{"role": a, "content": b} for a, b in zip(parts[::2], contents, strict=True)]
        (found,) = generate(messages[:-1], do_sample=False, max_new_tokens=24, return_full_text=False)
        assert found["generated_text"].strip() == sample["after"]


def test_the_card_says_that_prompts_are_conversations(finished: Finished) -> None:
    card = (finished.policy / "README.md").read_text(encoding="utf-8")
    assert "generate(MESSAGES," in card
    assert SYSTEM in card
