from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.tasks.dialogue import Dialogue
from harness.tasks.qa import QA, question_window
from harness.tasks.summarize import Summarize
from harness.tasks.translate import Translate
from harness.types import Example, Task

TASKS: list[Callable[[], Task]] = [Dialogue, QA, Summarize, Translate]
WORD = st.text(alphabet="abcdé,", min_size=1, max_size=6)
SENTENCE = st.lists(WORD, min_size=1, max_size=9).map(lambda words: " ".join(words) + ".")
TEXT = st.lists(SENTENCE, min_size=1, max_size=6).map(" ".join)


def example(fields: dict[str, Any], references: list[str] | None = None) -> Example:
    references = references or ["answer"]
    return Example("x", fields, references[0], references)


def at_most(words: int) -> Callable[[str], bool]:
    return lambda prompt: len(prompt.split()) <= words


@pytest.mark.parametrize(
    ("task", "fields", "prompt", "copy"),
    [
        (Summarize(), {"source": "A {long} text."}, "A {long} text.\nTL;DR:", "A {long} text."),
        (Summarize(ending="TL;DR:"), {"source": "A text.\n\nTL;DR:"}, "A text.\nTL;DR:", "A text."),
        (Summarize(ending="TL;DR:"), {"source": "TL;DR: a text."}, "TL;DR: a text.\nTL;DR:", "TL;DR: a text."),
        (Translate(), {"source": "A dog."}, "A dog.\nGerman:", "A dog."),
        (QA(), {"context": "C.", "question": "Q?"}, "C.\nQ: Q?\nA:", "C."),
        (Dialogue(), {"turns": ["Hi."]}, "Customer: Hi.\nAgent:", "Hi."),
        (Dialogue(), {"turns": ["a", "b", "c"]}, "Customer: a\nAgent: b\nCustomer: c\nAgent:", "c"),
        (Dialogue(), {"turns": ["a", "b"]}, "Agent: a\nCustomer: b\nAgent:", "b"),
        (Dialogue(speakers=["A", "B"]), {"turns": ["x", "y", "z"]}, "A: x\nB: y\nA: z\nB:", "z"),
        (Dialogue(template="Talk:\n{turns}"), {"turns": ["x"]}, "Talk:\nCustomer: x\nAgent:", "x"),
        (Translate(template="{{en}} {source} ="), {"source": "Hi"}, "{en} Hi =", "Hi"),
    ],
)
def test_prompts(task: Task, fields: dict[str, Any], prompt: str, copy: str) -> None:
    assert task.prompt(fields) == prompt
    assert task.copy_of_input(fields) == copy
    assert task.cut(example(fields), lambda _: True) == (prompt, False, False)


@pytest.mark.parametrize("make", TASKS)
def test_a_task_states_what_it_needs(make: Callable[[], Task]) -> None:
    task = make()
    assert task.name == type(task).__name__.lower()
    assert task.version == 2
    assert task.main_metric in task.metrics
    assert make().required_fields == task.required_fields


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Summarise:", r"lacks \{source\}"),
        ("{source} {title}:", r"unknown placeholder \{title\}"),
        ("{source.__class__}:", "unknown placeholder"),
        ("{source!r}:", "unknown placeholder"),
        ("{source:>5}:", "unknown placeholder"),
        ("{source", "is not a template"),
        ("{source}\nTL;DR: ", "ends in white space"),
    ],
)
def test_wrong_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"task\.template=.*{message}"):
        Summarize(template=template)


@pytest.mark.parametrize("speakers", [["A"], ["A", "B", "C"], ["A", " "]])
def test_wrong_speakers_are_refused(speakers: list[str]) -> None:
    with pytest.raises(UserError, match=r"task\.speakers="):
        Dialogue(speakers=speakers)


@pytest.mark.parametrize(
    ("task", "fields", "words", "expected"),
    [
        (Summarize(), {"source": "One two. Three four. Five six."}, 6, "One two. Three four.\nTL;DR:"),
        (Summarize(ending="END"), {"source": "One two. Three four. Five six. END"}, 6, "One two. Three four.\nTL;DR:"),
        (Summarize(), {"source": "#A: hi\n#B: ho\n#A: hu"}, 5, "#A: hi\n#B: ho\nTL;DR:"),
        (Summarize(), {"source": "One two three four. Five."}, 3, "One two\nTL;DR:"),
        (Translate(), {"source": "One two. Three four."}, 4, "One two. Three\nGerman:"),
        (Dialogue(), {"turns": ["a b c", "d", "e f"]}, 7, "Agent: d\nCustomer: e f\nAgent:"),
        (Dialogue(), {"turns": ["a", "b c d e"]}, 4, "Customer: d e\nAgent:"),
        (
            QA(),
            {"context": "Ann ran. Bob swam ahead. Cleo sang. Dan left.", "question": "Who swam ahead?"},
            9,
            "Bob swam ahead. Cleo\nQ: Who swam ahead?\nA:",
        ),
    ],
)
def test_cuts_by_hand(task: Task, fields: dict[str, Any], words: int, expected: str) -> None:
    assert task.cut(example(fields), at_most(words)) == (expected, True, False)


@pytest.mark.parametrize(
    ("task", "fields", "length", "expected"),
    [
        (Summarize(), {"source": "今天很好。我们去公园。他也去。"}, 18, "今天很好。我们去公园。\nTL;DR:"),
        (Summarize(), {"source": "今天很好。我们去公园。"}, 10, "今天很\nTL;DR:"),
        (Translate(), {"source": "東京タワーへ行く"}, 13, "東京タワー\nGerman:"),
        (Translate(), {"source": "ที่นี่สวย"}, 13, "ที่\nGerman:"),
        (Dialogue(), {"turns": ["今天我们去公园"]}, 20, "Customer: 去公园\nAgent:"),
        (
            QA(),
            {"context": "今天很好。王先生在北京。他走了。", "question": "王先生在哪？"},
            21,
            "王先生在北京。他\nQ: 王先生在哪？\nA:",
        ),
    ],
)
def test_texts_without_spaces_are_cut(task: Task, fields: dict[str, Any], length: int, expected: str) -> None:
    assert task.cut(example(fields), lambda prompt: len(prompt) <= length) == (expected, True, False)


@given(text=TEXT, limit=st.integers(3, 60))
def test_texts_are_cut_at_word_ends_and_fit(text: str, limit: int) -> None:
    for task in (Summarize(), Translate()):
        cut = task.cut(example({"source": text}), at_most(limit))
        assert at_most(limit)(cut.prompt)
        kept = cut.prompt.split("\n")[0].split()
        assert kept == text.split()[: len(kept)]
        assert cut.was_cut == (len(kept) < len(text.split()))
        assert kept


@given(turns=st.lists(SENTENCE, min_size=1, max_size=6), limit=st.integers(4, 60))
def test_dialogues_lose_their_oldest_turns(turns: list[str], limit: int) -> None:
    cut = Dialogue().cut(example({"turns": turns}), at_most(limit))
    assert at_most(limit)(cut.prompt)
    lines = cut.prompt.split("\n")[:-1]
    kept = [line.partition(": ")[2] for line in lines]
    assert lines[-1].startswith("Customer: ")
    if len(kept) > 1 or kept[0] == turns[-1]:
        assert kept == turns[-len(kept) :]
        older = {"turns": turns[-len(kept) - 1 :]}
        assert len(kept) == len(turns) or not at_most(limit)(Dialogue().prompt(older))
    else:
        assert turns[-1].split()[-len(kept[0].split()) :] == kept[0].split()


@given(context=TEXT, question=SENTENCE, spare=st.integers(1, 40), references=st.lists(WORD, min_size=1, max_size=3))
def test_contexts_are_cut_to_a_run_of_words_whatever_the_answer(
    context: str, question: str, spare: int, references: list[str]
) -> None:
    fields = {"context": context, "question": question}
    fits = at_most(len(question.split()) + 2 + spare)
    cut = QA().cut(example(fields, references), fits)
    assert fits(cut.prompt)
    kept, there = cut.prompt.split("\n")[0].split(), context.split()
    assert any(there[i : i + len(kept)] == kept for i in range(len(there)))
    assert cut.was_cut == (len(kept) < len(there))
    assert cut.prompt == QA().cut(example(fields, ["something else"]), fits).prompt


def test_the_window_has_most_question_words() -> None:
    context = "The red house burned. A tall king lived here. The famous painter moved to Rome with friends."
    cut = QA().cut(example({"context": context, "question": "where did the famous painter move"}), at_most(14))
    assert cut.prompt.startswith("The famous painter moved to Rome")


def test_a_window_is_as_long_as_fits_from_its_beginning() -> None:
    # One of two words fits, one of the second sentence does not: windows of one width need not be alike.
    cut = QA().cut(
        example({"context": "On it. Representatives.", "question": "Representatives?"}), lambda p: len(p) <= 30
    )
    assert cut.prompt == "On it.\nQ: Representatives?\nA:"
    url = "https://example.org/" + "x" * 200
    for context, kept in ((f"{url} is long. Ann ran far.", "Ann ran far."), (f"Ann ran. {url}", "Ann ran.")):
        assert QA().cut(example({"context": context, "question": "q"}), lambda p: len(p) <= 50).prompt.startswith(kept)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    asked=st.lists(st.sampled_from(["", "", "a", "b", "c"]), min_size=30, max_size=30),
    begins=st.sets(st.integers(1, 29)),
    room=st.integers(0, 40),
)
def test_the_window_equals_a_search_over_all_windows(
    lengths: list[int], asked: list[str], begins: set[int], room: int
) -> None:
    count = len(lengths)
    starts = [0, *sorted(start for start in begins if start < count)]

    def fits(start: int, end: int) -> bool:
        return sum(lengths[start:end]) <= room

    longest = [(s, max(end for end in range(s, count + 1) if fits(s, end))) for s in starts]
    there = [(s, end) for s, end in longest if end > s]
    # max keeps the first of equals, the earliest
    expected = max(there, key=lambda window: len({*asked[window[0] : window[1]]} - {""}), default=None)
    assert question_window(asked[:count], starts, fits) == expected


@given(st.data())
def test_the_window_fits_whatever_a_tokenizer_does(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    fitting = data.draw(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 12))))
    window = question_window(["a", ""] * 6, list(range(count)), lambda start, end: (start, end) in fitting)
    assert window is None or (window in fitting and window.start < window.end)


@pytest.mark.parametrize(
    ("references", "lost"),
    [
        (["Ann"], True),
        (["Bob"], False),
        (["Ann", "Bob"], False),  # another answer is left
        (["Bo"], False),  # never a word of the context
        (["Zoe"], False),  # nothing to lose
    ],
)
def test_lost_answers(references: list[str], lost: bool) -> None:
    fields = {"context": "Ann ran. Bob swam far.", "question": "Who swam?"}
    cut = QA().cut(example(fields, references), at_most(7))
    assert cut.prompt.startswith("Bob swam far.")
    assert cut.lost_answer == lost


@pytest.mark.parametrize(("reference", "lost"), [("北京", True), ("王", False), ("GPU", True), ("GP", False)])
def test_lost_answers_without_spaces(reference: str, lost: bool) -> None:
    fields = {"context": "她在北京买GPU了。王先生去哪里？", "question": "王先生去哪？"}
    cut = QA().cut(example(fields, [reference]), lambda prompt: len(prompt) <= 21)
    assert cut.prompt == "王先生去哪里？\nQ: 王先生去哪？\nA:"
    assert cut.lost_answer == lost


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        (Summarize(), {"source": "a b"}),
        (Translate(), {"source": "a"}),
        (Dialogue(), {"turns": ["a", "b c"]}),
        (QA(), {"context": "a b c", "question": "q r s"}),
        (QA(), {"context": "a", "question": "q r s"}),
    ],
)
def test_what_cannot_fit_is_an_error(task: Task, fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"task\.max_prompt_tokens is too small"):
        task.cut(example(fields), at_most(1))


def test_fits_is_asked_seldom() -> None:
    asked = 0

    def fits(prompt: str) -> bool:
        nonlocal asked
        asked += 1
        return len(prompt.split()) <= 100

    context = " ".join(f"word{i} is here." for i in range(500))
    cut = QA().cut(example({"context": context, "question": "Where is word77?"}), fits)
    assert cut.prompt.startswith("word46 is here.")  # 95 words fit: word 231 is in those from 137 on
    # Bisections of 1500 words over a bisection of 500 beginnings, where trying all would ask 5000 times.
    assert asked <= math.log2(1500) * math.log2(500)
