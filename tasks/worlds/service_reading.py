"""Reading an answer of the customer service world: which clauses it holds, and what is wrong with the rest."""

from __future__ import annotations

import functools
import re
from collections import Counter
from itertools import pairwise
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
CALLS = 2
"""How often an answer may call the customer by name, once in a clause; what is more is a flaw and no courtesy."""
FITTING_OPENERS = {
    "no": frozenset({"refusal"}),
    "fine": frozenset({"grant", "promise", "free"}),
}
"""Kinds of clause that a first word may open, at the start of the answer; before others it is a flaw."""
OPPOSITES = {"no": FITTING_OPENERS["fine"], "fine": FITTING_OPENERS["no"]}
"""Kinds of clause that a first word contradicts, wherever it stands."""
NEGATIONS = frozenset({"no", "not", "never", "cannot", "nothing"})
TOKEN = re.compile(r"\w+(?:-\w+)*|[^\w\s]")
_PIECE = re.compile(r"(.*?)([.!?]+\s*|, but |$)")
_BUT = ", but "
_OPENER = re.compile(r"(fine|no), (.*)", re.IGNORECASE)


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
        surplus_calls: how many of them are too many.
        words: every word of the response, lower case, recognised or not.
        flaws: fillers, repetitions, surplus and unrecognised clauses, words that open or join what they do not fit, a
            missing full stop.
        contradicted: True where the answer says "no" to what it grants, "fine" to what it declines, or has a negation
            outside its clauses.
        tokens: words and punctuation marks.
    """

    clauses: list[Clause]
    called: list[str]
    surplus_calls: int
    words: frozenset[str]
    flaws: int
    contradicted: bool
    tokens: int

    def of(self, kind: str) -> list[Clause]:
        return [clause for clause in self.clauses if clause.kind == kind]


class _Piece(NamedTuple):
    """What stands between two marks: its words without first word and names, how it was understood, the mark after."""

    text: str
    opener: str
    clause: Clause | None
    calls: list[str]
    mark: str

    @property
    def kind(self) -> str:
        return self.clause.kind if self.clause else ""


class Reader:
    """Recognises the clauses of every phrase that an answer may hold, and names in address."""

    def __init__(self) -> None:
        self._vocative = re.compile(r",\s*(" + "|".join(words.NAMES) + r")(?=,|$)", re.IGNORECASE)

    def read(self, response: str) -> Reading:
        """The clauses of a response, whatever text it is."""
        text = re.sub(r"\s+", " ", response).strip()
        text = re.sub(r" (?=[.,!?])", "", text).replace(" - ", "-")
        pieces = [self._piece(piece, mark) for piece, mark in _PIECE.findall(text)]
        clauses = [piece.clause for piece in pieces if piece.clause]
        called = [name for piece in pieces for name in piece.calls]
        surplus_calls = max(len(called) - CALLS, sum(max(0, len(piece.calls) - 1) for piece in pieces))
        flaws = sum(_flaws(piece, first=index == 0) for index, piece in enumerate(pieces))
        flaws += sum(_badly_joined(before, after) for before, after in pairwise(pieces))
        flaws += _repetitions(clauses) + surplus_calls + (not text.endswith((".", "!")))
        tokens = TOKEN.findall(text.lower())
        contradicted = any(_contradicts(piece) for piece in pieces)
        return Reading(clauses, called, surplus_calls, frozenset(tokens), flaws, contradicted, len(tokens))

    def _piece(self, text: str, mark: str) -> _Piece:
        calls = [name.lower() for name in self._vocative.findall(text)]
        bare = self._vocative.sub("", text).strip() if calls else text.strip()
        opened = _OPENER.fullmatch(bare)
        opener, bare = (opened[1].lower(), opened[2]) if opened else ("", bare)
        clause = None if "?" in mark else _recognise(bare)  # a question states nothing
        return _Piece(bare, opener, clause, calls, mark)


def _flaws(piece: _Piece, *, first: bool) -> int:
    """What is wrong with a piece by itself: 1 if it says nothing known, has a wrong first word or a mark too many."""
    wrong = not piece.clause and bool(piece.text or piece.calls)
    misplaced = bool(piece.opener) and not (first and piece.kind in FITTING_OPENERS[piece.opener])
    stuttered = piece.mark != _BUT and len(piece.mark.strip()) > 1
    return int(wrong or misplaced) + int(stuttered)


def _badly_joined(before: _Piece, after: _Piece) -> bool:
    """ "But" leads from manners to what is declined, and nowhere else."""
    fits = before.kind in ("apology", "thanks") and after.kind in ("refusal", "vague")
    return before.mark == _BUT and not fits


def _repetitions(clauses: list[Clause]) -> int:
    """Fillers, clauses beyond what is allowed of their kind, and manners said twice in a row."""
    kinds = Counter(clause.kind for clause in clauses)
    surplus = sum(max(0, kinds[kind] - most) for kind, most in ALLOWED.items())
    twice = sum(one.kind == two.kind and ALLOWED.get(one.kind) == 2 for one, two in pairwise(clauses))
    return kinds["filler"] + surplus + twice


def _contradicts(piece: _Piece) -> bool:
    """Whether a "no" or "fine" opens the contrary, or a negation stands in words that say nothing known."""
    if piece.clause:
        return piece.kind in OPPOSITES.get(piece.opener, ())
    return not NEGATIONS.isdisjoint(TOKEN.findall(f"{piece.opener} {piece.text}".lower()))


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
