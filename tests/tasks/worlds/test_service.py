"""The customer service world: what it draws, what each style earns, and what cannot be gamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.tasks.worlds import service_words as words
from harness.tasks.worlds.service import TOKEN_LIMIT, Service
from harness.tasks.worlds.service_phrases import ALTERNATIVES, realise, recogniser
from harness.tasks.worlds.service_reading import TOKEN, Reader, _recognised_phrases

WORLD = Service()
MAXIMUM = sum(WORLD.part_maxima.values())
BOOKING = {"desk": "restaurant", "act": "book", "rule": "", "name": "Anna", "item": "table", "day": "Friday"}
FAULT = {"desk": "shop", "act": "replace", "rule": "", "name": "Bruno", "item": "lamp", "day": "Monday"}
RECEIPT = {"desk": "shop", "act": "", "rule": "receipt", "name": "Clara", "item": "lamp", "day": "Tuesday"}
FULL = WORLD.part_maxima
DIGEST = """
import hashlib
from random import Random
from harness.tasks.worlds.service import Service
world, rng = Service(), Random(3)
digest = hashlib.sha256()
for _ in range(200):
    draw = world.draw(rng)
    digest.update(repr((draw, world.demonstrate(draw.facts, rng), world.references(draw.facts, rng, 4))).encode())
print(digest.hexdigest())
"""


def total(facts: Mapping[str, Any], response: str) -> float:
    return sum(WORLD.gold_parts(facts, response).values())


def draws(count: int, seed: int = 0) -> list[Any]:
    rng = Random(seed)
    return [WORLD.draw(rng) for _ in range(count)]


def earned(**shares: float) -> dict[str, float]:
    """Parts from shares of their maxima; parts not named earn nothing."""
    return {part: shares.get(part, 0.0) * most for part, most in FULL.items()}


# What is drawn


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_same_seed_same_texts_in_any_process(hash_seed: str) -> None:
    rng, digest = Random(3), hashlib.sha256()
    for _ in range(200):
        draw = WORLD.draw(rng)
        texts = (draw, WORLD.demonstrate(draw.facts, rng), WORLD.references(draw.facts, rng, 4))
        digest.update(repr(texts).encode())
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    other = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == digest.hexdigest()


def test_facts_survive_json() -> None:
    for draw in draws(200):
        loaded = json.loads(json.dumps(draw.facts))
        assert loaded == draw.facts
        assert WORLD.references(loaded, Random(1), 3) == WORLD.references(draw.facts, Random(1), 3)


def test_turns_are_one_or_three_and_carry_every_slot() -> None:
    lengths = set()
    for draw in draws(1000):
        turns, facts = draw.fields["turns"], draw.facts
        lengths.add(len(turns))
        prompt = " ".join(turns)
        assert prompt.count(facts["name"]) == 1
        assert facts["item"] in TOKEN.findall(turns[-1])
        if facts["act"]:
            assert prompt.count(facts["day"]) == 1
        assert not set("{}()|") & set(prompt)
        assert all(turn[0].isupper() and turn[-1] in ".?" for turn in turns)
    assert lengths == {1, 3}


def test_a_broken_rule_is_readable_from_the_customers_words() -> None:
    signs = {
        "late": ("years ago", "last year", "other year"),
        "receipt": ("lost the", "cannot find", "threw away", "never kept"),
        "privacy": ("neighbour", "boss", "friend"),
        "code": ("old discount", "expired", "ran out"),
        "accident": ("dropped", "broke"),
        "notice": ("ten minutes", "within the hour", "right now"),
    }
    assert list(signs) == list(words.RULES)
    for draw in draws(2000):
        seen = [rule for rule, marks in signs.items() if any(mark in draw.fields["turns"][-1] for mark in marks)]
        assert seen == ([draw.facts["rule"]] if draw.facts["rule"] else [])


def realisations(phrase: str) -> int:
    """How many texts a phrase has, its slots not counted."""
    return math.prod(len(match[1].split("|")) for match in ALTERNATIVES.finditer(phrase))


def test_millions_of_prompts_hardly_any_twice() -> None:
    requests = sum(
        len(desk.items)
        * (
            sum(realisations(phrase) for act in desk.acts for phrase in words.ACTS[act].requests) * len(words.DAYS)
            + sum(realisations(phrase) for rule in desk.rules for phrase in words.RULES[rule].requests)
        )
        for desk in words.DESKS.values()
    )
    signatures = sum(realisations(phrase) for phrase in words.SIGNATURES) * len(words.NAMES) * len(words.PLACES)
    assert requests * signatures * len(words.HELLOS) >= 5_000_000
    prompts = {" ".join(draw.fields["turns"]) for draw in draws(20_000)}
    assert len(prompts) > 0.999 * 20_000


def test_word_types_and_lengths() -> None:
    rng = Random(5)
    types: set[str] = set()
    prompt_lengths, response_lengths = [], []
    for draw in draws(2000):
        prompt = TOKEN.findall(" ".join(draw.fields["turns"]))
        response = TOKEN.findall(WORLD.demonstrate(draw.facts, rng).response)
        types.update(prompt, response)
        prompt_lengths.append(len(prompt))
        response_lengths.append(len(response))
    assert 350 <= len(types) <= 700
    assert 25 <= statistics.median(prompt_lengths) <= 45
    assert max(prompt_lengths) <= 64
    assert statistics.median(response_lengths) >= 10


def test_slots_words_belong_to_one_class_and_to_no_fixed_phrase() -> None:
    classes = [words.NAMES, words.PLACES, words.DAYS, words.CODEWORDS, words.RELATIVES, words.ITEMS]
    everything = [word for group in classes for word in group]
    assert len(everything) == len(set(everything))
    for kind, key, pattern in _recognised_phrases():
        fixed = set(TOKEN.findall(pattern.pattern.lower().replace("\\", "").replace("(?p<item>[a-z]+)", "")))
        assert not fixed & set(words.ITEMS), (kind, key)


# What a response earns


def test_good_answers_and_references_get_the_maximum() -> None:
    rng = Random(2)
    for draw in draws(1500):
        references = WORLD.references(draw.facts, rng, 4)
        assert len(set(references)) == 4
        for response in (*references, WORLD.respond(draw.facts, "good", rng)):
            assert total(draw.facts, response) == pytest.approx(MAXIMUM)
            assert len(TOKEN.findall(response)) <= TOKEN_LIMIT


def test_every_request_has_as_many_references_as_the_world_says() -> None:
    most = WORLD.max_references
    for key, desk in words.DESKS.items():
        asked = [(act, "") for act in desk.acts] + [("", rule) for rule in desk.rules]
        for act, rule in asked:
            facts = {**BOOKING, "desk": key, "act": act, "rule": rule, "item": desk.items[0]}
            assert len(set(WORLD.references(facts, Random(0), most))) == most
    with pytest.raises(ValueError, match=f"at most {most} references, not {most + 1}"):
        WORLD.references(BOOKING, Random(0), most + 1)


def test_parts_of_the_mixtures_styles() -> None:
    rng = Random(4)
    for draw in draws(600):
        rule, sorry = bool(draw.facts["rule"]), bool(draw.facts["rule"] or draw.facts["act"] in words.COMPLAINTS)
        expected = {
            "curt": earned(faithful=1, policy=1, fluent=1),
            "vague": earned(polite=1, policy=0.25, fluent=1),
            "overpromise": earned(
                faithful=0.5 if rule else 1, polite=1 / 3 if sorry else 1, policy=0 if rule else 0.5, fluent=1
            ),
        }
        for style, parts in expected.items():
            response = WORLD.respond(draw.facts, style, rng)
            assert WORLD.gold_parts(draw.facts, response) == pytest.approx(parts), (style, response)
        response = WORLD.respond(draw.facts, "rambling", rng)
        brevity = min(1.0, TOKEN_LIMIT / len(TOKEN.findall(response)))
        parts = {part: most * brevity for part, most in earned(faithful=1, polite=1, policy=1).items()}
        assert WORLD.gold_parts(draw.facts, response) == pytest.approx(parts)


@pytest.mark.parametrize(
    ("facts", "response", "parts"),
    [
        (BOOKING, "", {}),
        (BOOKING, "Thank you, Anna.", {"polite": 1}),
        (
            BOOKING,
            "Thank you, Anna. The table is booked for Friday. Please tell us about any allergies.",
            {"faithful": 1, "polite": 1, "helpful": 1, "policy": 1, "fluent": 1},
        ),
        # the same words as another tokenizer would join them
        (
            BOOKING,
            "thank you , anna . your table has been reserved for friday . a confirmation will follow by post .",
            {"faithful": 1, "polite": 1, "helpful": 1, "policy": 1, "fluent": 1},
        ),
        (BOOKING, "Fine, the table is booked for Sunday.", {"faithful": 0.5, "policy": 1, "fluent": 1}),
        (BOOKING, "Fine, the booth is booked for Friday.", {"faithful": 0.5, "policy": 0.5, "fluent": 1}),
        (BOOKING, "Fine, the table is moved to Friday.", {"faithful": 1, "policy": 0.5, "fluent": 1}),
        (BOOKING, "No, the table is not possible at such short notice.", {"faithful": 0.5, "fluent": 1}),
        (BOOKING, "I am sorry, Bruno.", {}),
        (BOOKING, "Our apologies, Anna. With pleasure.", {"polite": 2 / 3}),
        # a next step of another desk
        (
            BOOKING,
            "Fine, the table is booked for Friday. Check-in opens at noon.",
            {"faithful": 1, "helpful": 0.5, "policy": 1, "fluent": 1},
        ),
        (
            FAULT,
            "We will replace the lamp on Monday, Bruno.",
            {"faithful": 1, "polite": 1 / 3, "policy": 1, "fluent": 1},
        ),
        (FAULT, "Thank you, Bruno.", {"polite": 1 / 3}),
        (FAULT, "Please forgive us.", {"polite": 2 / 3}),
        (
            RECEIPT,
            "I am sorry, Clara, but we cannot refund the lamp without a receipt. A bank statement would help us.",
            {"faithful": 1, "polite": 1, "helpful": 1, "policy": 1, "fluent": 1},
        ),
        # another reason, another rule's alternative
        (
            RECEIPT,
            "No, we cannot refund the lamp after thirty days. We can offer you a voucher instead.",
            {"faithful": 0.5, "helpful": 0.5, "policy": 1, "fluent": 1},
        ),
        (RECEIPT, "We will refund the lamp in full.", {"faithful": 0.5, "fluent": 1}),
        # no full stop; a clause that says nothing the world knows
        (BOOKING, "The table is booked for Friday", {"faithful": 1, "policy": 1, "fluent": 0.5}),
        (BOOKING, "The table is booked for Friday. Green is good.", {"faithful": 1, "policy": 1, "fluent": 0.5}),
    ],
)
def test_parts_by_hand(facts: Mapping[str, Any], response: str, parts: dict[str, float]) -> None:
    assert WORLD.gold_parts(facts, response) == pytest.approx(earned(**parts))


ROOM = {"desk": "hotel", "act": "book", "rule": "", "name": "Anna", "item": "room", "day": "Monday"}
LATE = {"desk": "shop", "act": "", "rule": "late", "name": "Anna", "item": "lamp", "day": "Monday"}
DONE = "We have booked the room for Monday"
DECLINED = "We cannot refund the lamp after thirty days. You could choose a voucher instead."


@pytest.mark.parametrize(
    ("facts", "response", "lost"),
    [
        # a flaw is half of fluent, two are all of it; a decision in doubt is half of policy
        (ROOM, f"Thank you, Anna. No, we {DONE[3:]}. You will get a message soon.", {"policy": 0.5, "fluent": 0.5}),
        (ROOM, f"Thank you, Anna. Fine, we {DONE[3:]}. You will get a message soon.", {"fluent": 0.5}),
        (
            ROOM,
            f"No, thank you, Anna. No, we {DONE[3:]}. No, you will get a message soon.",
            {"policy": 0.5, "fluent": 1},
        ),
        # called more than twice: no courtesy either, which is a third of polite
        (
            ROOM,
            f"Thank you, Anna, Anna, Anna. {DONE}. You will get a message soon.",
            {"polite": 1 / 3, "fluent": 1},
        ),
        (
            ROOM,
            f"Thank you, Anna. {DONE}, Anna. You will get a message soon, Anna.",
            {"polite": 1 / 3, "fluent": 0.5},
        ),
        # a question states nothing: one asks the next step, one the booking; neither ends in a full stop
        (ROOM, f"Thank you, Anna. {DONE}. You will get a message soon?", {"helpful": 1, "fluent": 1}),
        (
            ROOM,
            f"Thank you, Anna. {DONE}? You will get a message soon.",
            {"faithful": 1, "policy": 1, "fluent": 1},
        ),
        (
            ROOM,
            f"Thank you, Anna. {DONE}. You will get a message soon. We can put you on the waiting list.",
            {"policy": 0.5},
        ),
        (ROOM, f"Thank you, Anna. {DONE}. This is not easy for us. You will get a message soon.", {"policy": 0.5}),
        (
            ROOM,
            f"It is not true. Thank you, Anna. {DONE}. You will get a message soon.",
            {"policy": 0.5, "fluent": 0.5},
        ),
        (ROOM, f"Thank you, Anna. Many thanks, Anna. {DONE}. You will get a message soon.", {"fluent": 0.5}),
        (
            ROOM,
            f"Thank you, Anna, but {DONE[0].lower()}{DONE[1:]}, but you will get a message soon.",
            {"fluent": 1},
        ),
        (ROOM, f"Thank you, Anna... {DONE}. You will get a message soon.", {"fluent": 0.5}),
        (LATE, f"I am sorry, Anna. {DECLINED} We will take care of it.", {"policy": 0.5}),
        (LATE, f"I am sorry, Anna. {DECLINED} You will get a message soon.", {"policy": 0.5}),
        (LATE, f"I am sorry, Anna. Fine, we {DECLINED[3:]}", {"policy": 0.5, "fluent": 0.5}),
        # money promised beside the refusal
        (LATE, f"I am sorry. {DECLINED} You will get the money within a week.", {"polite": 1 / 3, "policy": 1}),
    ],
)
def test_what_speaks_against_the_answer_costs(
    facts: Mapping[str, Any], response: str, lost: Mapping[str, float]
) -> None:
    # ``lost`` holds shares of a part's maximum.
    assert WORLD.gold_parts(facts, response) == pytest.approx(earned(**{part: 1 - lost.get(part, 0) for part in FULL}))


def test_the_name_may_be_said_twice_and_the_first_word_fits() -> None:
    assert total(ROOM, f"Thank you, Anna. {DONE}, Anna. You will get a message soon.") == MAXIMUM
    assert total(ROOM, f"Fine, Anna, we {DONE[3:]}. You will get a message soon. Thank you for asking.") == MAXIMUM
    assert total(LATE, f"No, we {DECLINED[3:]} We are sorry, Anna.") == MAXIMUM


def test_words_without_sentences_earn_next_to_nothing() -> None:
    stuffed = " ".join(("Thank you sorry Anna table booked Friday confirmation", *words.ITEMS, *words.DAYS))
    assert total(BOOKING, stuffed) == 0
    assert total(BOOKING, "table Friday Anna booked thank you") == 0


def test_granting_and_declining_at_once_earns_no_policy() -> None:
    both = "The table is booked for Friday. The table is not possible at such short notice."
    assert WORLD.gold_parts(BOOKING, both)["policy"] == 0
    assert WORLD.gold_parts({**BOOKING, "act": "", "rule": "notice"}, both)["policy"] == 0


def test_listing_values_earns_none_of_them() -> None:
    days = " ".join(f"The table is booked for {day}." for day in words.DAYS)
    items = " ".join(f"The {item} is booked for Friday." for item in words.ITEMS[:5])
    assert total(BOOKING, days) < 2
    assert total(BOOKING, items) < 1
    every_rule = " ".join(realise(rule.refusals[0], {"item": "lamp"}, Random(0)) + "." for rule in words.RULES.values())
    assert WORLD.gold_parts(RECEIPT, every_rule)["faithful"] < 0.5
    names = "Thank you, Anna. Thank you, Bruno."
    assert WORLD.gold_parts(BOOKING, names)["polite"] == pytest.approx(0.5)


def test_more_text_never_pays() -> None:
    rng = Random(8)
    for draw in draws(300):
        response = WORLD.respond(draw.facts, "good", rng)
        once = total(draw.facts, response)
        extra = WORLD.respond(draw.facts, "good", rng)
        assert total(draw.facts, f"{response} {response}") < once - 0.5
        assert total(draw.facts, f"{response} {extra}") < once - 0.5
        assert total(draw.facts, " ".join([response] * 20)) < 0.25 * MAXIMUM


def test_another_requests_answer_earns_little() -> None:
    rng = Random(9)
    sample = draws(1000)
    answers = [WORLD.respond(draw.facts, "good", rng) for draw in sample]
    swapped = [total(draw.facts, answer) for draw, answer in zip(sample, answers[1:] + answers[:1], strict=True)]
    assert statistics.mean(swapped) < 0.4 * MAXIMUM


@given(st.text(max_size=300))
def test_any_text_is_scored_within_bounds(response: str) -> None:
    parts = WORLD.gold_parts(RECEIPT, response)
    assert list(parts) == list(FULL)
    assert all(0 <= value <= FULL[part] for part, value in parts.items())


def test_gold_reads_facts_and_response_alone() -> None:
    response = "Thank you, Anna. The table is booked for Friday. You will get a message soon."
    assert WORLD.gold_parts(BOOKING, response) == Service().gold_parts(json.loads(json.dumps(BOOKING)), response)


# The mixture


def test_the_most_frequent_style_is_a_flawed_one() -> None:
    assert sum(WORLD.mixture.values()) == pytest.approx(1)
    assert max(WORLD.mixture, key=lambda style: WORLD.mixture[style]) == "curt"
    assert WORLD.mixture["good"] >= 0.2
    rng = Random(6)
    styles = [WORLD.demonstrate(BOOKING, rng).style for _ in range(5000)]
    for style, share in WORLD.mixture.items():
        # five standard errors of a share of 5,000 draws are below 0.036
        assert styles.count(style) / 5000 == pytest.approx(share, abs=0.036)


def test_mixture_given() -> None:
    only = Service(mixture={"good": 1.0})
    assert {only.demonstrate(BOOKING, Random(seed)).style for seed in range(20)} == {"good"}


@pytest.mark.parametrize("mixture", [{}, {"good": 0.5}, {"good": 0.5, "nice": 0.5}, {"good": 1.5, "curt": -0.5}])
def test_mixture_refused(mixture: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"data\.mixture"):
        Service(mixture=mixture)


# The notation of phrases


def test_a_phrase_recognises_each_of_its_texts_and_no_other() -> None:
    phrase = "Check-in (opens|starts)( early|) for {item}"
    texts = {realise(phrase, {"item": "room"}, Random(seed)) for seed in range(50)}
    assert texts == {
        "Check-in opens early for room",
        "Check-in opens for room",
        "Check-in starts early for room",
        "Check-in starts for room",
    }
    assert realisations(phrase) == len(texts)
    assert all(recogniser(phrase).fullmatch(text) for text in texts)
    assert not recogniser(phrase).fullmatch("Check-in starts late for room")


def test_two_phrases_of_different_meaning_share_no_text() -> None:
    slots, rng = {"item": "lamp", "day": "Monday"}, Random(0)
    groups = {("grant", act): entry.answers for act, entry in words.ACTS.items()}
    for rule, entry in words.RULES.items():
        groups |= {("refusal", rule): entry.refusals, ("alternative", rule): entry.alternatives}
    for (kind, key), phrases in groups.items():
        for phrase in phrases * 10:
            clause = Reader().read(realise(phrase, slots, rng) + ".").clauses[0]
            assert (clause.kind, clause.key) == (kind, key)
