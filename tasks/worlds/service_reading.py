"""Reading an answer of the customer service world: which clauses it holds, and what is wrong with the rest."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import NamedTuple

from harness.tasks.worlds import service_words as words
from harness.tasks.worlds.service_phrases import recogniser

ALLOWED = {
    "grant": 1,
    "refusal": 1,
    "promise": 1,
    "free": 1,
    "vague": 1,
    "step": 1,
    "alternative": 1,
    "thanks": 2,
    "apology": 2,
    "wish": 1,
}
"""How many clauses of a kind an answer may hold before the next counts as a flaw; kinds not named: any number."""
TOKEN = re.compile(r"\w+(?:-\w+)*|[^\w\s]")


class Clause(NamedTuple):
    """One recognised clause: what it does, for which act, rule or desk, and the item and day that it names."""

    kind: str
    key: str
    item: str = ""
    day: str = ""


class Reading(NamedTuple):
    """What a response says.

    Args:
        clauses: the recognised ones, in order.
        called: names by which the customer is addressed.
        words: every word of the response, lower case, recognised or not.
        flaws: fillers, repetitions, surplus and unrecognised clauses, a missing full stop.
        tokens: words and punctuation marks.
    """

    clauses: list[Clause]
    called: list[str]
    words: frozenset[str]
    flaws: int
    tokens: int

    def of(self, kind: str) -> list[Clause]:
        return [clause for clause in self.clauses if clause.kind == kind]


class Reader:
    """Recognises the clauses of every phrase that an answer may hold, and names in address."""

    def __init__(self) -> None:
        self._vocative = re.compile(r",\s*(" + "|".join(words.NAMES) + r")(?=,|$)", re.IGNORECASE)

    def read(self, response: str) -> Reading:
        """The clauses of a response, whatever text it is."""
        text = re.sub(r"\s+", " ", response).strip()
        text = re.sub(r" (?=[.,!?])", "", text).replace(" - ", "-")
        clauses: list[Clause] = []
        called: list[str] = []
        flaws = 0 if text.endswith((".", "!", "?")) else 1
        for piece in re.split(r"[.!?]+\s*|, but ", text):
            called += [name.lower() for name in self._vocative.findall(piece)]
            bare = re.sub(r"^(?:fine|no), ", "", self._vocative.sub("", piece).strip(), flags=re.IGNORECASE)
            clause = _recognise(bare)
            if clause:
                clauses.append(clause)
            elif bare:
                flaws += 1
        kinds = Counter(clause.kind for clause in clauses)
        flaws += kinds["filler"] + sum(max(0, kinds[kind] - most) for kind, most in ALLOWED.items())
        tokens = TOKEN.findall(text.lower())
        return Reading(clauses, called, frozenset(tokens), flaws, len(tokens))


@functools.lru_cache(maxsize=2**16)
def _recognise(text: str) -> Clause | None:
    for kind, key, pattern in _recognised_phrases():
        match = pattern.fullmatch(text)
        if match:
            slots = {slot: value.lower() for slot, value in match.groupdict().items()}
            return Clause(kind, key, slots.get("item", ""), slots.get("day", ""))
    return None


@functools.cache
def _recognised_phrases() -> list[tuple[str, str, re.Pattern[str]]]:
    """Kind, key and pattern of each clause that an answer may hold."""
    phrases = [("grant", act, phrase) for act, entry in words.ACTS.items() for phrase in entry.answers]
    for rule, entry in words.RULES.items():
        phrases += [("refusal", rule, phrase) for phrase in entry.refusals]
        phrases += [("alternative", rule, phrase) for phrase in entry.alternatives]
        phrases += [("promise", rule, phrase) for phrase in entry.promises]
    phrases += [("step", key, phrase) for key, desk in words.DESKS.items() for phrase in desk.steps]
    phrases += [("step", "refund", phrase) for phrase in words.REFUND_STEPS]
    for kind, group in (
        ("step", words.STEPS),
        ("thanks", words.THANKS + words.CLOSING_THANKS),
        ("apology", words.APOLOGIES + words.CLOSING_APOLOGIES),
        ("free", words.FREE_PROMISES),
        ("vague", words.VAGUE_GRANTS + words.VAGUE_REFUSALS),
        ("wish", words.WISHES),
        ("filler", words.FILLERS),
    ):
        phrases += [(kind, "any", phrase) for phrase in group]
    return [(kind, key, recogniser(phrase)) for kind, key, phrase in phrases]
