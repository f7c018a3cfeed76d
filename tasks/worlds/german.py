"""German agreement and word order for the translation world: from latent facts to a sentence, well or badly formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

from harness.tasks.worlds.lexicon import (
    ADJECTIVE_STEMS,
    AUXILIARIES,
    CONJUNCTIONS,
    CONTRACTIONS,
    MODALS,
    PERSON_ADJECTIVES,
    PERSONS,
    PLACES,
    THING_ADJECTIVES,
    THINGS,
    TIMES,
    VERBS,
    Conjugation,
    Noun,
    Number,
    Place,
)

Case = Literal["nominative", "accusative", "dative"]
Position = Literal["main", "inverted", "subordinate"]
Label = Literal["subject", "finite", "nonfinite", "object", "place", "time"]
Class = Literal["m", "f", "n", "pl"]
"""What articles and endings agree with: the gender in the singular, one class for every plural."""

_T = TypeVar("_T")

ARTICLES: dict[tuple[bool, Case], dict[Class, str]] = {
    (True, "nominative"): {"m": "der", "f": "die", "n": "das", "pl": "die"},
    (True, "accusative"): {"m": "den", "f": "die", "n": "das", "pl": "die"},
    (True, "dative"): {"m": "dem", "f": "der", "n": "dem", "pl": "den"},
    (False, "nominative"): {"m": "ein", "f": "eine", "n": "ein"},
    (False, "accusative"): {"m": "einen", "f": "eine", "n": "ein"},
}
ENDINGS: dict[tuple[bool, Case], dict[Class, str]] = {
    (True, "nominative"): {"m": "e", "f": "e", "n": "e", "pl": "en"},
    (True, "accusative"): {"m": "en", "f": "e", "n": "e", "pl": "en"},
    (False, "nominative"): {"m": "er", "f": "e", "n": "es"},
    (False, "accusative"): {"m": "en", "f": "e", "n": "es"},
}


class Style(NamedTuple):
    """How a translation is made: in German or English word order, inflected or not, complete or shortened."""

    german_order: bool = True
    inflected: bool = True
    complete: bool = True


GOOD = Style()


def agreement_class(noun: Noun, number: Number) -> Class:
    """What an article or adjective of this noun agrees with."""
    return "pl" if number == "pl" else noun.gender


def inflect(adjective: str, ending: str) -> str:
    """An adjective with an ending: ``teuer`` and ``es`` give ``teures``; an empty ending gives the dictionary form."""
    return (ADJECTIVE_STEMS.get(adjective, adjective) if ending else adjective) + ending


def noun_phrase(
    noun: Noun, adjective: str | None, *, definite: bool, number: Number, case: Case, inflected: bool = True
) -> str:
    """Article, adjective and noun.

    Args:
        noun: with its gender and plural; one without a plural stays as it is.
        adjective: in its dictionary form; None for none.
        definite: der, die, das; else ein, eine, ein, which there are of the singular alone, and of no dative here.
        number: ``sg`` or ``pl``.
        case: which the place in the sentence asks for.
        inflected: False for a learner's phrase: nominative article and dictionary form of the adjective.

    >>> noun_phrase(Noun("Tisch", "m"), "rot", definite=False, number="sg", case="accusative")
    'einen roten Tisch'
    """
    kind = agreement_class(noun, number)
    case = case if inflected else "nominative"
    words = [ARTICLES[definite, case][kind]]
    if adjective is not None:
        words.append(inflect(adjective, ENDINGS[definite, case][kind] if inflected else ""))
    words.append(noun.plural if number == "pl" and noun.plural else noun.word)
    return " ".join(words)


def place_phrases(place: Place, noun: Noun) -> list[str]:
    """Every accepted form of a place with dative, the usual one first: ``im Garten``, ``in dem Garten``."""
    article = ARTICLES[True, "dative"][noun.gender]
    short = [CONTRACTIONS[p, article] for p in place.prepositions if (p, article) in CONTRACTIONS]
    long = [f"{preposition} {article}" for preposition in place.prepositions]
    first = CONTRACTIONS.get((place.prepositions[0], article), long[0])
    return [f"{start} {noun.word}" for start in dict.fromkeys([first, *short, *long])]


def place_phrase(place: Place, noun: Noun, *, inflected: bool = True) -> str:
    """A place in its usual form, or with a nominative article (``in der Garten``)."""
    if inflected:
        return place_phrases(place, noun)[0]
    return f"{place.prepositions[0]} {ARTICLES[True, 'nominative'][noun.gender]} {noun.word}"


@cache
def _middles(labels: frozenset[Label], definite: bool) -> tuple[tuple[Label, ...], ...]:
    """Orders of time, place and object between the verbs: time before place; only a definite object before the time."""
    usual: tuple[Label, ...] = ("time", "place", "object")
    present = [label for label in usual if label in labels]
    orders = []
    for order in permutations(present):
        at = {label: index for index, label in enumerate(order)}
        if "time" in at and at.get("place", len(order)) < at["time"]:
            continue
        if "time" in at and not definite and at.get("object", len(order)) < at["time"]:
            continue
        orders.append(order)
    return tuple(orders)


@cache
def valid_orders(labels: frozenset[Label], definite: bool, position: Position) -> tuple[tuple[Label, ...], ...]:
    """Every accepted order of a clause's constituents, the usual one first.

    A main clause has its finite verb second, after the subject, the time or the place; an inverted one (after a
    subordinate clause) has it first; a subordinate one has it last. Participle and infinitive end the field before it.
    Marked orders (object first, adverbial before the subject of a subordinate clause) are not accepted.
    """
    tail: tuple[Label, ...] = ("nonfinite",) if "nonfinite" in labels else ()
    if position == "subordinate":
        return tuple(("subject", *middle, *tail, "finite") for middle in _middles(labels, definite))
    if position == "inverted":
        return tuple(("finite", "subject", *middle, *tail) for middle in _middles(labels, definite))
    orders: list[tuple[Label, ...]] = [("subject", "finite", *middle, *tail) for middle in _middles(labels, definite)]
    fronts: tuple[Label, ...] = ("time", "place")
    for front in fronts:
        if front in labels:
            rest = _middles(labels - {front}, definite)
            orders.extend((front, "finite", "subject", *middle, *tail) for middle in rest)
    return tuple(orders)


def _choose(options: Sequence[_T], rng: Random, usual: float = 0.65) -> _T:
    """The first option with probability ``usual``, else one of the others."""
    if len(options) == 1 or rng.random() < usual:
        return options[0]
    return options[1 + rng.randrange(len(options) - 1)]


def _verb_words(clause: Mapping[str, Any], style: Style, rng: Random) -> dict[Label, str]:
    plural = clause["number"] == "pl"
    verb: Conjugation = _choose(VERBS[clause["verb"]].german, rng)
    if clause["tense"] == "modal":
        return {"finite": _choose(MODALS[clause["modal"]].german, rng, 0.75)[plural], "nonfinite": verb.infinitive}
    if clause["tense"] == "past":
        if style.german_order and rng.random() < 0.35:
            return {"finite": verb.past_plural if plural else verb.past}
        return {"finite": AUXILIARIES[verb.auxiliary][plural], "nonfinite": verb.participle}
    return {"finite": verb.infinitive if plural else verb.present}


def _constituents(clause: Mapping[str, Any], style: Style, rng: Random) -> dict[Label, str]:
    """The German of each constituent of a clause, synonyms drawn at random."""
    parts = _verb_words(clause, style, rng)
    adjective = clause["person_adjective"] if style.complete else None
    person = [noun for noun in PERSONS[clause["subject"]].nouns if clause["number"] == "sg" or noun.plural]
    parts["subject"] = noun_phrase(
        _choose(person, rng),
        _choose(PERSON_ADJECTIVES[adjective], rng) if adjective else None,
        definite=clause["definite"],
        number=clause["number"],
        case="nominative",
        inflected=style.inflected,
    )
    if clause["object"] is not None:
        thing = THINGS[clause["object"]]
        adjective = clause["thing_adjective"] if style.complete else None
        parts["object"] = noun_phrase(
            _choose(thing.nouns, rng),
            _choose(THING_ADJECTIVES[adjective], rng) if adjective else None,
            definite=clause["object_definite"],
            number="pl" if thing.plural else "sg",
            case="accusative",
            inflected=style.inflected,
        )
    if clause["place"] is not None:
        place = PLACES[clause["place"]]
        parts["place"] = place_phrase(place, _choose(place.nouns, rng), inflected=style.inflected)
    if clause["time"] is not None and style.complete:
        parts["time"] = _choose(TIMES[clause["time"]].german, rng)
    return parts


def _arranged(clause: Mapping[str, Any], *, position: Position, style: Style, rng: Random) -> str:
    parts = _constituents(clause, style, rng)
    if not style.german_order:
        english: list[Label] = ["subject", "finite", "nonfinite", "object", "place", "time"]
        if clause["fronted"]:
            english = ["time", *english[:-1]]
        return " ".join(parts[label] for label in english if label in parts)
    orders = valid_orders(frozenset(parts), bool(clause["object_definite"]), position)
    if position == "main":
        front: Label = "subject"
        if "time" in parts and rng.random() < (0.75 if clause["fronted"] else 0.25):
            front = "time"
        elif "place" in parts and rng.random() < 0.08:
            front = "place"
        orders = tuple(order for order in orders if order[0] == front)
    return " ".join(parts[label] for label in _choose(orders, rng, 0.75))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def translate(facts: Mapping[str, Any], style: Style, rng: Random) -> str:
    """One German rendering of the facts in the given style; with ``GOOD`` it is correct and complete."""
    layout, clauses = facts["layout"], facts["clauses"]
    if layout in ("single", "two"):
        return " ".join(_sentence(_arranged(clause, position="main", style=style, rng=rng)) for clause in clauses)
    second_first = bool(facts["second_first"])
    if style.german_order and layout != "that" and rng.random() < 0.25:
        second_first = not second_first
    conjunction = _choose(CONJUNCTIONS[layout], rng)
    after: Position = "inverted" if second_first else "main"
    main = _arranged(clauses[0], position=after, style=style, rng=rng)
    second = _arranged(clauses[1], position="subordinate", style=style, rng=rng)
    if second_first:
        return _sentence(f"{conjunction} {second}, {main}")
    # English sets no comma before its conjunctions, and word-by-word translators copy that.
    comma = "," if style.german_order else ""
    return _sentence(f"{main}{comma} {conjunction} {second}")
