from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from harness.config import Config, TaskConfig
from harness.context import Job
from harness.data.prompts import CutReport, fit_prompts
from harness.errors import RunFailed, UserError
from harness.models.codec import Codec
from harness.tasks.qa import QA
from harness.tasks.translate import Translate
from harness.types import Cut, Example


def count_words(prompt: str) -> int:
    return len(prompt.split())


def example(context: str, answer: str) -> Example:
    return Example(answer, {"context": context, "question": "Who sang loudly?"}, answer, [answer])


def test_cuts_and_lost_answers_are_counted() -> None:
    rows = [
        example("Ann sang loudly.", "Ann"),
        example("Bob slept well. Then Ann sang loudly.", "Ann"),
        example("Bob slept well. Someone sang loudly there.", "Bob"),
        example("Nobody slept well. Someone sang loudly there.", "Zed"),
    ]
    prompts, report = fit_prompts(QA(), rows, count_tokens=count_words, max_prompt_tokens=9)
    assert prompts[0] == "Ann sang loudly.\nQ: Who sang loudly?\nA:"
    assert all(count_words(prompt) <= 9 for prompt in prompts)
    assert report == CutReport(cut_share=0.75, lost_answer_share=0.25)


def test_too_small_a_limit_names_the_key_and_its_value() -> None:
    with pytest.raises(UserError, match=r"task\.max_prompt_tokens=5 is too small for .* example 'Ann'"):
        fit_prompts(QA(), [example("Ann sang.", "Ann")], count_tokens=count_words, max_prompt_tokens=5)


def test_a_word_that_does_not_fit_alone_names_its_example() -> None:
    row = Example("train:7", {"source": "https://example.org/" + "x" * 200}, "a", ["a"])
    with pytest.raises(
        UserError, match=r"task\.max_prompt_tokens=64 is too small .* of example 'train:7'.*leave the ex"
    ):
        fit_prompts(Translate(), [row], count_tokens=len, max_prompt_tokens=64)


def test_no_examples() -> None:
    assert fit_prompts(QA(), [], count_tokens=count_words, max_prompt_tokens=5) == ([], CutReport(0.0, 0.0))


def test_a_prompt_without_tokens_names_its_example() -> None:
    class Bare:
        """As a task whose template is one field alone."""

        def cut(self, row: Example, fits: Callable[[str], bool]) -> Cut:
            assert fits(row.fields["text"])
            return Cut(row.fields["text"], was_cut=False, lost_answer=False)

    rows = [Example(f"train:{n}", {"text": text}, "a", ["a"]) for n, text in enumerate(["Ann sang.", " "])]
    with pytest.raises(RunFailed, match=r"the prompt of example train:1 \(' '\) has no tokens"):
        fit_prompts(Bare(), rows, count_tokens=count_words, max_prompt_tokens=5)  # type: ignore[arg-type]


def test_data_cannot_end_a_prompt_nor_pad_it(codec: Any, hardware: Any) -> None:
    """The prompts that stages encode, cut and whole, with and without a chat template."""
    codec = Codec(copy.deepcopy(codec.tokenizer))
    eos, pad = codec.tokenizer.eos_token, codec.tokenizer.pad_token
    config = Config(task=TaskConfig(max_prompt_tokens=90))
    rows = [example(f"Ann {eos} sang {pad} loudly.", f"{eos} sang"), example("Ann sang loudly.", "Ann")]
    rows.append(example(f"The bird sings in the old tree . {eos} sang. " * 9, f"{eos} sang"))
    job = Job(config, QA(), None, hardware)
    prompts, report = job.prompts(rows, codec)
    assert prompts[:2] == [QA().prompt(row.fields) for row in rows[:2]]
    assert report.cut_share == pytest.approx(1 / 3)
    encoded = codec.encode_prompts(prompts)
    assert not {codec.eos_id, codec.pad_id} & {id for ids in encoded for id in ids}
    assert encoded[1] == codec.tokenizer(prompts[1])["input_ids"]
    assert [codec.tokenizer.decode(ids) for ids in encoded] == prompts
    assert max(map(len, encoded)) <= 90
    codec.tokenizer.chat_template = "{% for m in messages %}" + eos + "{{ m.content }}{% endfor %}"
    codec.converse()
    prompts, _ = job.prompts(rows[:2], codec)
    assert [ids.count(codec.eos_id) for ids in codec.encode_prompts(prompts)] == [1, 1]
    assert prompts[0] == f"{eos}{QA().prompt(rows[0].fields)}"
