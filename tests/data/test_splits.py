from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.splits import HELD_OUT_SHARES, check_shares, content, controlled_split, normalise, split_of
from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS

SHARES = {"sft": 0.5, "preference": 0.2, "judge": 0.1, "rl": 0.2}
PUNCTUATION = st.text(alphabet=" \t\n.,;:!?-'\"()…“”", min_size=1, max_size=4)
WORDS = st.lists(st.text(alphabet="abcdefgäöüéßчт漢0123456789", min_size=1, max_size=8), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,   World!", "hello world"),
        ("ﬁne Straße", "fine strasse"),  # ligature and sharp s: NFKC, casefold
        ("Ｆｕｌｌ１２", "full12"),  # full-width forms
        ("a\u00a0b\u2009c", "a b c"),  # no-break and thin spaces
        ("क्या की कि", "क्या की कि"),  # vowel signs are part of the word
        ("5 $ + 3 €", "5 $ + 3 €"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(words=WORDS, gaps=st.lists(PUNCTUATION, min_size=8, max_size=8))
def test_normalise_ignores_case_punctuation_and_spacing(words: list[str], gaps: list[str]) -> None:
    varied = "".join(word.upper() + gap for word, gap in zip(words, gaps, strict=False))
    assert normalise(varied) == normalise(" ".join(words))


@given(st.text())
def test_normalise_settles(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == normalise(normalise(once))
    assert once == " ".join(once.split())


@given(words=WORDS, gaps=st.lists(PUNCTUATION, min_size=8, max_size=8), seed=st.integers(0, 5))
def test_equal_prompts_never_part(words: list[str], gaps: list[str], seed: int) -> None:
    varied = "".join(word.upper() + gap for word, gap in zip(words, gaps, strict=False))
    assert normalise(varied) == normalise(" ".join(words))  # which is what a row's split follows from
    assert controlled_split(varied, SHARES, seed=seed) == controlled_split(" ".join(words), SHARES, seed=seed)


@given(st.text(), st.dictionaries(st.sampled_from(SPLITS), st.floats(0, 10), min_size=1))
def test_only_splits_with_a_share_are_chosen(text: str, shares: dict[str, float]) -> None:
    if sum(shares.values()) > 0:
        assert shares[split_of(text, shares)] > 0


def test_train_rows_follow_the_shares() -> None:
    counts = Counter(split_of(f"prompt {i}", SHARES) for i in range(20_000))
    for split, share in SHARES.items():
        # Four standard deviations of a binomial count.
        assert abs(counts[split] - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5
    assert set(counts) == set(TRAIN_SPLITS)


def test_shares_are_relative() -> None:
    doubled = {split: 2 * share for split, share in SHARES.items()}
    assert all(split_of(f"p{i}", SHARES) == split_of(f"p{i}", doubled) for i in range(500))


def test_held_out_prompts_of_a_world_do_not_depend_on_train_shares() -> None:
    first = [controlled_split(f"p{i}", {"sft": 1, "rl": 1}) for i in range(5000)]
    second = [controlled_split(f"p{i}", {"sft": 9, "judge": 4}) for i in range(5000)]
    for split, share in HELD_OUT_SHARES.items():
        chosen = [i for i, name in enumerate(first) if name == split]
        assert chosen == [i for i, name in enumerate(second) if name == split]
        assert abs(len(chosen) - 5000 * share) < 4 * (5000 * share * (1 - share)) ** 0.5


def test_seed_moves_prompts() -> None:
    assert [split_of(f"p{i}", SHARES) for i in range(50)] != [split_of(f"p{i}", SHARES, seed=1) for i in range(50)]


def test_split_does_not_depend_on_pythons_hash_seed() -> None:
    code = f"from harness.data.splits import split_of; print([split_of(str(i), {SHARES}) for i in range(40)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{[split_of(str(i), SHARES) for i in range(40)]}\n"}


def test_content_joins_turns_and_leaves_the_template_out() -> None:
    assert content({"turns": ["Hi", "Yes?"], "other": "x"}, ["turns"]) == "Hi\nYes?"
    assert content({"question": "Q", "context": "C"}, ("context", "question")) == "C\nQ"


@pytest.mark.parametrize("shares", [{"sft": -1.0}, {"train": 1.0}, {"test": 1.0}, {"sft": float("nan")}, {}])
def test_bad_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"data\.shares"):
        check_shares(shares)
