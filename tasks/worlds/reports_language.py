"""The language of short local-news reports and of their summaries: words, sentence templates, and how they are filled.

A template is a sentence with ``{class}`` where a word of a class stands; ``{a}`` is "a" or "an". No word belongs to two
classes, so that a text can be read back: every word has one meaning here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

# What a report tells. Each meaning is named by its first word; all words of a row mean the same.
CAUSES = (
    ("storm", "gale"), ("fire", "blaze"), ("explosion", "blast"), ("landslide", "mudslide"), ("flood",),
    ("earthquake", "tremor"), ("tornado", "whirlwind"), ("avalanche",), ("rockfall",), ("crash", "collision"),
    ("hailstorm",), ("thunderstorm",), ("blizzard", "snowstorm"), ("sinkhole",),
)  # fmt: skip
HARMS = (("damaged", "hit"), ("closed", "shut"), ("destroyed", "wrecked"))
SITES = (
    "bridge", "library", "school", "market", "museum", "station", "harbour", "stadium", "theatre", "hospital", "mill",
    "church", "pool", "factory", "hotel", "castle", "airport", "chapel", "gallery", "brewery", "cinema", "courthouse",
    "dairy", "gym", "lighthouse", "monastery", "nursery", "observatory", "pier", "prison", "quarry", "shipyard",
    "tunnel", "warehouse", "zoo", "tower", "clinic", "college", "greenhouse", "arena",
)  # fmt: skip
TOWNS = (
    "Harwick", "Selby", "Denford", "Ashmoor", "Bexton", "Calder", "Dunmere", "Elmsby", "Farley", "Glenrock", "Hatton",
    "Iverleigh", "Kelso", "Langdale", "Marlow", "Norbury", "Oakham", "Penrith", "Quayle", "Redcliff", "Stanton",
    "Thornby", "Upwell", "Vexford", "Wexham", "Yarmby", "Aldwick", "Brampton", "Coldwell", "Dorley", "Eastry",
    "Fenwick", "Graston", "Hexley", "Kirkby", "Lydford", "Millbrook", "Newsham", "Orford", "Pickton", "Rothby",
    "Saltburn", "Tilbury", "Ulverton", "Wickford", "Ambleton", "Birchley", "Corbridge", "Draycott", "Foxley",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TRANSPORT = ("buses", "trains", "ferries", "flights", "trams", "taxis", "deliveries", "parcels")
GATHERINGS = (
    "classes", "concerts", "weddings", "exams", "tours", "rehearsals", "auctions", "lectures", "hearings", "races",
    "dances", "interviews", "parades", "screenings", "trials", "workshops",
)  # fmt: skip
TRANSPORT_OUTCOMES = (("delayed",), ("cancelled", "scrapped"), ("diverted", "rerouted"), ("halted", "stopped"))
GATHERING_OUTCOMES = (
    ("cancelled", "scrapped"),
    ("postponed", "deferred"),
    ("moved", "relocated"),
    ("shortened", "curtailed"),
)

MEANINGS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cause": CAUSES,
    "harm": HARMS,
    "site": tuple((word,) for word in SITES),
    "town": tuple((word,) for word in TOWNS),
    "day": tuple((word,) for word in DAYS),
    "subject": tuple((word,) for word in (*TRANSPORT, *GATHERINGS)),
    "outcome": (*TRANSPORT_OUTCOMES, *GATHERING_OUTCOMES[1:]),
}
"""Slot of the facts -> the meanings it can have, each with the words that express it."""

COLOURING: Mapping[str, tuple[str, ...]] = {
    "surname": (
        "Marsh",
        "Stone",
        "Fowler",
        "Baxter",
        "Pryce",
        "Nolan",
        "Hughes",
        "Adler",
        "Quinn",
        "Webb",
        "Sutton",
        "Lowe",
    ),
    "daytime": ("morning", "afternoon", "evening", "night"),
    "sky": ("sunny", "cloudy", "rainy", "foggy", "windy", "dry"),
    "warmth": ("warm", "cold", "mild", "cool", "hot"),
    "goods": ("flower", "book", "craft", "toy", "horse", "cheese", "wine", "garden"),
    "month": ("March", "April", "June", "July", "August", "September", "October", "December"),
    "sport": ("rugby", "hockey", "rowing", "cricket", "chess", "tennis", "football", "swimming"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "trade": ("baker", "farmer", "painter", "teacher", "nurse", "poet", "carpenter", "gardener"),
    "work": ("honey", "bread", "roses", "poems", "pottery", "cider", "jam", "pumpkins"),
    "ware": ("milk", "petrol", "coal", "butter", "wheat", "salt", "timber", "coffee"),
    "animal": ("dog", "cat", "parrot", "goat", "pony", "tortoise", "rabbit", "swan"),
    "landmark": ("river", "forest", "canal", "hill", "lake", "park", "beach", "meadow"),
    "season": ("spring", "summer", "autumn", "winter"),
    "topic": ("whales", "pirates", "bees", "volcanoes", "wolves", "astronauts", "vikings", "glaciers"),
    "shop": ("bakery", "florist", "barber", "bookshop", "pharmacy", "tearoom", "butcher", "cobbler"),
    "group": ("choir", "orchestra", "band", "club", "society", "troupe"),
    "tree": ("oaks", "maples", "birches", "willows", "cedars", "elms"),
}
"""Words that colour a report without being part of what happened."""

EVENTS = (
    "{a} {cause} {harm} the {site} in {town} on {day}",
    "the {site} in {town} was {harm} by {a} {cause} on {day}",
    "on {day}, {a} {cause} {harm} the {site} in {town}",
    "in {town}, {a} {cause} {harm} the {site} on {day}",
    "on {day}, the {site} in {town} was {harm} by {a} {cause}",
)
UNDATED_EVENTS = (
    "{a} {cause} {harm} the {site} in {town}",
    "the {site} in {town} was {harm} by {a} {cause}",
    "in {town}, {a} {cause} {harm} the {site}",
)
SUMMARIES = (
    *(f"{event}, and {{subject}} were {{outcome}}." for event in EVENTS),
    *(f"{event}, so {{subject}} were {{outcome}}." for event in EVENTS),
    *(f"{event}. All {{subject}} were {{outcome}}." for event in EVENTS),
    *(f"{event}. As a result, {{subject}} were {{outcome}}." for event in EVENTS),
    *(f"all {{subject}} were {{outcome}} after {event}." for event in EVENTS[:2]),
    *(f"after {event}, {{subject}} were {{outcome}}." for event in EVENTS[:2]),
)
"""Every good summary: what happened, where, when and what follows, in one or two sentences."""

LEADS: Mapping[str, tuple[str, ...]] = {
    "day": (
        "{a} {cause} has {harm} the {site} in {town}.",
        "the {site} in {town} has been {harm} by {a} {cause}.",
        "people in {town} are shocked after {a} {cause} {harm} the {site}.",
        "{a} {cause} {harm} the {site} in {town}, police said.",
    ),
    "town": (
        "{a} {cause} {harm} the {site} on {day}, police said.",
        "the {site} was {harm} by {a} {cause} on {day}.",
        "early on {day}, {a} {cause} {harm} the {site}.",
    ),
    "none": (
        "on {day}, {a} {cause} {harm} the {site} in {town}.",
        "{a} {cause} {harm} the {site} in {town} late on {day}.",
        "people in {town} saw how {a} {cause} {harm} the {site} on {day}.",
    ),
}
"""First sentences of reports, by the fact that they leave to a later sentence; none tells what follows."""
LATER: Mapping[str, tuple[str, ...]] = {
    "day": (
        "crews were called on {day} {daytime}.",
        "the {cause} struck on {day} {daytime}.",
        "the alarm was raised on {day}.",
        "witnesses saw it all on {day} {daytime}.",
    ),
    "town": (
        "the {site} stands in the centre of {town}.",
        "crews in {town} worked all {daytime}.",
        "neighbours in {town} looked on in shock.",
    ),
}
CONSEQUENCES = (
    "all {subject} were {outcome} because of the {cause}.",
    "because of the {cause}, {subject} were {outcome}.",
    "Mayor {surname} said that {subject} had been {outcome}.",
    "the council said that {subject} had been {outcome}.",
    "all {subject} have been {outcome} until further notice.",
)
ASIDES = (
    "the weekend will be {sky} and {warmth}.",
    "a {goods} fair opens in {month}.",
    "the {sport} team won its game by {number} points.",
    "a local {trade} won a prize for {work}.",
    "the price of {ware} rose by {number} percent.",
    "a lost {animal} was found near the {landmark}.",
    "a film about {topic} is showing this {season}.",
    "a new {shop} will open in {month}.",
    "the {group} is looking for {number} new members.",
    "children planted {number} {tree} by the {landmark}.",
    "the old {trade} will retire this {season}.",
    "visitors to the {landmark} may bring a {animal}.",
)
"""Sentences about something else, which a summary leaves out."""

ALL_TEMPLATES = (
    *SUMMARIES,
    *(f"{event}." for event in (*EVENTS, *UNDATED_EVENTS)),
    *(template for group in (*LEADS.values(), *LATER.values()) for template in group),
    *CONSEQUENCES,
    *ASIDES,
)
"""Every sentence (or pair of sentences) that can stand in a report or a summary."""

_COLOURS = frozenset(word.lower() for words in COLOURING.values() for word in words)
_WORDINGS = {slot: {words[0]: words for words in meanings} for slot, meanings in MEANINGS.items()}
_SLOT = re.compile(r"(\{a\} )?\{(\w+)\}")
_SENTENCE_START = re.compile(r"(?:^|(?<=\. ))[a-z]")


def article(word: str) -> str:
    """The indefinite article before a word of this language: "an" before a vowel letter."""
    return "an" if word[0].lower() in "aeiou" else "a"


def fill(template: str, facts: Mapping[str, Any], rng: Random) -> str:
    """A template's sentence: facts in any of their wordings, colouring at random, articles and capitals put right."""
    text = []
    for words, with_article, slot in _parts(template):
        text.append(words)
        if slot:
            chosen = rng.choice(wordings(slot, facts[slot]) if slot in MEANINGS else COLOURING[slot])
            text.append(f"{article(chosen)} {chosen}" if with_article else chosen)
    return _SENTENCE_START.sub(lambda match: match[0].upper(), "".join(text))


@functools.cache
def _parts(template: str) -> tuple[tuple[str, str | None, str | None], ...]:
    """Runs of a template's words, each with the slot after it, article and name; none follows the last."""
    split: list[Any] = [*_SLOT.split(template), None, None]
    return tuple(zip(split[::3], split[1::3], split[2::3], strict=True))


def wordings(slot: str, meaning: str) -> Sequence[str]:
    """The words that express a meaning of a slot.

    Raises:
        ValueError: the slot has no such meaning.
    """
    if meaning not in _WORDINGS[slot]:
        raise ValueError(f"{slot} has no meaning {meaning!r}")
    return _WORDINGS[slot][meaning]


def meaning_of_word() -> dict[str, tuple[str, str]]:
    """Lower-cased word -> (slot, meaning), for all words that express a fact."""
    return {
        word.lower(): (slot, words[0]) for slot, meanings in MEANINGS.items() for words in meanings for word in words
    }


def class_of_word() -> dict[str, str]:
    """Lower-cased word -> its class in braces, as templates write it."""
    facts = {word: f"{{{slot}}}" for word, (slot, _) in meaning_of_word().items()}
    return facts | {word.lower(): f"{{{name}}}" for name, words in COLOURING.items() for word in words}


def colouring_words(text: str) -> list[str]:
    """The words of a text that colour it, lower-cased, each once, in order of appearance."""
    return list(dict.fromkeys(word for word in re.findall(r"\w+", text.lower()) if word in _COLOURS))
