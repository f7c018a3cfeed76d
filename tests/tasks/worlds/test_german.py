"""German morphology and word order against literals from a grammar book, and the lexicon's consistency."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest

from harness.tasks.worlds.german import noun_phrase, place_phrase, place_phrases, valid_orders
from harness.tasks.worlds.german_reading import read
from harness.tasks.worlds.lexicon import (
    ACTIONS,
    ACTIVITIES,
    PERSON_ADJECTIVES,
    PERSONS,
    PLACES,
    THING_ADJECTIVES,
    THINGS,
    VERBS,
    Noun,
)

TABLE, LAMP, BED = Noun("Tisch", "m"), Noun("Lampe", "f"), Noun("Bett", "n")
CHILD = Noun("Kind", "n", "Kinder")


@pytest.mark.parametrize(
    ("noun", "definite", "case", "expected"),
    [
        (TABLE, True, "nominative", "der rote Tisch"),
        (LAMP, True, "nominative", "die rote Lampe"),
        (BED, True, "nominative", "das rote Bett"),
        (TABLE, True, "accusative", "den roten Tisch"),
        (LAMP, True, "accusative", "die rote Lampe"),
        (BED, True, "accusative", "das rote Bett"),
        (TABLE, False, "nominative", "ein roter Tisch"),
        (LAMP, False, "nominative", "eine rote Lampe"),
        (BED, False, "nominative", "ein rotes Bett"),
        (TABLE, False, "accusative", "einen roten Tisch"),
        (LAMP, False, "accusative", "eine rote Lampe"),
        (BED, False, "accusative", "ein rotes Bett"),
    ],
)
def test_articles_and_endings(noun: Noun, definite: bool, case: str, expected: str) -> None:
    assert noun_phrase(noun, "rot", definite=definite, number="sg", case=case) == expected


def test_special_forms() -> None:
    assert noun_phrase(CHILD, "klug", definite=True, number="pl", case="nominative") == "die klugen Kinder"
    assert noun_phrase(BED, "teuer", definite=False, number="sg", case="accusative") == "ein teures Bett"
    flat = noun_phrase(TABLE, "teuer", definite=True, number="sg", case="accusative", inflected=False)
    assert flat == "der teuer Tisch"


def test_places_take_the_dative() -> None:
    assert place_phrase(PLACES["garden"], PLACES["garden"].nouns[0]) == "im Garten"
    assert place_phrase(PLACES["kitchen"], PLACES["kitchen"].nouns[0]) == "in der Küche"
    assert place_phrase(PLACES["garden"], PLACES["garden"].nouns[0], inflected=False) == "in der Garten"
    assert place_phrases(PLACES["beach"], PLACES["beach"].nouns[0]) == ["am Strand", "an dem Strand"]


@pytest.mark.parametrize(
    ("english", "index", "plural"),
    [("buy", 0, "kauften"), ("find", 0, "fanden"), ("carry", 0, "trugen"), ("run", 1, "liefen"), ("read", 0, "lasen")],
)
def test_preterite_plurals(english: str, index: int, plural: str) -> None:
    assert VERBS[english].german[index].past_plural == plural


def test_sein_goes_with_staying_and_running_only() -> None:
    with_sein = {g.infinitive for verb in VERBS.values() for g in verb.german if g.auxiliary == "sein"}
    assert with_sein == {"bleiben", "rennen", "laufen"}


def test_genders() -> None:
    nouns = {n.word: n.gender for t in (PERSONS, THINGS, PLACES) for entry in t.values() for n in entry.nouns}
    masculine = "Mann Wagen Tisch Stuhl Mantel Hut Koffer Garten Park Bahnhof Wald Laden Strand Schlüssel"
    feminine = "Frau Uhr Tasche Kiste Schachtel Küche Stadt Kirche Brücke Tante"
    neuter = "Kind Auto Boot Museum Geschäft Krankenhaus"
    for words, gender in ((masculine, "m"), (feminine, "f"), (neuter, "n")):
        assert {nouns[word] for word in words.split()} == {gender}


def test_no_word_belongs_to_two_entries() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for kind, nominal in (("person", PERSONS), ("thing", THINGS), ("place", PLACES)):
        for key, entry in nominal.items():
            for noun in entry.nouns:
                owners[noun.word].add(f"{kind} {key}")
    for kind, adjectives in (("person", PERSON_ADJECTIVES), ("thing", THING_ADJECTIVES)):
        for key, words in adjectives.items():
            for word in words:
                owners[word].add(f"{kind} {key}")
    for key, verb in VERBS.items():
        for german in verb.german:
            for word in (german.infinitive, german.present, german.past, german.past_plural, german.participle):
                owners[word].add(f"verb {key}")
    assert {word: sorted(keys) for word, keys in owners.items() if len(keys) > 1} == {}
    assert not set(ACTIONS) & set(ACTIVITIES)


def test_orders_of_a_main_clause() -> None:
    labels = frozenset({"subject", "finite", "nonfinite", "object", "place", "time"})
    assert set(valid_orders(labels, False, "main")) == {
        ("subject", "finite", "time", "place", "object", "nonfinite"),
        ("subject", "finite", "time", "object", "place", "nonfinite"),
        ("time", "finite", "subject", "place", "object", "nonfinite"),
        ("time", "finite", "subject", "object", "place", "nonfinite"),
        ("place", "finite", "subject", "time", "object", "nonfinite"),
    }
    definite = set(valid_orders(labels, True, "main")) - set(valid_orders(labels, False, "main"))
    assert definite == {
        ("subject", "finite", "object", "time", "place", "nonfinite"),
        ("place", "finite", "subject", "object", "time", "nonfinite"),
    }


def test_orders_of_the_other_clauses() -> None:
    labels = frozenset({"subject", "finite", "nonfinite", "place"})
    assert valid_orders(labels, False, "subordinate") == (("subject", "place", "nonfinite", "finite"),)
    assert valid_orders(labels, False, "inverted") == (("finite", "subject", "place", "nonfinite"),)


def test_reading_a_sentence() -> None:
    main, second = read("Der kluge Onkel hat heute Morgen einen roten Hut gekauft, weil die Frau schlief.")
    assert [(c.kind, c.lexeme) for c in main.chunks] == [
        ("subject", "uncle"),
        ("auxiliary", "haben"),
        ("time", "this morning"),
        ("object", "hat"),
        ("verb", "buy"),
    ]
    assert main.chunks[0].adjectives == (("clever", "e"),)
    assert main.chunks[3].article == "einen"
    assert (second.before, second.conjunction, second.junk) == (",", "because", 0)


def test_reading_never_fails() -> None:
    rng = Random(3)
    alphabet = ["weil", "der", "in", "Auto", "rot", ",", ".", "§", "\n", "heute", "hat", "x1", "ß", "🙂", "am"]
    for _ in range(300):
        read(" ".join(rng.choices(alphabet, k=rng.randrange(0, 30))))
    assert read("") == []
    assert sum(s.junk for s in read("xyz " * 5000)) == 5000
