"""The translation world's gold reward: a response read with the grammar and compared with the latent facts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

from harness.tasks.worlds.german import ARTICLES, ENDINGS, Case, Label, Position, valid_orders
from harness.tasks.worlds.german_reading import Chunk, Segment, correct_places, read
from harness.tasks.worlds.lexicon import THINGS

PART_MAXIMA: dict[str, float] = {"adequacy": 0.7, "order": 2.3, "agreement": 0.6, "fluency": 0.4}
WRONG_WORD = 0.8
"""What a wrong word, in the place of the right one or beside it, leaves of all parts but adequacy."""
DENIAL = 5
"""As many wrong words a negation counts for: it turns a whole clause into its contrary."""

_NO_SEGMENT = Segment()
_TWO_PART = ("past", "modal")


class _Predicate(NamedTuple):
    """How a clause's verbs were understood: the positions of their chunks (-1: none) and what is right about them."""

    finite: int
    nonfinite: int
    has_verb: bool
    has_tense: bool
    finite_agrees: bool
    nonfinite_right: bool


class _Verdict(NamedTuple):
    """One clause: slots found and asked for, content words used, and the order and agreement credit in [0, 1]."""

    matched: int
    total: int
    used: int
    order: float
    agreement: float


def _predicate(clause: Mapping[str, Any], chunks: list[Chunk]) -> _Predicate:
    """Finds the clause's verb, and its auxiliary or modal, among a segment's chunks."""
    main = next((i for i, c in enumerate(chunks) if c.kind == "verb" and c.lexeme == clause["verb"]), -1)
    if main < 0:
        return _Predicate(-1, -1, False, False, False, False)
    forms, number = chunks[main].forms, clause["number"]
    helpers = [i for i, c in enumerate(chunks) if c.kind in ("modal", "auxiliary")]
    if clause["tense"] == "modal":
        helper = next((i for i in helpers if chunks[i].lexeme == clause["modal"]), -1)
        infinitive = any(f.form == "infinitive" for f in forms)
        if helper < 0:
            return _Predicate(main, -1, True, False, False, infinitive)
        return _Predicate(helper, main, True, True, chunks[helper].number == number, infinitive)
    if clause["tense"] == "past":
        preterite = {f.form for f in forms} & {"past sg", "past pl"}
        if preterite and not helpers:
            return _Predicate(main, -1, True, True, f"past {number}" in preterite, True)
        participles = [f for f in forms if f.form == "participle"]
        helper = next((i for i in helpers if chunks[i].kind == "auxiliary"), -1)
        if helper >= 0 and participles:
            right = any(f.german.auxiliary == chunks[helper].lexeme for f in participles)
            return _Predicate(helper, main, True, True, chunks[helper].number == number, right)
        return _Predicate(main, -1, True, False, False, False)
    present = any(f.form == f"present {number}" for f in forms)
    return _Predicate(main, -1, True, not helpers, present, not helpers)


def _labels(chunks: list[Chunk], predicate: _Predicate) -> list[Label] | None:
    """The constituents in order; None where a verb is left over, so that no order can be right."""
    labels: list[Label] = []
    for index, chunk in enumerate(chunks):
        if index == predicate.finite:
            labels.append("finite")
        elif index == predicate.nonfinite:
            labels.append("nonfinite")
        elif chunk.kind in ("verb", "modal", "auxiliary"):
            return None
        else:
            labels.append(chunk.kind)  # type: ignore[arg-type]
    return labels


def _order_credit(clause: Mapping[str, Any], chunks: list[Chunk], predicate: _Predicate, position: Position) -> float:
    """0.6 for the verbs in their places, 0.4 for a valid order of all else; nothing without subject and verb."""
    labels = _labels(chunks, predicate)
    if labels is None or not predicate.has_tense or "subject" not in labels or len(set(labels)) < len(labels):
        return 0.0
    orders = valid_orders(frozenset(labels), bool(clause["object_definite"]), position)
    if tuple(labels) in orders:
        return 1.0
    last = len(labels) - 1
    if position == "subordinate":
        brackets = labels.index("finite") == last and labels.index("subject") == 0
        nonfinite_at = last - 1
    else:
        brackets = labels.index("finite") == (0 if position == "inverted" else 1)
        nonfinite_at = last
    if "nonfinite" in labels:
        brackets = brackets and labels.index("nonfinite") == nonfinite_at
    return 0.6 if brackets else 0.0


def _phrase_agrees(chunk: Chunk, *, definite: bool, case: Case) -> bool:
    articles, endings = ARTICLES[definite, case], ENDINGS[definite, case]
    if chunk.agrees not in articles or chunk.article != articles[chunk.agrees]:
        return False
    return all(ending == endings[chunk.agrees] for _, ending in chunk.adjectives)


def _judge(clause: Mapping[str, Any], segment: Segment, position: Position) -> _Verdict:
    """Compares one clause of the facts with one segment of the response."""
    chunks = segment.chunks
    predicate = _predicate(clause, chunks)
    slots = [predicate.has_verb]
    agreements = [predicate.finite_agrees]
    if clause["tense"] in _TWO_PART:
        slots.append(predicate.has_tense)
        agreements.append(predicate.nonfinite_right)
    used = int(predicate.has_verb) + int(predicate.nonfinite >= 0)
    subject = next((c for c in chunks if c.kind == "subject" and c.lexeme == clause["subject"]), None)
    # One who stands in the accusative does nothing: the roles are reversed.
    acts = subject is not None and subject.number == clause["number"] and subject.article not in ("den", "einen")
    nominals: list[tuple[Chunk | None, str | None, bool, bool, Case]] = [
        (subject, clause["person_adjective"], acts, bool(clause["definite"]), "nominative")
    ]
    if clause["object"] is not None:
        thing = next((c for c in chunks if c.kind == "object" and c.lexeme == clause["object"]), None)
        definite = bool(clause["object_definite"]) or THINGS[clause["object"]].plural
        nominals.append((thing, clause["thing_adjective"], thing is not None, definite, "accusative"))
    for chunk, adjective, found, definite, case in nominals:
        slots.append(found)
        used += found
        agreements.append(chunk is not None and found and _phrase_agrees(chunk, definite=definite, case=case))
        if adjective is not None:
            described = chunk is not None and [key for key, _ in chunk.adjectives] == [adjective]
            slots.append(described)
            used += described
    for kind in ("place", "time"):
        if clause[kind] is not None:
            adverbial = next((c for c in chunks if c.kind == kind and c.lexeme == clause[kind]), None)
            slots.append(adverbial is not None)
            used += adverbial is not None
            if kind == "place":
                agreements.append(
                    adverbial is not None and " ".join(adverbial.words).lower() in correct_places(clause[kind])
                )
    order = _order_credit(clause, chunks, predicate, position)
    return _Verdict(sum(slots), len(slots), used, order, sum(agreements) / len(agreements))


def _positions(layout: str, segments: tuple[Segment, ...]) -> list[tuple[Position, bool]]:
    """Each clause's position in the response, and whether its conjunction is the right one."""
    if layout in ("single", "two"):
        return [("main", not segment.conjunction) for segment in segments]
    main, second = segments
    if second.word == "denn":
        return [("main", not main.conjunction), ("main", layout == "because")]
    return [("main", not main.conjunction), ("subordinate", second.conjunction == layout)]


class _Reading(NamedTuple):
    """The best assignment of segments to clauses, and what is left of the response."""

    verdicts: list[_Verdict]
    conjunctions: list[bool]
    segments: tuple[Segment, ...]


def _assign(facts: Mapping[str, Any], segments: list[Segment]) -> _Reading:
    """Gives each clause the segment that matches most of its slots; ties go to the earlier segment."""
    clauses, layout = facts["clauses"], facts["layout"]
    candidates = [*range(min(len(segments), 8)), *([-1] * len(clauses))]
    best: tuple[float, _Reading] | None = None
    for choice in dict.fromkeys(permutations(candidates, len(clauses))):
        chosen = tuple(segments[i] if i >= 0 else _NO_SEGMENT for i in choice)
        positions = _positions(layout, chosen)
        if layout not in ("single", "two") and -1 not in choice and choice[1] < choice[0]:
            # A subordinate clause in front makes the main clause start with its verb; one with dass or denn cannot.
            positions[0] = ("inverted" if layout != "that" and chosen[1].word != "denn" else "main", positions[0][1])
        verdicts = [_judge(c, s, p) for c, s, (p, _) in zip(clauses, chosen, positions, strict=True)]
        score = sum(v.matched + 0.01 * v.order for v in verdicts) + 0.1 * sum(right for _, right in positions)
        if best is None or score > best[0]:
            best = (score, _Reading(verdicts, [right for _, right in positions], chosen))
    assert best is not None
    return best[1]


def _separators_right(layout: str, reading: _Reading, segments: list[Segment]) -> bool:
    """A comma between the clauses of one sentence, a full stop between two sentences, nothing else in between."""
    if len(segments) != len(reading.segments):
        return False
    wanted = "." if layout == "two" else ","
    return not segments[0].before and all(s.before == wanted for s in segments[1:])


def gold_parts(facts: Mapping[str, Any], response: str) -> dict[str, float]:
    """Adequacy, order, agreement and fluency of a response, by the facts alone.

    Adequacy counts slots (words and phrases of content, conjunctions) less every word too many.
    The other parts are scaled by how much of the content is there at all: nothing up to a quarter, all from three
    quarters on. So a well-formed sentence about something else earns next to nothing. What is left out costs no more
    than that; each wrong word takes a share of all the other parts, and a negation that of several.
    """
    segments = read(response)
    layout = facts["layout"]
    reading = _assign(facts, segments)
    verdicts = reading.verdicts
    joined = layout not in ("single", "two")
    matched = sum(v.matched for v in verdicts) + int(joined and reading.conjunctions[1])
    total = sum(v.total for v in verdicts) + int(joined)
    spoken = sum(1 + len(c.adjectives) for s in segments for c in s.chunks) + sum(bool(s.conjunction) for s in segments)
    used = sum(v.used for v in verdicts) + int(joined and reading.conjunctions[1])
    junk = sum(s.junk for s in segments)
    surplus = max(0, spoken + junk - used)
    wrong = surplus + (DENIAL - 1) * sum(s.negations for s in segments)
    excess = max(0, surplus - (total - matched))
    adequacy = max(0.0, (matched - excess) / total)
    scale = min(1.0, max(0.0, (adequacy - 0.25) / 0.5)) * WRONG_WORD**wrong
    order = sum(v.order * right for v, right in zip(verdicts, reading.conjunctions, strict=True))
    text = response.strip()
    form = [
        text[:1].isupper(),
        text.endswith(".") and not text.endswith(".."),
        _separators_right(layout, reading, segments),
    ]
    return {
        "adequacy": PART_MAXIMA["adequacy"] * adequacy,
        "order": PART_MAXIMA["order"] * scale * order / len(verdicts),
        "agreement": PART_MAXIMA["agreement"] * scale * sum(v.agreement for v in verdicts) / len(verdicts),
        "fluency": PART_MAXIMA["fluency"] * scale * sum(form) / len(form) * max(0.0, 1 - max(junk, excess) / 3),
    }
