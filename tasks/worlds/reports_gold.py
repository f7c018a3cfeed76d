"""The gold reward of summaries of reports: what they state, read from the words, against what happened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from harness.tasks.worlds.reports_language import ALL_TEMPLATES, article, class_of_word, meaning_of_word

PART_MAXIMA: Mapping[str, float] = {"complete": 2.0, "concise": 1.0, "faithful": 0.5, "fluent": 0.5}
SLOT_WORTH: Mapping[str, float] = {
    "cause": 0.15, "harm": 0.1, "site": 0.15, "town": 0.2, "day": 0.4, "subject": 0.5, "outcome": 0.5,
}  # fmt: skip
"""What each fact adds to ``complete``: what happened .4, where .2, when .4, what follows 1."""

READ_TOKENS = 22
"""A reader stops here: a fact told later earns nothing (a wrong one still costs)."""
FREE_WORDS, FULL_WORDS = 18, 24
"""Up to so many words are concise; at the second count nothing is left of ``concise``."""
OFF_TOPIC_FACTOR = 1 / 3
TRUSTED_FACTS = 4
"""So many right facts are needed for all of ``faithful``: one safe word is no faithful summary."""
BROKEN_SENTENCE = 0.6
"""The most that a sentence outside the language earns, by the share of its word pairs that the language has."""

# A fact counts as stated where its word stands like this: a list of key words states nothing.
_BEFORE: Mapping[str, frozenset[str]] = {
    "cause": frozenset({"a", "an", "the"}),
    "harm": frozenset({"was", "been"}),
    "site": frozenset({"the"}),
    "town": frozenset({"in", "of"}),
    "day": frozenset({"on"}),
    "outcome": frozenset({"were", "been"}),
}
_AFTER: Mapping[str, frozenset[str]] = {
    "harm": frozenset({"the"}),
    "subject": frozenset({"were", "had", "have"}),
}
_TOKEN = re.compile(r"\w+|[^\w\s]")
_END, _START = ".", "<s>"


class Sentence(NamedTuple):
    """A sentence's tokens, lower-cased, its full stop included if it has one, and whether it starts with a capital."""

    tokens: tuple[str, ...]
    capital: bool


class ReportGold:
    """Scores summaries. Built once per world; holds nothing but the language."""

    def __init__(self) -> None:
        self._meaning = meaning_of_word()
        self._class = class_of_word()
        self._colours = frozenset(self._class.keys() - self._meaning.keys())
        sentences = [sentence for template in ALL_TEMPLATES for sentence in _template_sentences(template)]
        self._patterns = frozenset(sentences)
        self._neighbours = frozenset(pair for pattern in sentences for pair in pairwise((_START, *pattern)))

    def parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]:
        """The parts of gold of one response, each between 0 and its maximum in ``PART_MAXIMA``."""
        sentences = list(split_sentences(response))
        tokens = [token for sentence in sentences for token in sentence.tokens]
        mentioned = self._mentioned(tokens)
        stated = self._stated(tokens[:READ_TOKENS])
        right = {slot for slot in SLOT_WORTH if mentioned[slot] == {facts[slot]} and facts[slot] in stated[slot]}
        wrong = sum(len(mentioned[slot] - {facts[slot]}) for slot in SLOT_WORTH)
        wrong += len(self._colours.intersection(tokens).difference(facts["colouring"]))
        told = sum(worth for slot, worth in SLOT_WORTH.items() if slot in right) / sum(SLOT_WORTH.values())
        trust = len(right) / (len(right) + wrong) * min(1.0, len(right) / TRUSTED_FACTS) if right else 0.0
        # Brevity is worth something only as far as the facts are told.
        shares = {
            "complete": told,
            "concise": told * self._brevity(sentences),
            "faithful": trust,
            "fluent": self._fluency(sentences),
        }
        return {name: PART_MAXIMA[name] * share for name, share in shares.items()}

    def _mentioned(self, tokens: Sequence[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {slot: set() for slot in SLOT_WORTH}
        for token in tokens:
            if token in self._meaning:
                slot, meaning = self._meaning[token]
                found[slot].add(meaning)
        return found

    def _stated(self, tokens: Sequence[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {slot: set() for slot in SLOT_WORTH}
        padded = ["", *tokens, ""]
        for before, token, after in zip(padded, padded[1:], padded[2:], strict=False):
            if token not in self._meaning:
                continue
            slot, meaning = self._meaning[token]
            if before in _BEFORE.get(slot, ()) or after in _AFTER.get(slot, ()):
                found[slot].add(meaning)
        return found

    def _brevity(self, sentences: Sequence[Sentence]) -> float:
        words = sum(token[0].isalnum() for sentence in sentences for token in sentence.tokens)
        by_length = min(1.0, max(0.0, (FULL_WORDS - words) / (FULL_WORDS - FREE_WORDS)))
        off_topic = sum(all(token not in self._meaning for token in sentence.tokens) for sentence in sentences)
        return by_length * float(OFF_TOPIC_FACTOR ** min(off_topic, 9))

    def _fluency(self, sentences: Sequence[Sentence]) -> float:
        """Mean over sentences: 1 in the language, a smooth part of it outside, 0 where it was said before."""
        if not sentences:
            return 0.0
        said: set[tuple[str, ...]] = set()
        total = 0.0
        for sentence in sentences:
            if sentence.tokens not in said:
                total += self._sentence_fluency(sentence)
            said.add(sentence.tokens)
        return total / len(sentences)

    def _sentence_fluency(self, sentence: Sentence) -> float:
        pattern = tuple(self._classes(sentence.tokens))
        if sentence.capital and pattern in self._patterns:
            return 1.0
        pairs = list(pairwise((_START, *pattern)))
        return BROKEN_SENTENCE * sum(pair in self._neighbours for pair in pairs) / len(pairs)

    def _classes(self, tokens: Sequence[str]) -> Iterator[str]:
        """Words as templates write them; the right indefinite article of either form is "a", a wrong one stays odd."""
        for token, after in zip(tokens, (*tokens[1:], _END), strict=True):
            if token in ("a", "an"):
                yield "a" if token == article(after) else "<wrong article>"
            else:
                yield self._class.get(token, token)


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
