from __future__ import annotations

from random import Random

import pytest

from harness.data.overlap import HeldOut, Overlap
from harness.data.splits import normalise


def naive(prompts: list[str], held_out: list[str]) -> tuple[list[bool], Overlap]:
    """The definition, with tuples of words and sets."""

    def grams(text: str) -> list[tuple[str, ...]]:
        words = normalise(text).split()
        return [tuple(words[i : i + 8]) for i in range(len(words) - 7)]

    whole = {normalise(text) for text in held_out}
    held = {gram for text in held_out for gram in grams(text)}
    removed, exact, near, some = [], 0, 0, 0
    for prompt in prompts:
        mine = grams(prompt)
        share = sum(gram in held for gram in mine) / len(mine) if mine else 0
        is_exact = normalise(prompt) in whole
        removed.append(is_exact or share >= 0.5)
        exact += is_exact
        near += not is_exact and share >= 0.5
        some += not is_exact and 0 < share < 0.5
    return removed, Overlap(exact, near, some)


def test_by_hand() -> None:
    held = ["One two three four five six seven eight nine ten.", "Short one"]
    rows = [
        "one two three four five six seven eight nine ten",  # exact
        "SHORT: one!",  # exact, under 8 words
        "Short one too",  # no 8-gram
        "zero one two three four five six seven eight",  # 1 of 2: near
        "a b zero one two three four five six seven eight",  # 1 of 4: some
        "ten nine eight seven six five four three two one",  # other order
    ]
    removed, found = HeldOut.of(held).compare(rows)
    assert removed.tolist() == [True, True, False, True, False, False]
    assert found == Overlap(exact=2, ngram8=1, ngram8_any=1)


def test_a_character_of_a_script_without_spaces_is_a_word() -> None:
    held = ["今天天气很好我们去公园", "ที่นี่สวยมากจริงๆ"]
    rows = [
        "今天天气很好我们去公园。",  # exact: punctuation does not count
        "他说今天天气很好我们去公园",  # 11 of 13 characters, 4 of 6 8-grams: near
        "他说他们今天天气很好我们",  # 8 characters, 1 of 5: some
        "今天天气很好 我们去公园玩",  # 8 words on either side of the space make the same 8-grams, 4 of 5: near
        "今天天气很好",  # under 8
        "ที่นี่สวยมากจริงๆ นะ",  # near
    ]
    removed, found = HeldOut.of(held).compare(rows)
    assert removed.tolist() == [True, True, False, True, False, True]
    assert found == Overlap(exact=1, ngram8=3, ngram8_any=1)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_naive_definition(seed: int) -> None:
    rng = Random(seed)

    def texts(count: int) -> list[str]:
        return [" ".join(rng.choice(["a", "b"]) for _ in range(rng.randrange(25))) for _ in range(count)]

    held, rows = texts(30), texts(200)
    removed, found = HeldOut.of(held).compare(rows)
    assert (removed.tolist(), found) == naive(rows, held)
    assert min(found) > 0


def test_more_rows_than_a_chunk() -> None:
    held = ["one two three four five six seven eight"]
    rows = [f"{i} is no number of the eight that are held" for i in range(5000)] + held
    removed, found = HeldOut.of(held).compare(rows)
    assert removed.nonzero()[0].tolist() == [5000]
    assert found == Overlap(1, 0, 0)


def test_nothing_to_compare_with() -> None:
    rows = ["one two three four five six seven eight nine"]
    for given, held in ((rows, []), ([], rows)):
        removed, found = HeldOut.of(held).compare(given)
        assert removed.tolist() == [False] * len(given)
        assert found == Overlap(0, 0, 0)
