"""Reads any German-like text into segments of chunks by the lexicon alone, for the translation world's gold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

from harness.tasks.worlds.german import Class, agreement_class, inflect, place_phrases
from harness.tasks.worlds.lexicon import (
    AUXILIARIES,
    CONJUNCTIONS,
    MODALS,
    PERSON_ADJECTIVES,
    PERSONS,
    PLACES,
    THING_ADJECTIVES,
    THINGS,
    TIMES,
    VERBS,
    Conjugation,
    Number,
)

Kind = Literal["subject", "object", "place", "time", "verb", "modal", "auxiliary"]

_NounKind = Literal["subject", "object", "place"]

_TOKEN = re.compile(r"[^\W\d_]+|\S")
_MAX_TOKENS = 80
_ARTICLES = frozenset({"der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer", "eines", "des"})
_PREPOSITIONS = frozenset({"in", "an", "auf", "im", "am", "ins", "ans"})
_NEGATIONS = frozenset(
    {"nicht", "nie", "niemals", "nichts", "niemand", "kein", "keine", "keinen", "keinem", "keiner", "keines"}
)
_ENDINGS = ("", "e", "er", "en", "es", "em")
_NOUN_KINDS: dict[str, _NounKind] = {"person": "subject", "thing": "object", "place": "place"}


class VerbForm(NamedTuple):
    """One reading of a verb's surface: which entry, which of its forms, and the German verb."""

    lexeme: str
    form: str
    german: Conjugation


class _NounForm(NamedTuple):
    kind: _NounKind
    lexeme: str
    number: Number
    agrees: Class


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of text that the lexicon knows.

    Args:
        kind: what it is; verbs, modals and auxiliaries are one word each.
        lexeme: the English key of its head.
        words: the text, word by word.
        article: the article before a noun, or the empty string.
        adjectives: (English key, ending) of each adjective before a noun.
        number: of a noun.
        agrees: what article and adjective of the noun agree with.
        forms: the readings of a verb, modal or auxiliary.
    """

    kind: Kind
    lexeme: str
    words: tuple[str, ...]
    article: str = ""
    adjectives: tuple[tuple[str, str], ...] = ()
    number: Number = "sg"
    agrees: Class = "m"
    forms: tuple[VerbForm, ...] = ()


@dataclass(slots=True)
class Segment:
    """What stands between two separators (punctuation or a conjunction).

    Args:
        conjunction: the English key of the conjunction that opens it, or the empty string.
        word: that conjunction in German.
        before: the punctuation in front of it, or the empty string.
        chunks: what was understood.
        junk: how many words were not.
        negations: how many of those deny.
    """

    conjunction: str = ""
    word: str = ""
    before: str = ""
    chunks: list[Chunk] = field(default_factory=list)
    junk: int = 0
    negations: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.chunks or self.junk or self.conjunction)


@cache
def _nouns() -> dict[str, _NounForm]:
    table: dict[str, _NounForm] = {}
    entries = [("person", key, person.nouns, False) for key, person in PERSONS.items()]
    entries += [("thing", key, thing.nouns, thing.plural) for key, thing in THINGS.items()]
    entries += [("place", key, place.nouns, False) for key, place in PLACES.items()]
    for kind, key, nouns, always_plural in entries:
        for noun in nouns:
            number: Number = "pl" if always_plural else "sg"
            table[noun.word] = _NounForm(_NOUN_KINDS[kind], key, number, agreement_class(noun, number))
            if noun.plural and not always_plural:
                table[noun.plural] = _NounForm(_NOUN_KINDS[kind], key, "pl", "pl")
    return table


@cache
def _adjectives() -> dict[str, tuple[str, str]]:
    entries = [*PERSON_ADJECTIVES.items(), *THING_ADJECTIVES.items()]
    return {inflect(word, end): (key, end) for key, words in entries for word in words for end in _ENDINGS}


@cache
def _verbs() -> dict[str, tuple[VerbForm, ...]]:
    table: dict[str, list[VerbForm]] = {}
    for key, verb in VERBS.items():
        for german in verb.german:
            forms = {
                "infinitive": german.infinitive,
                "present pl": german.infinitive,
                "present sg": german.present,
                "past sg": german.past,
                "past pl": german.past_plural,
                "participle": german.participle,
            }
            for form, word in forms.items():
                table.setdefault(word, []).append(VerbForm(key, form, german))
    return {word: tuple(forms) for word, forms in table.items()}


@cache
def _finite_only() -> dict[str, tuple[Kind, str, Number]]:
    table: dict[str, tuple[Kind, str, Number]] = {}
    for key, modal in MODALS.items():
        for singular, plural in modal.german:
            table[singular], table[plural] = ("modal", key, "sg"), ("modal", key, "pl")
    for key, (singular, plural) in AUXILIARIES.items():
        table[singular], table[plural] = ("auxiliary", key, "sg"), ("auxiliary", key, "pl")
    return table


@cache
def _times() -> dict[tuple[str, ...], str]:
    return {tuple(phrase.lower().split()): key for key, time in TIMES.items() for phrase in time.german}


@cache
def conjunction_keys() -> dict[str, str]:
    """German conjunction -> English key; ``denn``, which keeps main-clause order, is a further way to say because."""
    return {word: key for key, words in CONJUNCTIONS.items() for word in words} | {"denn": "because"}


@cache
def correct_places(key: str) -> frozenset[str]:
    """Every accepted German form of a place, in lower case."""
    return frozenset(text.lower() for noun in PLACES[key].nouns for text in place_phrases(PLACES[key], noun))


def tokens_of(text: str) -> list[str]:
    """Words and single punctuation marks."""
    return _TOKEN.findall(text)


def _time_at(tokens: list[str], start: int) -> Chunk | None:
    for length in (2, 1):
        words = tuple(tokens[start : start + length])
        key = _times().get(tuple(word.lower() for word in words))
        if key is not None and len(words) == length:
            return Chunk("time", key, words)
    return None


def _nominal_at(tokens: list[str], start: int) -> Chunk | None:
    """[preposition] [article] adjectives noun; nouns must be capitalised, the rest need not look so at the start."""
    at, article = start, ""
    has_preposition = tokens[at].lower() in _PREPOSITIONS
    at += has_preposition
    if at < len(tokens) and tokens[at].lower() in _ARTICLES:
        article = tokens[at].lower()
        at += 1
    adjectives = []
    while at < len(tokens) and tokens[at].lower() in _adjectives() and tokens[at] not in _nouns():
        adjectives.append(_adjectives()[tokens[at].lower()])
        at += 1
    noun = _nouns().get(tokens[at]) if at < len(tokens) else None
    if noun is None or (has_preposition and noun.kind != "place"):
        return None
    words = tuple(tokens[start : at + 1])
    return Chunk(noun.kind, noun.lexeme, words, article, tuple(adjectives), noun.number, noun.agrees)


def _verb_at(tokens: list[str], start: int) -> Chunk | None:
    word = tokens[start].lower()
    if word in _finite_only():
        kind, key, number = _finite_only()[word]
        return Chunk(kind, key, (tokens[start],), number=number)
    forms = _verbs().get(word, ())
    return Chunk("verb", forms[0].lexeme, (tokens[start],), forms=forms) if forms else None


def read(text: str) -> list[Segment]:
    """Splits a text at punctuation and conjunctions and recognises what stands between; it never fails.

    Words past the first 80 tokens are not looked at but counted as junk of the last segment.
    """
    every = tokens_of(text)
    tokens = every[:_MAX_TOKENS]
    segments = [Segment()]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if not token[0].isalpha():
            if not segments[-1].is_empty:
                segments.append(Segment())
            segments[-1].before += token
            at += 1
            continue
        key = conjunction_keys().get(token.lower())
        if key is not None:
            if not segments[-1].is_empty:
                segments.append(Segment())
            segments[-1].conjunction, segments[-1].word = key, token.lower()
            at += 1
            continue
        chunk = _time_at(tokens, at) or _nominal_at(tokens, at) or _verb_at(tokens, at)
        if chunk is None:
            segments[-1].junk += 1
            segments[-1].negations += token.lower() in _NEGATIONS
            at += 1
        else:
            segments[-1].chunks.append(chunk)
            at += len(chunk.words)
    segments[-1].junk += len(every) - len(tokens)
    return [segment for segment in segments if not segment.is_empty]
