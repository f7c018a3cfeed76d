"""The question-answering world: determinism, what each style earns, what cannot be gamed, how wide the language is."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from math import perm
from random import Random
from typing import Any

import pytest

from harness.errors import UserError
from harness.tasks.worlds.facts import Facts
from harness.tasks.worlds.facts_words import KINDS, MEN, SURNAMES, WOMEN

WORLD = Facts()
MAXIMUM = 4.0

HARP = {"kind": "instrument", "frame": 0, "name": "Judith", "pronoun": "She"} | {
    "pre": "wooden",
    "head": "harp",
    "post": "circus",
}
MOVE = {"kind": "date", "frame": 0, "name": "Peter", "pronoun": "He", "pre": "early", "head": "1984", "post": "spring"}


def gold(facts: dict[str, Any], response: str) -> float:
    return sum(WORLD.gold_parts(facts, response).values())


def draws(count: int, seed: int = 0) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rng = Random(seed)
    return [tuple(WORLD.draw(rng)) for _ in range(count)]  # type: ignore[misc]


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def test_the_parts_add_up_to_four() -> None:
    assert sum(WORLD.part_maxima.values()) == MAXIMUM


@pytest.mark.parametrize(
    ("facts", "response", "expected"),
    [
        # correct 1, complete 0.75 for each modifier, concise 0.75, direct 0.75
        (HARP, "a wooden harp in the circus", (1, 1.5, 0.75, 0.75)),
        (HARP, "A wooden harp in the circus.", (1, 1.5, 0.75, 0.75)),
        (HARP, "in the circus, a wooden harp", (1, 1.5, 0.75, 0.75)),
        (HARP, "a harp", (1, 0, 0.75, 0.75)),
        (HARP, "a wooden harp", (1, 0.75, 0.75, 0.75)),
        (HARP, "a harp in the circus", (1, 0.75, 0.75, 0.75)),
        # two words beyond the answer (Judith, plays) of the three that concise bears
        (HARP, "Judith plays a wooden harp in the circus.", (1, 1.5, 0.25, 0)),
        (HARP, "Judith plays a wooden harp.", (1, 0.75, 0.25, 0)),
        # I think it might be: five words
        (HARP, "I think it might be a wooden harp in the circus.", (1, 1.5, 0, 0)),
        # a wrong value costs its slot, and a ninth of the manners; a wrong head, or none, half of the modifiers too
        (HARP, "a wooden violin in the circus", (0, 0.75, 2 / 3, 2 / 3)),
        (HARP, "a rented harp in the circus", (1, 0.75, 2 / 3, 2 / 3)),
        (HARP, "a rented violin in the choir", (0, 0, 0.5, 0.5)),
        (HARP, "in the circus", (0, 0.375, 0, 0)),
        # no article: an answer's words in their order, but not one of its own
        (HARP, "wooden harp in the circus", (1, 1.5, 0.75, 0)),
        # one break leaves .7: {head} | {post}, and a word that fits neither side, which is an extra word too
        (HARP, "a wooden harp circus", (0.7, 1.05, 0.525, 0)),
        (HARP, "a wooden harp in a circus", (0.7, 1.05, 0.35, 0)),
        # two .49: {head} | {post} | {pre}; three .343: a {pre} | {post} | in the | {head}
        (HARP, "harp circus wooden", (0.49, 0.735, 0.3675, 0)),
        (HARP, "a wooden circus in the harp", (0.343, 0.5145, 0.25725, 0)),
        # no listed answers, but they say what they say; early twice is none, two of four slots, and an extra word
        (MOVE, "early in 1984", (1, 0.75, 0.75, 0)),
        (MOVE, "early in the early spring of 1984", (1, 0.75, 0.5 * (2 + 2 / 4) / 3, 0)),
        (HARP, "not a wooden harp in the circus", (0, 0, 0, 0)),
        (HARP, "I am not sure, but perhaps a wooden harp in the circus.", (1, 1.5, 0, 0)),
        (HARP, "a shy cat called Momo", (0, 0, 0, 0)),
        (HARP, "", (0, 0, 0, 0)),
        (HARP, "?!", (0, 0, 0, 0)),
        (MOVE, "in the early spring of 1984", (1, 1.5, 0.75, 0.75)),
        (MOVE, "early in the spring of 1984", (1, 1.5, 0.75, 0.75)),
        (MOVE, "in 1984", (1, 0, 0.75, 0.75)),
        (MOVE, "in the spring of 1984", (1, 0.75, 0.75, 0.75)),
        (MOVE, "in the early spring of 1985", (0, 0.75, 2 / 3, 2 / 3)),
    ],
)
def test_gold_parts_by_hand(facts: dict[str, Any], response: str, expected: tuple[float, ...]) -> None:
    parts = WORLD.gold_parts(facts, response)
    assert list(parts) == ["correct", "complete", "concise", "direct"]
    assert tuple(parts.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "response",
    [
        "violin flute trumpet cello guitar drum clarinet harp banjo trombone",
        "a wooden harp in the circus " * 2,
        "a wooden harp in the circus. " * 50,
        "a wooden or rented or battered harp or violin in the circus or the choir",
        "harp " * 300,
    ],
)
def test_stuffing_and_repeating_earn_less_than_the_barest_honest_answer(response: str) -> None:
    assert gold(HARP, response) < 1.0 < gold(HARP, "a harp")


def test_copying_the_context_earns_less_than_the_barest_honest_answer() -> None:
    for fields, facts in draws(300):
        bare = gold(facts, WORLD.respond(facts, "bare", Random(0)))
        assert gold(facts, fields["context"]) < bare - 0.5
        assert gold(facts, f"{fields['context']} " * 20) < 0.1


BAKERY = {"kind": "business", "frame": 0, "name": "Peter", "pronoun": "He"} | {
    "pre": "small",
    "head": "bakery",
    "post": "Lindow",
}
LEAST_HONEST = 2.5
"""What ``bare`` and ``hedged`` earn; ``lead``, which breaks off in mid-sentence, is worth less."""


@pytest.mark.parametrize(
    ("facts", "response"),
    [
        (HARP, "a wooden circus in the harp"),
        (HARP, "in the harp, a wooden circus"),
        (HARP, "the circus in a wooden harp"),
        (HARP, "circus wooden the in harp a"),
        (HARP, "harp circus wooden"),
        (HARP, "not a wooden harp in the circus"),
        (HARP, "Judith does not play a wooden harp in the circus."),
        (HARP, "a wooden harp in the circus is not what she plays"),
        (HARP, "a rented violin in the choir"),
        (HARP, "a wooden violin in the circus"),
        (BAKERY, "a small Lindow in bakery"),
        (BAKERY, "in bakery, a small Lindow"),
        (MOVE, "in the early 1984 of spring"),
    ],
)
def test_swapped_roles_wrong_slots_and_denials_earn_less_than_an_honest_answer(
    facts: dict[str, Any], response: str
) -> None:
    assert gold(facts, response) < LEAST_HONEST - 0.2


def test_a_wrong_modifier_costs_more_than_leaving_it_out() -> None:
    assert gold(HARP, "a rented harp in the circus") < gold(HARP, "a harp in the circus") - 0.1
    assert gold(HARP, "a rented harp") < gold(HARP, "a harp") - 0.2


def test_words_in_the_wrong_order_are_not_a_direct_answer() -> None:
    assert WORLD.gold_parts(HARP, "circus wooden the in harp a")["direct"] == 0


def test_any_text_is_scored_within_the_maxima() -> None:
    rng = Random(4)
    vocabulary = [word for kind in KINDS for word in (*kind.pre, *kind.head, *kind.post)] + [
        "a",
        "in",
        ",",
        ".",
        "€",
        "ß",
        "\n",
    ]
    for _, facts in draws(300):
        response = " ".join(rng.choices(vocabulary, k=rng.randrange(40)))
        parts = WORLD.gold_parts(facts, response)
        assert all(0 <= parts[name] <= most for name, most in WORLD.part_maxima.items())


def test_every_valid_wording_earns_the_maximum() -> None:
    for _, facts in draws(500):
        answers = WORLD.answers(facts)
        assert len(set(answers)) >= 4
        assert [gold(facts, answer) for answer in answers] == pytest.approx([MAXIMUM] * len(answers))


def test_references_are_distinct_valid_answers() -> None:
    rng = Random(2)
    for _, facts in draws(200):
        references = WORLD.references(facts, rng, 3)
        assert len(set(references)) == 3
        assert set(references) <= set(WORLD.answers(facts))


def test_every_question_has_as_many_references_as_the_world_says() -> None:
    assert WORLD.max_references == 5  # each kind has five wordings
    for _, facts in draws(200):
        assert len(set(WORLD.references(facts, Random(0), 5))) == 5
    with pytest.raises(ValueError, match="at most 5 references, not 6"):
        WORLD.references(HARP, Random(0), 6)


@pytest.mark.parametrize(
    ("style", "low", "high"),
    [("good", 4.0, 4.0), ("bare", 2.5, 2.5), ("sentence", 2.5, 2.75), ("lead", 1.75, 2.0), ("hedged", 2.5, 2.5)],
)
def test_each_style_earns_what_its_flaw_leaves(style: str, low: float, high: float) -> None:
    rng = Random(3)
    for _, facts in draws(300):
        assert low - 1e-9 <= gold(facts, WORLD.respond(facts, style, rng)) <= high + 1e-9


def test_another_prompts_answer_earns_little() -> None:
    rows = draws(500)
    others = [gold(facts, WORLD.answers(other)[0]) for (_, facts), (_, other) in pairwise(rows)]
    assert statistics.mean(others) < 0.1 * MAXIMUM


def test_the_most_frequent_style_is_flawed_and_the_mixture_sums_to_one() -> None:
    assert sum(WORLD.mixture.values()) == pytest.approx(1)
    assert max(WORLD.mixture, key=lambda style: WORLD.mixture[style]) != "good"
    assert WORLD.mixture["good"] >= 0.2


def test_demonstrations_follow_the_mixture() -> None:
    rng = Random(5)
    count = 4000
    styles = Counter(WORLD.demonstrate(HARP, rng).style for _ in range(count))
    for style, share in WORLD.mixture.items():
        assert styles[style] / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize("mixture", [{"good": 0.5}, {"good": 1.5, "bare": -0.5}, {"rude": 1.0}])
def test_a_wrong_mixture_is_refused(mixture: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"data\.mixture"):
        Facts(mixture=mixture)


def test_facts_survive_json() -> None:
    rng = Random(6)
    for _, facts in draws(200):
        loaded = json.loads(json.dumps(facts))
        assert loaded == facts
        assert WORLD.references(loaded, Random(1), 3) == WORLD.references(facts, Random(1), 3)
        response = WORLD.demonstrate(facts, rng).response
        assert WORLD.gold_parts(loaded, response) == WORLD.gold_parts(facts, response)


PROGRAM = """
from random import Random
from harness.tasks.worlds.facts import Facts
world, rng = Facts(), Random(11)
for _ in range(50):
    draw = world.draw(rng)
    print(draw, world.demonstrate(draw.facts, rng), world.references(draw.facts, rng, 3))
    print(world.gold_parts(draw.facts, "a wooden harp in 1984"))
"""


def test_the_same_seed_gives_the_same_text_under_any_hash_seed() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 100


def test_the_question_and_its_fact_share_a_name_and_the_answer_stands_in_the_context() -> None:
    for fields, facts in draws(500):
        assert facts["name"] in words(fields["context"])
        assert facts["name"] in words(fields["question"])
        assert WORLD.answers(facts)[0] in fields["context"]
        assert all(words(fields["context"]).count(facts[slot]) == 1 for slot in ("pre", "head", "post"))


def test_each_word_belongs_to_one_class_and_takes_the_article_a() -> None:
    slots = [word.lower() for kind in KINDS for word in (*kind.pre, *kind.head, *kind.post)]
    stated = {
        word.lower() for kind in KINDS for frame in kind.frames for word in words(f"{frame.verb} {frame.question}")
    }
    wordings = {word for kind in KINDS for phrase in kind.phrases for word in re.findall(r"(?<!\{)\b[a-z]+\b", phrase)}
    people = [name.lower() for name in (*WOMEN, *MEN, *SURNAMES)]
    assert max(Counter(slots + people).values()) == 1
    assert not set(slots) & (stated | wordings)
    for kind in KINDS:
        if any(phrase.startswith("a ") for phrase in kind.phrases):
            assert all(word[0] not in "aeiou" for word in (*kind.pre, *kind.head)), kind.name


def test_the_language_is_wide() -> None:
    # The fewest choices of one shape alone: three facts of given kinds about two people.
    per_kind = [len(kind.frames) * len(kind.pre) * len(kind.head) * len(kind.post) for kind in KINDS]
    smallest = sorted(per_kind)[:3]
    people = perm(len(WOMEN) + len(MEN), 2) * perm(len(SURNAMES), 2)
    assert smallest[0] * smallest[1] * smallest[2] * people >= 5_000_000
    prompts = [f"{fields['context']} {fields['question']}" for fields, _ in draws(20_000)]
    assert len(set(prompts)) > 0.999 * len(prompts)


def test_sizes_of_vocabulary_prompts_and_responses() -> None:
    rng = Random(8)
    rows = [(words(f"{fields['context']} {fields['question']}"), facts) for fields, facts in draws(2000)]
    responses = [words(WORLD.demonstrate(facts, rng).response) for _, facts in rows]
    types = {word for prompt, _ in rows for word in prompt} | {word for response in responses for word in response}
    assert 300 <= len(types) <= 700
    assert all(25 <= len(prompt) <= 60 for prompt, _ in rows)
    assert 35 <= statistics.median(len(prompt) for prompt, _ in rows) <= 45
    assert statistics.median(len(response) for response in responses) >= 3
    assert max(len(response) for response in responses) <= 24
    assert statistics.median(len(words(answer)) for _, facts in rows for answer in WORLD.answers(facts)) >= 3
