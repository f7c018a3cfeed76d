from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.cutting import longest_end, longest_start, most, sentences, words

TEXTS = st.text(alphabet="ab. !?\n\"'é", max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Mr. Ray met J. Doe. They left.", ["Mr. Ray met J. Doe.", "They left."]),
        ('He said "Go." Then 3.5 km…  End', ['He said "Go."', "Then 3.5 km…", "End"]),
        ("#A#: Hi there\n#B#: Yes. No.\n", ["#A#: Hi there", "#B#: Yes.", "No."]),
        ("The U.S. sent Mr. Bo. He said e.g. this.", ["The U.S. sent Mr. Bo.", "He said e.g. this."]),
        ("At 5 p.m. we ate. So do I. Then J. Doe did.", ["At 5 p.m. we ate.", "So do I.", "Then J. Doe did."]),
        ("No. He lives at No. 5.", ["No.", "He lives at No. 5."]),
        ("He met Dr.\nRay left.", ["He met Dr.", "Ray left."]),
        ("今天很好。我们走吧！「好的。」他说。", ["今天很好。", "我们走吧！", "「好的。」", "他说。"]),
        ("本当？はい｡ Yes.", ["本当？", "はい｡", "Yes."]),
        ("no mark at all", ["no mark at all"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two words, (here).", ["Two", "words,", "(here)."]),
        ("東京タワー。", ["東", "京", "タ", "ワ", "ー。"]),
        ("ที่นี่ OK", ["ที่", "นี่", "OK"]),  # vowel signs and tones stay on their consonants
        ("か\u3099き", ["か\u3099", "き"]),  # an accent of its own
        ("GPU用「本」", ["GPU", "用", "「", "本", "」"]),
        ("한국어 문장.", ["한국어", "문장."]),  # Korean has spaces
        ("终。Next", ["终。", "Next"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words(text)] == expected


@given(st.text(alphabet='ab. !\n"。！？」東ーา่', max_size=60))
def test_sentences_begin_at_words_and_words_hold_all_that_is_no_space(text: str) -> None:
    assert {span.start for span in sentences(text)} <= {span.start for span in words(text)}
    assert "".join(text[start:end] for start, end in words(text)) == "".join(text.split())


@given(TEXTS)
def test_sentences_hold_every_word_once(text: str) -> None:
    assert " ".join(text[start:end] for start, end in sentences(text)).split() == text.split()


@pytest.mark.parametrize(("text", "count"), [("Mr. Ray sang. " * 70_000, 70_000), ("." * 1_000_000, 1)])
def test_a_megabyte_is_split_in_seconds(text: str, count: int) -> None:
    started = time.process_time()
    assert len(sentences(text)) == count
    assert time.process_time() - started < 20  # linear: well under one; quadratic: a quarter of an hour


@given(low=st.integers(-3, 3), span=st.integers(-1, 20), last=st.integers(-10, 30))
def test_most_equals_a_linear_search(low: int, span: int, last: int) -> None:
    high = low + span
    expected = max((n for n in range(low, high + 1) if n <= last), default=low - 1)
    assert most(low, high, lambda n: n <= last) == expected


@given(count=st.integers(1, 5000), last=st.integers(0, 5000))
def test_most_asks_few_times(count: int, last: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= last

    most(1, count, fits)
    assert len(asked) <= count.bit_length() + 1
    assert len(asked) == len(set(asked))


@given(text=TEXTS, size=st.integers(0, 60))
def test_longest_start_and_end_equal_a_search_over_all_word_edges(text: str, size: int) -> None:
    spans = words(text)
    starts = [text[: span.end] for span in spans if len(text[: span.end]) <= size]
    ends = [text[span.start :] for span in spans if len(text[span.start :]) <= size]
    assert longest_start(text, lambda part: len(part) <= size, whole_sentences=False) == (starts or [None])[-1]
    assert longest_end(text, lambda part: len(part) <= size) == (ends or [None])[0]


@given(text=TEXTS, size=st.integers(0, 60))
def test_longest_start_keeps_whole_sentences_if_one_fits(text: str, size: int) -> None:
    kept = longest_start(text, lambda part: len(part) <= size, whole_sentences=True)
    whole = [text[: span.end] for span in sentences(text) if span.end <= size]
    if whole:
        assert kept == whole[-1]
    else:
        assert kept == longest_start(text, lambda part: len(part) <= size, whole_sentences=False)
