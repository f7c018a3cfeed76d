from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.data.prompts import CutReport, fit_prompts
from harness.errors import RunFailed, UserError
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
