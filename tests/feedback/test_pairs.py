from __future__ import annotations

import copy
import math
from collections import Counter
from random import Random
from typing import Any

import pytest
import torch

from harness.errors import RunFailed
from harness.feedback.annotators import Annotator
from harness.feedback.pairs import (
    Candidates,
    Collected,
    LabelledPair,
    balanced_by_length,
    collect_pairs,
    examinable,
    read_pairs,
    require_pairs,
    sampled_candidates,
    write_pairs,
)
from harness.rollouts.sampler import Rollout
from harness.types import Example


def examples(count: int) -> list[Example]:
    return [Example(id=f"x{row}", fields={}, response="", references=[]) for row in range(count)]


def worth(example: Any, responses: Any) -> list[float]:
    """A response's worth is the number that it ends in."""
    return [float(text.split()[-1]) for text in responses]


SURE = Annotator(worth, temperature=1e-6)


class Policy:
    """Answers from a script by (row, time asked), and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.rounds, self.sizes = answer, [], [], []

    def __call__(self, rows: list[int], attempt: int, comparisons: int) -> Candidates:
        self.rounds.append((attempt, list(rows)))
        self.sizes.append(comparisons)
        texts = []
        for row in rows:
            texts.append(self.answer(row, self.asked.count(row)))
            self.asked.append(row)
        tokens = [tuple([*map(ord, text)] for text in each) for each in texts]
        return Candidates(texts, tokens)


def collect(
    policy: Policy, count: int = 10, *, annotator: Annotator = SURE, seed: int = 0, **options: Any
) -> Collected:
    prompts = [f"prompt {row}" for row in range(count)]
    given = {"per_prompt": 1, "max_pairs": 10, "attempts": 3, **options}
    return collect_pairs(
        examples(count),
        prompts,
        [[row, row] for row in range(count)],
        respond=policy,
        annotator=annotator,
        rng=Random(seed),
        **given,
    )


def test_the_better_response_is_chosen_with_its_own_tokens_and_prompt():
    collected = collect(Policy(lambda row, _: (f"first {row}", f"second {row + 1}")))
    assert sorted(pair.id for pair in collected.pairs) == sorted(f"x{row}" for row in range(10))
    for pair in collected.pairs:
        row = int(pair.id[1:])
        assert (pair.prompt, pair.prompt_tokens) == (f"prompt {row}", [row, row])
        assert (pair.chosen, pair.rejected) == (f"second {row + 1}", f"first {row}")
        assert pair.chosen_tokens == list(map(ord, pair.chosen))
        assert pair.rejected_tokens == list(map(ord, pair.rejected))
        assert pair.agrees == 1.0
        assert pair.tokens() == (pair.prompt_tokens, pair.chosen_tokens, pair.rejected_tokens)
    assert collected.counts() == {"pairs": 10, "equal_tokens": 0, "equal_value": 0}


def test_no_more_pairs_than_asked_for():
    collected = collect(Policy(lambda row, _: ("a 0", "b 1")), max_pairs=4)
    assert len(collected.pairs) == 4


def test_each_prompt_gets_its_comparisons():
    collected = collect(Policy(lambda row, _: ("a 0", "b 1")), max_pairs=30, per_prompt=3)
    ids = [pair.id for pair in collected.pairs]
    assert sorted(ids) == sorted(f"x{row}" for row in range(10) for _ in range(3))
    assert len(set(ids[:10])) == 10, "every prompt once before any twice"


def test_equal_tokens_and_equal_value_are_dropped_counted_and_tried_again():
    def answer(row: int, time: int) -> tuple[str, str]:
        if row < 3 and time == 0:
            return "same 1", "same 1"
        if row < 5 and time <= 1:
            return "one 7", "other 7"
        return "a 0", "b 1"

    policy = Policy(answer)
    told: list[int] = []
    collected = collect(policy, advance=told.append)
    assert told == [5, 0, 5], "pairs of each round"
    # Rows 0-2: equal tokens, then equal value, then a pair. Rows 3-4: equal value twice, then a pair.
    assert collected.equal_tokens == 3
    assert collected.equal_value == 3 + 2 * 2
    assert len(collected.pairs) == 10
    assert [attempt for attempt, _ in policy.rounds] == [0, 1, 2]
    assert sorted(policy.rounds[1][1]) == [0, 1, 2, 3, 4]


def test_a_difference_that_is_rounding_is_no_difference():
    def utility(example: Any, responses: Any) -> list[float]:
        return [0.1 + 0.2, 0.3]

    collected = collect(Policy(lambda row, _: ("a 0", "b 1")), annotator=Annotator(utility))
    assert (len(collected.pairs), collected.equal_value) == (0, 30)


def test_a_biased_annotator_labels_pairs_of_equal_worth():
    """2 words against 4 at 30 each: certain; the unbiased utility takes no side."""
    annotator = Annotator(lambda *_: [1.0, 1.0], length_bias=30.0, indifference=0.3)
    collected = collect(Policy(lambda row, _: ("a 0", "b b b 0")), annotator=annotator)
    assert {(pair.chosen, pair.agrees) for pair in collected.pairs} == {("b b b 0", 0.5)}
    assert collected.counts() == {"pairs": 10, "equal_tokens": 0, "equal_value": 0}


def test_after_the_last_attempt_it_gives_up():
    policy = Policy(lambda row, _: ("same 1", "same 1"))
    collected = collect(policy, attempts=3)
    assert collected.counts() == {"pairs": 0, "equal_tokens": 30, "equal_value": 0}
    assert len(policy.rounds) == 3


def test_what_is_asked_for_is_little_more_than_what_is_wanted():
    policy = Policy(lambda row, _: ("a 0", "b 1"))
    collect(policy, count=1000, max_pairs=100)
    assert len(policy.asked) == 125


def test_the_next_round_asks_for_as_many_as_the_share_so_far_calls_for():
    """A quarter of the comparisons tells something: 125 give 32 pairs or so, and each pair missing takes four."""
    policy = Policy(lambda row, _: ("a 0", "b 1") if row % 4 == 0 else ("a 0", "b 0"))
    collect(policy, count=4000, max_pairs=100, attempts=2)
    told = sum(row % 4 == 0 for row in policy.rounds[0][1])
    assert len(policy.rounds[0][1]) == 125
    assert len(policy.rounds[1][1]) == math.ceil((100 - told) / (told / 125))


def test_four_responses_are_matched_so_that_most_comparisons_tell_something():
    """Worths 1, 1, 2, 2: as they come neither comparison would."""
    policy = Policy(lambda row, _: ("a 1", "b 1", "c 2", "d 2"))
    collected = collect(policy, count=5, at_once=2, per_prompt=2)
    assert collected.counts() == {"pairs": 10, "equal_tokens": 0, "equal_value": 0}
    assert {(pair.chosen, pair.rejected) for pair in collected.pairs} == {("c 2", "a 1"), ("d 2", "b 1")}
    assert policy.rounds == [(0, policy.rounds[0][1])]


def test_a_comparison_of_two_that_tells_nothing_is_tried_again_alone():
    def answer(row: int, time: int) -> tuple[str, ...]:
        return ("a 1", "a 1", "b 1", "c 2") if time == 0 else ("d 3", "e 4")

    policy = Policy(answer)
    collected = collect(policy, count=5, at_once=2, per_prompt=2)
    assert policy.sizes == [2, 1]
    assert collected.counts() == {"pairs": 10, "equal_tokens": 5, "equal_value": 0}, "of 1, 1, 1, 2 one stays"
    assert Counter(pair.chosen for pair in collected.pairs) == {"c 2": 5, "e 4": 5}


def test_enough_is_enough_also_where_two_pairs_come_at_once():
    """Three prompts give two pairs each, of which the last is one too many; what follows counts for nothing."""
    policy = Policy(lambda row, _: ("a 1", "b 2", "c 3", "d 4"))
    first = collect(policy, count=9, at_once=2, per_prompt=2, max_pairs=5)
    assert first.counts() == {"pairs": 5, "equal_tokens": 0, "equal_value": 0}
    (_, order), *_ = policy.rounds
    mixed = Policy(lambda row, _: ("a 1", "b 2", "c 3", "d 4") if order.index(row) < 3 else ("a 1", "b 1") * 2)
    assert collect(mixed, count=9, at_once=2, per_prompt=2, max_pairs=5).counts() == first.counts()
    assert mixed.rounds == [(0, order)]
    assert len(order) == 4


def test_an_odd_number_of_comparisons_leaves_one_to_be_made_alone():
    four_or_two = {2: ("a 1", "b 2", "c 3", "d 4"), 1: ("e 5", "f 6")}
    policy = Policy(lambda row, time: four_or_two[2 if time == 0 else 1])
    collected = collect(policy, count=4, at_once=2, per_prompt=3, max_pairs=12)
    assert policy.sizes == [2, 1]
    assert Counter(pair.id for pair in collected.pairs) == {f"x{row}": 3 for row in range(4)}


def test_the_seed_decides_order_and_labels():
    def run(seed: int) -> list[LabelledPair]:
        soft = Annotator(worth, temperature=1.0)
        return collect(Policy(lambda row, _: ("a 0", "b 0.5")), annotator=soft, seed=seed).pairs

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_too_few_pairs_end_the_run_with_the_reason():
    require_pairs(50, 50, "feedback.min_pairs")
    with pytest.raises(RunFailed, match=r"too few informative pairs \(49 of feedback\.min_pairs=50\)"):
        require_pairs(49, 50, "feedback.min_pairs")


def test_held_out_pairs_of_one_prompt_bear_no_interval():
    pairs = [LabelledPair(str(row), name, "", "", [], [1], [2]) for row, name in enumerate(("a", "a", "b"))]
    assert [examinable(pairs[:count]) for count in range(4)] == [False, False, False, True]


def test_pairs_on_disk_are_the_same_pairs(tmp_path):
    pairs = [
        LabelledPair("1", "Grüße\n", "ja 😀", "nein", [1, 2], [3], [4, 5], 1.0),
        LabelledPair("2", "\u2028 line", "", "x", [], [0], [1], None),
    ]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    assert len((tmp_path / "pairs.jsonl").read_text(encoding="utf-8").split("\n")) == 3


def of_words(number: int, chosen: int, rejected: int) -> LabelledPair:
    return LabelledPair(str(number), "p", "w " * chosen, "w " * rejected, [1], [2], [3], None)


def lead(pair: LabelledPair) -> int:
    return len(pair.chosen.split()) - len(pair.rejected.split())


def test_balanced_pairs_are_as_often_longer_as_shorter_by_so_many_words():
    rng = Random(3)
    pairs = [of_words(n, rng.randint(1, 9), rng.randint(1, 6)) for n in range(400)]
    before = Counter(map(lead, pairs))
    kept = balanced_by_length(pairs, Random(0))
    after = Counter(map(lead, kept))
    assert sum(map(lead, pairs)) > 200, "the chosen ones are the longer here"
    assert all(after[k] == after[-k] == min(before[k], before[-k]) for k in range(10))
    assert [pair.id for pair in kept] == sorted((pair.id for pair in kept), key=int), "in their order"
    assert len({pair.id for pair in kept}) == len(kept)
    assert kept == balanced_by_length(pairs, Random(0)) != balanced_by_length(pairs, Random(1))


def test_pairs_that_all_lead_one_way_leave_none():
    assert balanced_by_length([of_words(n, 3, 2) for n in range(5)], Random(0)) == []
    assert balanced_by_length([], Random(0)) == []


def test_a_punctuation_mark_is_a_word_of_its_own():
    pairs = [
        LabelledPair(str(n), "p", "a b", text, [1], [2], [3], None) for n, text in enumerate(("a, b", "a b.", "c"))
    ]
    assert [pair.rejected for pair in balanced_by_length(pairs[:2], Random(0))] == []
    assert len(balanced_by_length(pairs, Random(0))) == 2
    assert len(balanced_by_length([pairs[0], pairs[2]], Random(0))) == 2


def test_sampled_responses_end_in_eos_whatever_ended_them(codec):
    codec = copy.copy(codec)
    codec.stop_ids = (codec.eos_id, codec.pad_id)
    tokens = [[5, 6, codec.pad_id], [5, 6, codec.eos_id], [5, 6], [9, codec.pad_id]]
    found = sampled_candidates(Rollout(tokens, [True, True, False, True], torch.zeros(4, 3)), codec, 2)
    assert found.tokens == [([5, 6, codec.eos_id], [5, 6, codec.eos_id]), ([5, 6], [9, codec.eos_id])]
    assert found.texts == [tuple(codec.decode([[5, 6]]) * 2), (*codec.decode([[5, 6]]), *codec.decode([[9]]))]
