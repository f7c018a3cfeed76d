"""The translation world: determinism, width, gold on hand-made sentences, flaws, gaming."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from harness.errors import UserError
from harness.tasks.worlds.english import source
from harness.tasks.worlds.german import translate
from harness.tasks.worlds.grammar import LAYOUTS, STYLES, Grammar
from harness.tasks.worlds.grammar_gold import WRONG_WORD
from harness.tasks.worlds.lexicon import ACTIONS, PERSON_ADJECTIVES, PERSONS, PLACES, THING_ADJECTIVES, THINGS, TIMES

WORLD = Grammar()
MAXIMUM = sum(WORLD.part_maxima.values())


def gold(facts: dict[str, Any], response: str) -> float:
    return sum(WORLD.gold_parts(facts, response).values())


def clause(subject: str, verb: str, tense: str = "present", **slots: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("person_adjective", "modal", "object", "object_definite", "thing_adjective", "place", "time"), None
    )
    fixed = {"subject": subject, "number": "sg", "definite": True, "verb": verb, "tense": tense, "fronted": False}
    return {**empty, **fixed, **slots}


def facts(layout: str, *clauses: dict[str, Any]) -> dict[str, Any]:
    return {"layout": layout, "clauses": list(clauses), "second_first": False}


CAR = {"object": "car", "object_definite": False, "thing_adjective": "red"}
KEY = {"object": "key", "object_definite": True, "thing_adjective": "old"}
SINGLE = facts(
    "single", clause("uncle", "buy", "past", person_adjective="young", place="city", time="on Monday", **CAR)
)
BECAUSE = facts(
    "because", clause("man", "look for", "modal", modal="must", **KEY), clause("child", "sleep", place="garden")
)
THAT = facts("that", clause("king", "say"), clause("woman", "buy", "past", time="yesterday", **CAR))
TWO = facts("two", clause("aunt", "stay", "past", place="park"), clause("king", "sell", time="today", **CAR))


@pytest.mark.parametrize(
    ("known", "english"),
    [
        (SINGLE, "The young uncle bought a red car in the city on Monday."),
        (BECAUSE, "The man must look for the old key because the child is sleeping in the garden."),
        (THAT, "The king says that the woman bought a red car yesterday."),
        (TWO, "The aunt was staying in the park. The king is selling a red car today."),
    ],
)
def test_english(known: dict[str, Any], english: str) -> None:
    assert source(known) == english


@pytest.mark.parametrize(
    ("known", "german"),
    [
        (SINGLE, "Der junge Onkel hat am Montag in der Stadt ein rotes Auto gekauft."),
        (SINGLE, "Der junge Onkel hat am Montag einen roten Wagen in der Stadt gekauft."),
        (SINGLE, "Am Montag kaufte der junge Onkel in der Stadt ein rotes Auto."),
        (SINGLE, "In der Stadt erwarb der junge Onkel am Montag einen roten Wagen."),
        (BECAUSE, "Der Mann muss den alten Schlüssel suchen, weil das Kind im Garten schläft."),
        (BECAUSE, "Da das Kind in dem Garten schläft, muss der Mann den alten Schlüssel suchen."),
        (BECAUSE, "Der Mann muss den alten Schlüssel suchen, denn das Kind schläft im Garten."),
        (THAT, "Der König sagt, dass die Frau gestern ein rotes Auto gekauft hat."),
        (THAT, "Der König erklärt, dass die Frau gestern einen roten Wagen erwarb."),
        (TWO, "Die Tante ist im Park geblieben. Heute verkauft der König ein rotes Auto."),
        (TWO, "Die Tante blieb im Park. Der König verkauft heute einen roten Wagen."),
    ],
)
def test_valid_translations_earn_the_maximum(known: dict[str, Any], german: str) -> None:
    assert WORLD.gold_parts(known, german) == pytest.approx(dict(WORLD.part_maxima))


@pytest.mark.parametrize(
    ("known", "german", "lost"),
    [
        (BECAUSE, "Der Mann muss suchen den alten Schlüssel, weil das Kind im Garten schläft.", {"order": 1 / 2}),
        (BECAUSE, "Der Mann muss den alten Schlüssel suchen, weil das Kind schläft im Garten.", {"order": 1 / 2}),
        (BECAUSE, "Weil das Kind im Garten schläft, der Mann muss den alten Schlüssel suchen.", {"order": 1 / 2}),
        (SINGLE, "Am Montag der junge Onkel hat in der Stadt ein rotes Auto gekauft.", {"order": 1.0}),
        (SINGLE, "Der junge Onkel hat ein rotes Auto in der Stadt am Montag gekauft.", {"order": 0.4}),
        (TWO, "Die Tante hat im Park geblieben. Heute verkauft der König ein rotes Auto.", {"agreement": 1 / 8}),
        (SINGLE, "Der junge Onkel hat am Montag in die Stadt ein rotes Auto gekauft.", {"agreement": 1 / 5}),
        (SINGLE, "Der junge Onkel hat am Montag in der Stadt ein roter Wagen gekauft.", {"agreement": 1 / 5}),
        (SINGLE, "Der junge Onkel haben am Montag in der Stadt ein rotes Auto gekauft.", {"agreement": 1 / 5}),
        (SINGLE, "Der Onkel hat am Montag in der Stadt ein rotes Auto gekauft.", {"adequacy": 1 / 8}),
        (SINGLE, "der junge Onkel hat am Montag in der Stadt ein rotes Auto gekauft", {"fluency": 2 / 3}),
        (THAT, "Der König sagt dass die Frau gestern ein rotes Auto gekauft hat.", {"fluency": 1 / 3}),
    ],
)
def test_one_mistake_costs_one_part(known: dict[str, Any], german: str, lost: dict[str, float]) -> None:
    # ``lost`` holds shares of a part's maximum.
    expected = {name: most * (1 - lost.get(name, 0.0)) for name, most in WORLD.part_maxima.items()}
    assert WORLD.gold_parts(known, german) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("known", "german", "slots_lost", "wrong", "lost"),
    [
        # slots of eight: subject, adjective, verb, tense, object, adjective, place, time
        (SINGLE, "Der junge Onkel hat am Montag in der Stadt ein blaues Auto gekauft.", 1 / 8, 1, {}),
        (SINGLE, "Der junge Onkel hat gestern in der Stadt ein blaues Auto gekauft.", 2 / 8, 2, {}),
        # of five agreements, that of the place cannot be seen
        (SINGLE, "Der junge Onkel hat gestern im Garten ein rotes Auto gekauft.", 2 / 8, 2, {"agreement": 1 / 5}),
        # a word too many takes a slot and a third of fluency; a negation counts for three
        (
            SINGLE,
            "Der junge Onkel hat wohl am Montag in der Stadt ein rotes Auto gekauft.",
            1 / 8,
            1,
            {"fluency": 1 / 3},
        ),
        (
            SINGLE,
            "Der junge Onkel hat am Montag in der Stadt ein rotes Auto nicht gekauft.",
            1 / 8,
            5,
            {"fluency": 1 / 3},
        ),
    ],
)
def test_a_wrong_word_takes_a_share_of_every_other_part(
    known: dict[str, Any], german: str, slots_lost: float, wrong: int, lost: dict[str, float]
) -> None:
    most = WORLD.part_maxima
    expected = {name: most[name] * (1 - lost.get(name, 0.0)) * WRONG_WORD**wrong for name in most}
    expected["adequacy"] = most["adequacy"] * (1 - slots_lost)
    assert WORLD.gold_parts(known, german) == pytest.approx(expected)


SHORTENED, ENGLISH_ORDER = 3.3, 2.05
"""What the best and the most frequent of the honest flawed styles earn on average."""


@pytest.mark.parametrize(
    ("known", "german", "bound"),
    [
        # one wrong word: less than leaving adjectives and time out
        (SINGLE, "Der junge Onkel hat gestern in der Stadt ein rotes Auto gekauft.", SHORTENED),
        (BECAUSE, "Der Mann muss den alten Schlüssel suchen, weil das Kind im Park schläft.", SHORTENED),
        # two: clearly less; three: less than the right words in English order
        (SINGLE, "Der junge Onkel hat gestern im Garten ein rotes Auto gekauft.", SHORTENED - 0.5),
        (SINGLE, "Der alte König hat am Montag in der Stadt ein rotes Auto gekauft.", SHORTENED - 0.5),
        (BECAUSE, "Das Kind muss den alten Schlüssel suchen, weil der Mann im Garten schläft.", SHORTENED - 0.5),
        (SINGLE, "Der junge Onkel hat gestern im Garten ein blaues Auto gekauft.", ENGLISH_ORDER + 0.1),
        # the contrary
        (SINGLE, "Der junge Onkel hat am Montag in der Stadt ein rotes Auto nicht gekauft.", ENGLISH_ORDER),
        (SINGLE, "Der junge Onkel hat am Montag in der Stadt kein rotes Auto gekauft.", ENGLISH_ORDER),
        (BECAUSE, "Der Mann muss den alten Schlüssel nie suchen, weil das Kind im Garten schläft.", ENGLISH_ORDER),
        # the car buys the uncle
        (SINGLE, "Das junge Auto hat am Montag in der Stadt einen roten Onkel gekauft.", ENGLISH_ORDER),
        (SINGLE, "Ein rotes Auto hat am Montag in der Stadt den jungen Onkel gekauft.", SHORTENED - 0.5),
    ],
)
def test_wrong_content_earns_less_than_an_honest_flaw(known: dict[str, Any], german: str, bound: float) -> None:
    assert gold(known, german) < bound


def test_each_wrong_word_costs_and_leaving_it_out_costs_less() -> None:
    wrong = [
        "Der junge Onkel hat am Montag in der Stadt ein rotes Auto gekauft.",
        "Der junge Onkel hat gestern in der Stadt ein rotes Auto gekauft.",
        "Der junge Onkel hat gestern im Garten ein rotes Auto gekauft.",
        "Der junge Onkel hat gestern im Garten ein blaues Auto gekauft.",
        "Der alte Onkel hat gestern im Garten ein blaues Auto gekauft.",
    ]
    earned = [gold(SINGLE, german) for german in wrong]
    assert earned == sorted(set(earned), reverse=True)
    assert earned[-1] > 0
    assert earned[1] < gold(SINGLE, "Der junge Onkel hat in der Stadt ein rotes Auto gekauft.") - 0.5


def test_garbage_and_gaming_earn_less() -> None:
    good = "Der junge Onkel hat am Montag in der Stadt ein rotes Auto gekauft."
    nouns = " ".join(noun.word for table in (PERSONS, THINGS, PLACES) for e in table.values() for noun in e.nouns)
    words = (
        "Der junge Onkel hat am Montag gestern heute morgen in der Stadt im Garten ein rotes blaues altes Auto gekauft."
    )
    assert gold(SINGLE, "") == 0
    assert gold(SINGLE, "🙂" * 50) == 0
    assert gold(SINGLE, nouns) == 0
    assert gold(SINGLE, f"{good} {good}") < 0.5
    assert gold(SINGLE, " ".join([good] * 20)) == 0
    assert gold(SINGLE, source(SINGLE)) == 0
    assert gold(SINGLE, f"{good} Der alte König verkauft heute im Garten den blauen Tisch.") < 1
    assert gold(SINGLE, words) < 2.5
    assert gold(SINGLE, good + " und so weiter" * 40) < 0.5
    assert gold(SINGLE, "Der junge alte kluge Onkel hat ein rotes Auto in der Stadt am Montag gekauft gekauft.") < 2.6


def test_other_prompts_answers_earn_little() -> None:
    rng = Random(11)
    draws = [WORLD.draw(rng) for _ in range(200)]
    answers = [WORLD.references(d.facts, rng, 1)[0] for d in draws]
    scores = [gold(d.facts, a) for d, a in zip(draws, answers[1:] + answers[:1], strict=True)]
    assert statistics.mean(scores) < 0.15 * MAXIMUM


def test_styles_and_references() -> None:
    rng = Random(12)
    means: dict[str, list[float]] = {style: [] for style in STYLES}
    for _ in range(600):
        drawn = WORLD.draw(rng)
        for style in STYLES:
            means[style].append(gold(drawn.facts, translate(drawn.facts, STYLES[style], rng)))
        references = WORLD.references(drawn.facts, rng, 4)
        assert len(set(references)) == 4
        assert all(gold(drawn.facts, text) == pytest.approx(MAXIMUM) for text in references)
    assert min(means["good"]) == pytest.approx(MAXIMUM)
    assert 0.4 * MAXIMUM < statistics.mean(means["english_order"]) < 0.6 * MAXIMUM
    assert 0.35 * MAXIMUM < statistics.mean(means["dictionary_forms"]) < 0.5 * MAXIMUM
    assert 0.7 * MAXIMUM < statistics.mean(means["shortened"]) < 0.9 * MAXIMUM


def test_every_sentence_has_as_many_references_as_the_world_says() -> None:
    # Nothing here has a synonym: only conjunction and order of the clauses vary, or in two sentences what stands first.
    shoes = {"object": "shoes", "object_definite": True, "thing_adjective": "old"}
    fewest = (
        facts("because", clause("aunt", "repair", **shoes), clause("child", "sleep", place="garden", time="on Monday")),
        facts("two", clause("child", "sleep", place="garden"), clause("aunt", "repair", time="on Monday", **shoes)),
    )
    assert WORLD.max_references == 4
    for known in fewest:
        found = WORLD.references(known, Random(0), 4)
        assert len(set(found)) == 4
        assert all(gold(known, text) == pytest.approx(MAXIMUM) for text in found)
    with pytest.raises(ValueError, match="at most 4 references, not 5"):
        WORLD.references(SINGLE, Random(0), 5)


def test_facts_survive_json() -> None:
    rng = Random(13)
    for _ in range(100):
        drawn = WORLD.draw(rng)
        loaded = json.loads(json.dumps(drawn.facts))
        assert loaded == drawn.facts
        assert WORLD.references(loaded, Random(1), 4) == WORLD.references(drawn.facts, Random(1), 4)


SCRIPT = """
from random import Random
from harness.tasks.worlds.grammar import Grammar
world, rng = Grammar(), Random(5)
for _ in range(40):
    drawn = world.draw(rng)
    told = world.demonstrate(drawn.facts, rng)
    print(drawn, told, world.references(drawn.facts, rng, 3), world.gold_parts(drawn.facts, told.response))
"""


def test_the_hash_seed_changes_nothing() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != b""


def test_width() -> None:
    one_clause = len(PERSONS) * len(PERSON_ADJECTIVES) * len(THINGS) * len(THING_ADJECTIVES)
    assert one_clause * len(ACTIONS) * len(PLACES) * len(TIMES) >= 5_000_000
    rng = Random(14)
    prompts = {WORLD.draw(rng).fields["source"] for _ in range(20_000)}
    assert len(prompts) > 0.999 * 20_000


def test_sizes_of_texts() -> None:
    rng = Random(15)
    prompts, responses = [], []
    for _ in range(2_000):
        drawn = WORLD.draw(rng)
        prompts.append(re.findall(r"\w+|[^\w\s]", drawn.fields["source"]))
        responses.append(re.findall(r"\w+|[^\w\s]", WORLD.demonstrate(drawn.facts, rng).response))
    types = {word for text in prompts + responses for word in text}
    assert 350 <= len(types) <= 700
    assert statistics.median(map(len, responses)) >= 10
    assert max(map(len, responses)) <= 24
    assert 8 <= min(map(len, prompts)) <= max(map(len, prompts)) <= 25


def test_the_mixture() -> None:
    assert sum(WORLD.mixture.values()) == pytest.approx(1)
    assert sum(LAYOUTS.values()) == pytest.approx(1)
    assert max(WORLD.mixture, key=lambda style: WORLD.mixture[style]) != "good"
    rng = Random(16)
    drawn = WORLD.draw(rng)
    styles = [WORLD.demonstrate(drawn.facts, rng).style for _ in range(4_000)]
    for style, share in WORLD.mixture.items():
        assert styles.count(style) / 4_000 == pytest.approx(share, abs=0.03)
    only_good = Grammar(mixture={"good": 1.0})
    assert only_good.demonstrate(drawn.facts, rng).style == "good"
    with pytest.raises(UserError):
        Grammar(mixture={"good": 0.5})
