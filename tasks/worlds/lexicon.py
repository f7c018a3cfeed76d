"""The bilingual lexicon of the translation world: English words and phrases with their German counterparts.

Every table maps an English key, which also stands in the facts, to its entry. The first German word of an entry is the
usual one, the others are valid synonyms. No German surface form belongs to two entries of one table.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Gender = Literal["m", "f", "n"]
Number = Literal["sg", "pl"]


class Noun(NamedTuple):
    """A German noun: nominative (and, in this lexicon, accusative) singular, its gender, and the plural where used."""

    word: str
    gender: Gender
    plural: str | None = None


class Person(NamedTuple):
    """Someone who acts. ``plural``: the English plural, where the world uses one; ``kin``: takes only ``the``."""

    nouns: tuple[Noun, ...]
    plural: str | None = None
    kin: bool = False


class Thing(NamedTuple):
    """Something acted upon. ``plural``: English and German treat it as a plural (shoes), always with ``the``."""

    nouns: tuple[Noun, ...]
    plural: bool = False


class Conjugation(NamedTuple):
    """The principal parts of a German verb; the present plural is the infinitive."""

    infinitive: str
    present: str
    past: str
    participle: str
    auxiliary: Literal["haben", "sein"] = "haben"

    @property
    def past_plural(self) -> str:
        return self.past + ("n" if self.past.endswith("e") else "en")


class Verb(NamedTuple):
    """An English verb and its German translations. ``ing`` is None for verbs without a progressive."""

    third: str
    past: str
    ing: str | None
    german: tuple[Conjugation, ...]
    modal: bool = True
    """False where a modal would make no sense (``must need``)."""


class Modal(NamedTuple):
    """A modal verb: English singular and plural, and the German (singular, plural) pairs."""

    english: tuple[str, str]
    german: tuple[tuple[str, str], ...]


class Place(NamedTuple):
    """A place: the English phrase, the German nouns, and the prepositions (with dative) that suit, the usual first."""

    english: str
    nouns: tuple[Noun, ...]
    prepositions: tuple[str, ...] = ("in",)


class Time(NamedTuple):
    """A time: the German phrases, and the tenses that it goes with."""

    german: tuple[str, ...]
    tenses: tuple[str, ...] = ("present", "past", "modal")


def _person(
    word: str, gender: Gender, *, plurals: tuple[str, str] | None = None, also: str = "", kin: bool = False
) -> Person:
    nouns = [Noun(word, gender, plurals[1] if plurals else None)]
    if also:
        nouns.append(Noun(also, gender))
    return Person(tuple(nouns), plurals[0] if plurals else None, kin)


PERSONS: dict[str, Person] = {
    "man": _person("Mann", "m", plurals=("men", "Männer")),
    "woman": _person("Frau", "f", plurals=("women", "Frauen")),
    "child": _person("Kind", "n", plurals=("children", "Kinder")),
    "father": _person("Vater", "m", kin=True),
    "mother": _person("Mutter", "f", kin=True),
    "grandfather": _person("Großvater", "m", also="Opa", kin=True),
    "grandmother": _person("Großmutter", "f", also="Oma", kin=True),
    "uncle": _person("Onkel", "m", kin=True),
    "aunt": _person("Tante", "f", plurals=("aunts", "Tanten"), kin=True),
    "brother": _person("Bruder", "m", plurals=("brothers", "Brüder"), kin=True),
    "king": _person("König", "m"),
    "queen": _person("Königin", "f"),
}


def _thing(*nouns: tuple[str, Gender]) -> Thing:
    return Thing(tuple(Noun(word, gender) for word, gender in nouns))


def _things(word: str) -> Thing:
    return Thing((Noun(word, "m", word),), plural=True)  # the gender is not seen in the plural


THINGS: dict[str, Thing] = {
    "car": _thing(("Auto", "n"), ("Wagen", "m")),
    "table": _thing(("Tisch", "m")),
    "chair": _thing(("Stuhl", "m")),
    "clock": _thing(("Uhr", "f")),
    "coat": _thing(("Mantel", "m")),
    "hat": _thing(("Hut", "m")),
    "suitcase": _thing(("Koffer", "m")),
    "bag": _thing(("Tasche", "f")),
    "boat": _thing(("Boot", "n")),
    "box": _thing(("Kiste", "f"), ("Schachtel", "f")),
    "key": _thing(("Schlüssel", "m")),
    "shoes": _things("Schuhe"),
}

PERSON_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "young": ("jung",),
    "polite": ("höflich",),
    "clever": ("klug", "schlau"),
    "poor": ("arm",),
    "sad": ("traurig",),
    "famous": ("berühmt",),
    "hungry": ("hungrig",),
    "sick": ("krank",),
}

THING_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "red": ("rot",),
    "blue": ("blau",),
    "new": ("neu",),
    "old": ("alt",),
    "big": ("groß",),
    "small": ("klein",),
    "heavy": ("schwer",),
    "expensive": ("teuer",),
    "cheap": ("billig", "günstig"),
    "dirty": ("schmutzig",),
}

ADJECTIVE_STEMS: dict[str, str] = {"teuer": "teur"}
"""Adjectives whose stem changes before an ending."""

_C = Conjugation
ACTIONS: dict[str, Verb] = {
    "buy": Verb(
        "buys",
        "bought",
        "buying",
        (_C("kaufen", "kauft", "kaufte", "gekauft"), _C("erwerben", "erwirbt", "erwarb", "erworben")),
    ),
    "sell": Verb("sells", "sold", "selling", (_C("verkaufen", "verkauft", "verkaufte", "verkauft"),)),
    "look for": Verb("looks for", "looked for", "looking for", (_C("suchen", "sucht", "suchte", "gesucht"),)),
    "find": Verb(
        "finds",
        "found",
        None,
        (_C("finden", "findet", "fand", "gefunden"), _C("entdecken", "entdeckt", "entdeckte", "entdeckt")),
    ),
    "need": Verb(
        "needs",
        "needed",
        None,
        (_C("brauchen", "braucht", "brauchte", "gebraucht"), _C("benötigen", "benötigt", "benötigte", "benötigt")),
        modal=False,
    ),
    "repair": Verb("repairs", "repaired", "repairing", (_C("reparieren", "repariert", "reparierte", "repariert"),)),
    "clean": Verb(
        "cleans",
        "cleaned",
        "cleaning",
        (_C("putzen", "putzt", "putzte", "geputzt"), _C("reinigen", "reinigt", "reinigte", "gereinigt")),
    ),
    "carry": Verb("carries", "carried", "carrying", (_C("tragen", "trägt", "trug", "getragen"),)),
}

ACTIVITIES: dict[str, Verb] = {
    "sleep": Verb("sleeps", "slept", "sleeping", (_C("schlafen", "schläft", "schlief", "geschlafen"),)),
    "work": Verb("works", "worked", "working", (_C("arbeiten", "arbeitet", "arbeitete", "gearbeitet"),)),
    "wait": Verb("waits", "waited", "waiting", (_C("warten", "wartet", "wartete", "gewartet"),)),
    "sing": Verb("sings", "sang", "singing", (_C("singen", "singt", "sang", "gesungen"),)),
    "stay": Verb("stays", "stayed", "staying", (_C("bleiben", "bleibt", "blieb", "geblieben", "sein"),)),
    "run": Verb(
        "runs",
        "ran",
        "running",
        (_C("rennen", "rennt", "rannte", "gerannt", "sein"), _C("laufen", "läuft", "lief", "gelaufen", "sein")),
    ),
    "read": Verb("reads", "read", "reading", (_C("lesen", "liest", "las", "gelesen"),)),
    "cook": Verb("cooks", "cooked", "cooking", (_C("kochen", "kocht", "kochte", "gekocht"),)),
}

SAYINGS: dict[str, Verb] = {
    "say": Verb(
        "says", "said", None, (_C("sagen", "sagt", "sagte", "gesagt"), _C("erklären", "erklärt", "erklärte", "erklärt"))
    ),
    "think": Verb(
        "thinks",
        "thought",
        None,
        (
            _C("glauben", "glaubt", "glaubte", "geglaubt"),
            _C("denken", "denkt", "dachte", "gedacht"),
            _C("meinen", "meint", "meinte", "gemeint"),
        ),
    ),
    "report": Verb(
        "reports",
        "reported",
        None,
        (_C("berichten", "berichtet", "berichtete", "berichtet"), _C("melden", "meldet", "meldete", "gemeldet")),
    ),
}

VERBS: dict[str, Verb] = {**ACTIONS, **ACTIVITIES, **SAYINGS}

MODALS: dict[str, Modal] = {
    "must": Modal(("must", "must"), (("muss", "müssen"),)),
    "can": Modal(("can", "can"), (("kann", "können"),)),
    "want": Modal(("wants to", "want to"), (("will", "wollen"), ("möchte", "möchten"))),
    "may": Modal(("may", "may"), (("darf", "dürfen"),)),
    "should": Modal(("should", "should"), (("soll", "sollen"), ("sollte", "sollten"))),
}

AUXILIARIES: dict[str, tuple[str, str]] = {"haben": ("hat", "haben"), "sein": ("ist", "sind")}


def _place(english: str, word: str, gender: Gender, *prepositions: str, also: Noun | None = None) -> Place:
    nouns = (Noun(word, gender),) if also is None else (Noun(word, gender), also)
    return Place(english, nouns, prepositions or ("in",))


PLACES: dict[str, Place] = {
    "garden": _place("in the garden", "Garten", "m"),
    "kitchen": _place("in the kitchen", "Küche", "f"),
    "city": _place("in the city", "Stadt", "f"),
    "park": _place("in the park", "Park", "m"),
    "station": _place("at the station", "Bahnhof", "m", "an", "in", "auf"),
    "forest": _place("in the forest", "Wald", "m"),
    "museum": _place("in the museum", "Museum", "n"),
    "church": _place("in the church", "Kirche", "f"),
    "shop": _place("in the shop", "Laden", "m", also=Noun("Geschäft", "n")),
    "bridge": _place("on the bridge", "Brücke", "f", "auf"),
    "beach": _place("at the beach", "Strand", "m", "an"),
    "hospital": _place("in the hospital", "Krankenhaus", "n"),
}

CONTRACTIONS: dict[tuple[str, str], str] = {("in", "dem"): "im", ("an", "dem"): "am"}

_AHEAD = ("present", "modal")
TIMES: dict[str, Time] = {
    "today": Time(("heute",)),
    "yesterday": Time(("gestern",), ("past",)),
    "tomorrow": Time(("morgen",), _AHEAD),
    "this morning": Time(("heute Morgen", "heute früh"), ("past",)),
    "last week": Time(("letzte Woche", "vorige Woche"), ("past",)),
    "next week": Time(("nächste Woche",), _AHEAD),
    "on Monday": Time(("am Montag",)),
    "on Friday": Time(("am Freitag",)),
    "on Sunday": Time(("am Sonntag",)),
    "in the afternoon": Time(("am Nachmittag", "nachmittags"), ("past", "modal")),
}

CONJUNCTIONS: dict[str, tuple[str, ...]] = {"because": ("weil", "da"), "if": ("wenn", "falls"), "that": ("dass",)}
