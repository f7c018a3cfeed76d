"""The English side of the translation world: from latent facts to the sentence that is to be translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.tasks.worlds.lexicon import MODALS, PERSONS, PLACES, VERBS, Verb


def _noun_phrase(noun: str, adjective: str | None, *, definite: bool) -> str:
    words = f"{adjective} {noun}" if adjective else noun
    if definite:
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _predicate(verb: Verb, key: str, clause: Mapping[str, Any]) -> str:
    plural = clause["number"] == "pl"
    if clause["tense"] == "modal":
        return f"{MODALS[clause['modal']].english[plural]} {key}"
    if clause["tense"] == "past":
        if clause["object"] is None and verb.ing:
            return f"{'were' if plural else 'was'} {verb.ing}"
        return verb.past
    if verb.ing:
        return f"{'are' if plural else 'is'} {verb.ing}"
    return key if plural else verb.third


def _clause(clause: Mapping[str, Any]) -> str:
    person = PERSONS[clause["subject"]]
    noun = person.plural if clause["number"] == "pl" and person.plural else clause["subject"]
    words = [
        _noun_phrase(noun, clause["person_adjective"], definite=clause["definite"]),
        _predicate(VERBS[clause["verb"]], clause["verb"], clause),
    ]
    if clause["object"] is not None:
        words.append(_noun_phrase(clause["object"], clause["thing_adjective"], definite=clause["object_definite"]))
    if clause["place"] is not None:
        words.append(PLACES[clause["place"]].english)
    if clause["time"] is not None:
        words.insert(0 if clause["fronted"] else len(words), clause["time"])
    return " ".join(words)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def source(facts: Mapping[str, Any]) -> str:
    """The English sentence (or two short ones) that the facts stand for."""
    clauses = facts["clauses"]
    texts = [_clause(clause) for clause in clauses]
    if facts["layout"] in ("single", "two"):
        return " ".join(_sentence(text) for text in texts)
    if facts["second_first"]:
        return _sentence(f"{facts['layout']} {texts[1]}, {texts[0]}")
    return _sentence(f"{texts[0]} {facts['layout']} {texts[1]}")
