"""The gold reward of summaries of reports: what they state, read from the words, against what happened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from harness.tasks.worlds.reports_language import ALL_TEMPLATES, article, class_of_word, meaning_of_word
from harness.tasks.worlds.stretches import BREAK_FACTOR, NEGATIONS, breaks, stretches

PART_MAXIMA: Mapping[str, float] = {"complete": 2.0, "concise": 1.0, "faithful": 0.5, "fluent": 0.5}
SLOT_WORTH: Mapping[str, float] = {
    "cause": 0.15, "harm": 0.1, "site": 0.15, "town": 0.2, "day": 0.4, "subject": 0.5, "outcome": 0.5,
}  # fmt: skip
"""What each fact adds to ``complete``: what happened .4, where .2, when .4, what follows 1."""

READ_TOKENS = 22
"""A reader stops here: a fact told later earns nothing (a wrong one still costs)."""
MAX_TOKENS = 32
"""A summary longer than this is worth its share of it, in every part; a good one with the longest aside has 31."""
FREE_WORDS, FULL_WORDS = 18, 24
"""Up to so many words are concise; at the second count nothing is left of ``concise``."""
IDLE_FACTOR = 1 / 3
"""What each sentence that tells nothing new, off the topic or told before, leaves of ``concise``."""
TRUSTED_FACTS = 4
"""So many right facts are needed for all of ``faithful``: one safe word is no faithful summary."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_END, _START = ".", "<s>"


class Sentence(NamedTuple):
    """A sentence's tokens, lower-cased, its full stop included if it has one, and whether it starts with a capital."""

    tokens: tuple[str, ...]
    capital: bool


class ReportGold:
    """Scores summaries. Built once per world; holds nothing but the language.

    A fact is stated by a sentence of the language. Each place where a sentence leaves the language takes a share of
    what its facts are worth (see ``breaks``): reversed roles and words in a heap have many, one slip has one. A
    negation, which no sentence of the language has, denies the facts of its sentence.
    """

    def __init__(self) -> None:
        self._meaning = meaning_of_word()
        self._class = class_of_word()
        self._colours = frozenset(self._class.keys() - self._meaning.keys())
        self._stretches = stretches(
            (_START, *sentence) for template in ALL_TEMPLATES for sentence in _template_sentences(template)
        )

    def parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]:
        """The parts of gold of one response, each between 0 and its maximum in ``PART_MAXIMA``."""
        sentences = list(split_sentences(response))
        tokens = [token for sentence in sentences for token in sentence.tokens]
        counts = [self._breaks(sentence) for sentence in sentences]
        mentioned = self._mentioned(tokens)
        stated = self._stated(sentences, counts)
        denied = self._denied(sentences)
        credit = {
            slot: stated.get(slot, 0.0)
            for slot in SLOT_WORTH
            if mentioned[slot] == {facts[slot]} and slot not in denied
        }
        wrong = len(denied) + sum(len(mentioned[slot] - {facts[slot]}) for slot in SLOT_WORTH)
        wrong += len(self._colours.intersection(tokens).difference(facts["colouring"]))
        told = sum(SLOT_WORTH[slot] * share for slot, share in credit.items()) / sum(SLOT_WORTH.values())
        right = sum(credit.values())
        # Brevity is worth something only as far as the facts are told.
        shares = {
            "complete": told,
            "concise": told * self._brevity(sentences),
            "faithful": right / (right + wrong) * min(1.0, right / TRUSTED_FACTS) if right else 0.0,
            "fluent": self._fluency(sentences, counts),
        }
        length = min(1.0, MAX_TOKENS / max(len(tokens), 1))
        return {name: PART_MAXIMA[name] * share * length for name, share in shares.items()}

    def _mentioned(self, tokens: Sequence[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {slot: set() for slot in SLOT_WORTH}
        for token in tokens:
            if token in self._meaning:
                slot, meaning = self._meaning[token]
                found[slot].add(meaning)
        return found

    def _stated(self, sentences: Sequence[Sentence], counts: Sequence[int]) -> dict[str, float]:
        """Slot -> how well it is stated, whatever it is filled with, by the best of the sentences that are read."""
        found: dict[str, float] = {}
        left = READ_TOKENS
        for sentence, count in zip(sentences, counts, strict=True):
            share = BREAK_FACTOR**count
            for token in sentence.tokens[:left]:
                if token in self._meaning:
                    slot = self._meaning[token][0]
                    found[slot] = max(share, found.get(slot, 0.0))
            left = max(0, left - len(sentence.tokens))
        return found

    def _denied(self, sentences: Sequence[Sentence]) -> set[str]:
        """The slots in sentences with a negation."""
        return {
            self._meaning[token][0]
            for sentence in sentences
            if not NEGATIONS.isdisjoint(sentence.tokens)
            for token in sentence.tokens
            if token in self._meaning
        }

    def _brevity(self, sentences: Sequence[Sentence]) -> float:
        words = sum(token[0].isalnum() for sentence in sentences for token in sentence.tokens)
        by_length = min(1.0, max(0.0, (FULL_WORDS - words) / (FULL_WORDS - FREE_WORDS)))
        idle = 0
        told: set[str] = set()
        for sentence in sentences:
            slots = {self._meaning[token][0] for token in sentence.tokens if token in self._meaning}
            idle += slots <= told
            told |= slots
        return by_length * float(IDLE_FACTOR ** min(idle, 9))

    def _fluency(self, sentences: Sequence[Sentence], counts: Sequence[int]) -> float:
        """Mean over sentences: 1 in the language, less for each break and fault of form, 0 where it was said before."""
        if not sentences:
            return 0.0
        said: set[tuple[str, ...]] = set()
        total = 0.0
        for sentence, count in zip(sentences, counts, strict=True):
            if sentence.tokens not in said:
                total += BREAK_FACTOR ** (count + _form_faults(sentence))
            said.add(sentence.tokens)
        return total / len(sentences)

    def _breaks(self, sentence: Sentence) -> int:
        """Places where the sentence leaves the language, whatever the form of its articles, first letter and end."""
        words = ["a" if token == "an" else self._class.get(token, token) for token in sentence.tokens]
        end = () if words[-1] == _END else (_END,)
        return breaks((_START, *words, *end), self._stretches)


def _form_faults(sentence: Sentence) -> int:
    """A missing capital, a missing full stop, and each wrong form of the indefinite article."""
    faults = int(not sentence.capital) + int(sentence.tokens[-1] != _END)
    for token, after in pairwise(sentence.tokens):
        faults += token in ("a", "an") and token != article(after)
    return faults


def split_sentences(text: str) -> Iterator[Sentence]:
    """The sentences of any text, ended by full stops; the last one may lack its end."""
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        tokens.append(token)
        if token == _END:
            yield _sentence(tokens)
            tokens = []
    if tokens:
        yield _sentence(tokens)


def _sentence(tokens: Sequence[str]) -> Sentence:
    return Sentence(tuple(token.lower() for token in tokens), tokens[0][0].isupper())


def _template_sentences(template: str) -> Iterator[tuple[str, ...]]:
    tokens: list[str] = []
    for token in re.findall(r"\{\w+\}|\w+|[^\w\s]", template):
        tokens.append("a" if token == "{a}" else token.lower())
        if token == _END:
            yield tuple(tokens)
            tokens = []
