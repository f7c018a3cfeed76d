"""The customer service world: dialogues with slots, manners and requests that a rule forbids."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from harness.data.mixtures import mixture_of
from harness.tasks.worlds import service_words as words
from harness.tasks.worlds.service_phrases import realise
from harness.tasks.worlds.service_reading import Reader, Reading
from harness.types import Demonstration, Draw

REFUSAL_SHARE, REMARK_SHARE = 0.4, 0.5
TOKEN_LIMIT = 30
"""Words and punctuation marks that an answer may have at no loss; no valid realisation is longer."""


class Service:
    """Eight desks answer customers who book, collect, complain, or ask for what a rule forbids.

    Two in five requests break a rule that the customer's own words show ("Sadly, I lost the receipt"). A good answer
    thanks (or apologises, after a complaint or with a refusal) by name, grants with item and day or declines with item
    and reason, and adds a next step of that desk or an alternative that fits the rule.

    Styles of the demonstrations: ``good``; ``curt``, the most frequent: right and without manners or next step;
    ``vague``: polite, no act and no slot; ``overpromise``: grants everything, and for free; ``rambling``: polite
    and right between two sentences about the house, no next step.

    Measured with an earlier mixture (25 % good, 39 % curt, 12 % vague) and wording, 0.48 M parameters, 700 x 64: the
    greedy SFT policy is curt throughout (gold 2.48 of 4, every item and day or reason right); sampled at temperature
    0.7: 2.40, half of the answers curt, 97 % of items right; correlation of gold with BLEU 0.69. Names were not
    yet copied there; customers have signed at the end of the prompt since, which was not measured.

    Args:
        mixture: style name -> probability, in place of the default; styles left out are not drawn.
    """

    name = "service"
    version = 2
    part_maxima: Mapping[str, float] = {"faithful": 1.0, "polite": 0.75, "helpful": 0.75, "policy": 1.0, "fluent": 0.5}
    max_references = 100
    """A third of what the request with the fewest has, so that drawing finds them soon."""
    default_mixture: Mapping[str, float] = {
        "good": 0.30,
        "curt": 0.36,
        "vague": 0.10,
        "overpromise": 0.14,
        "rambling": 0.10,
    }

    def __init__(self, mixture: Mapping[str, float] | None = None) -> None:
        self.mixture: Mapping[str, float] = mixture_of(mixture, self.default_mixture)
        self._reader = Reader()
        self._items = frozenset(words.ITEMS)
        self._days = frozenset(day.lower() for day in words.DAYS)
        self._names = frozenset(name.lower() for name in words.NAMES)

    def draw(self, rng: Random) -> Draw:
        """A dialogue of one or three turns, and what the customer wants."""
        desk_key = rng.choice(list(words.DESKS))
        desk = words.DESKS[desk_key]
        rule = rng.choice(desk.rules) if rng.random() < REFUSAL_SHARE else ""
        facts = {
            "desk": desk_key,
            "act": "" if rule else rng.choice(desk.acts),
            "rule": rule,
            "name": rng.choice(words.NAMES),
            "item": rng.choice(desk.items),
            "day": rng.choice(words.DAYS),
        }
        slots = {
            **facts,
            "title": desk.title,
            "hello": rng.choice(words.HELLOS),
            "place": rng.choice(words.PLACES),
            "codeword": rng.choice(words.CODEWORDS),
            "relative": rng.choice(words.RELATIVES),
        }
        requests = words.RULES[rule].requests if rule else words.ACTS[facts["act"]].requests
        sentences = [realise(rng.choice(requests), slots, rng)]
        if rng.random() < REMARK_SHARE:
            sentences.append(realise(rng.choice(_remarks(facts)), slots, rng))
        message = " ".join((*sentences, realise(rng.choice(words.SIGNATURES), slots, rng)))
        if rng.random() < 0.5:
            return Draw({"turns": [f"{slots['hello']}. {message}"]}, facts)
        lead_in = realise(rng.choice(words.LEAD_INS), slots, rng)
        agent = realise(rng.choice(words.AGENT_OPENINGS), slots, rng)
        return Draw({"turns": [f"{slots['hello']}. {lead_in}", agent, message]}, facts)

    def demonstrate(self, facts: Mapping[str, Any], rng: Random) -> Demonstration:
        """A response in a style drawn from the mixture."""
        style = rng.choices(list(self.mixture), weights=list(self.mixture.values()))[0]
        return Demonstration(self.respond(facts, style, rng), style)

    def references(self, facts: Mapping[str, Any], rng: Random, count: int) -> list[str]:
        """``count`` distinct valid realisations.

        Raises:
            ValueError: more are asked for than every request has.
        """
        if count > self.max_references:
            raise ValueError(f"at most {self.max_references} references, not {count}")
        found: list[str] = []
        while len(found) < count:
            response = _good(facts, rng)
            if response not in found:
                found.append(response)
        return found

    def respond(self, facts: Mapping[str, Any], style: str, rng: Random) -> str:
        """A response in the style named."""
        composers = {
            "good": _good,
            "curt": _curt,
            "vague": _vague,
            "overpromise": _overpromise,
            "rambling": _rambling,
        }
        return composers[style](facts, rng)

    def gold_parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]:
        """What the response earns for each part, from the facts alone.

        Each clause is recognised or counts as a flaw, so words out of a sentence earn nothing; naming another item,
        day, name or reason beside the right one earns as little as naming none; what speaks against the decision costs
        ``policy``. Beyond ``TOKEN_LIMIT`` tokens all parts shrink with the length.
        """
        reading = self._reader.read(response)
        item_named = self._item_named(facts, reading)
        parts = {
            "faithful": 0.5 * item_named + 0.5 * self._second_slot_named(facts, reading),
            "polite": self._politeness(facts, reading),
            "helpful": _helpfulness(facts, reading),
            "policy": _policy(facts, reading) * (1.0 if item_named or reading.of("vague") else 0.5),
            "fluent": _fluency(reading),
        }
        brevity = min(1.0, TOKEN_LIMIT / max(reading.tokens, 1))
        return {part: self.part_maxima[part] * share * brevity for part, share in parts.items()}

    def _item_named(self, facts: Mapping[str, Any], reading: Reading) -> bool:
        named = any(clause.item == facts["item"] for clause in reading.clauses)
        return named and reading.words & self._items == {facts["item"]}

    def _second_slot_named(self, facts: Mapping[str, Any], reading: Reading) -> bool:
        """The day of what is granted; the reason of what is declined."""
        days = reading.words & self._days
        if facts["rule"]:
            return {clause.key for clause in reading.of("refusal")} == {facts["rule"]} and days <= {
                facts["day"].lower()
            }
        named = any(clause.day == facts["day"].lower() for clause in reading.of("grant"))
        return named and days == {facts["day"].lower()}

    def _politeness(self, facts: Mapping[str, Any], reading: Reading) -> float:
        """Two thirds for thanks or apology as the situation asks, one third for the customer's name."""
        apologised = bool(reading.of("apology"))
        if _asks_apology(facts):
            manners = float(apologised)
        else:
            manners = float(bool(reading.of("thanks"))) * (0.5 if apologised else 1.0)
        name = facts["name"].lower()
        called = name in reading.called and not reading.surplus_calls and reading.words & self._names == {name}
        return (2 * manners + called) / 3


def _asks_apology(facts: Mapping[str, Any]) -> bool:
    return bool(facts["rule"]) or facts["act"] in words.COMPLAINTS


def _helpfulness(facts: Mapping[str, Any], reading: Reading) -> float:
    """1 where the next step fits desk and act (the alternative the rule), half credit for one that fits another."""
    if facts["rule"]:
        fits = [clause.key == facts["rule"] for clause in reading.of("alternative")]
    else:
        own = "refund" if facts["act"] == "refund" else facts["desk"]
        fits = [clause.key in ("any", own) for clause in reading.of("step")]
    if not fits:
        return 0.0
    return 1.0 if all(fits) else 0.5 / len(fits)


def _policy(facts: Mapping[str, Any], reading: Reading) -> float:
    """1 for granting or declining as the rules ask; a quarter for leaving it open, a half for the wrong act or for
    promising more than was asked; 0 for the contrary, for both at once and for neither. Half of it is lost where the
    rest of the answer speaks against it, and all where money is promised beside a refusal.
    """
    clear = 0.5 if _contradictory(reading) else 1.0
    refused = bool(reading.of("refusal"))
    granted = {clause.key for clause in reading.of("grant")}
    promised = bool(reading.of("promise") or reading.of("free"))
    if refused and (granted or promised):
        return 0.0
    if refused or granted or promised:
        if facts["rule"]:
            money = any(clause.key == "refund" for clause in reading.of("step"))
            return clear * refused * (not money)
        if not granted:
            return 0.0
        return clear * (1.0 if granted == {facts["act"]} else 0.5) * (0.5 if promised else 1.0)
    return 0.25 if reading.of("vague") else 0.0


def _contradictory(reading: Reading) -> bool:
    """A decision in doubt: vague words beside it, a next step after a refusal, an alternative after a grant."""
    refused, granted = bool(reading.of("refusal")), bool(reading.of("grant"))
    beside = reading.of("step") if refused else reading.of("alternative") if granted else []
    return reading.contradicted or bool(beside) or bool((refused or granted) and reading.of("vague"))


def _fluency(reading: Reading) -> float:
    """1 for an answer with no flaw, a half with one; nothing where the request is not answered at all."""
    answered = any(reading.of(kind) for kind in ("grant", "refusal", "promise", "vague"))
    return max(0.0, 1.0 - 0.5 * reading.flaws) if answered else 0.0


def _remarks(facts: Mapping[str, Any]) -> tuple[str, ...]:
    if facts["rule"]:
        return (*words.CODEWORD_REMARKS, *words.DAY_REMARKS)
    about = words.BOOKING_REMARKS if "book" in words.DESKS[facts["desk"]].acts else words.GOODS_REMARKS
    return (*words.CODEWORD_REMARKS, *about)


def _pick(phrases: tuple[str, ...], facts: Mapping[str, Any], rng: Random) -> str:
    return realise(rng.choice(phrases), facts, rng)


def _opening(facts: Mapping[str, Any], rng: Random) -> str:
    manners = _pick(words.APOLOGIES if _asks_apology(facts) else words.THANKS, facts, rng)
    return f"{manners}, {facts['name']}"


def _core(facts: Mapping[str, Any], rng: Random) -> str:
    if facts["rule"]:
        return _pick(words.RULES[facts["rule"]].refusals, facts, rng)
    return _pick(words.ACTS[facts["act"]].answers, facts, rng)


def _next_step(facts: Mapping[str, Any], rng: Random) -> str:
    if facts["rule"]:
        return _pick(words.RULES[facts["rule"]].alternatives, facts, rng)
    own = words.REFUND_STEPS if facts["act"] == "refund" else words.DESKS[facts["desk"]].steps
    return _pick((*words.STEPS, *own), facts, rng)


def _good(facts: Mapping[str, Any], rng: Random) -> str:
    core, step = _core(facts, rng), _next_step(facts, rng)
    order = rng.random()
    if order < 0.25:
        closing = _pick(words.CLOSING_APOLOGIES if _asks_apology(facts) else words.CLOSING_THANKS, facts, rng)
        return f"{core}, {facts['name']}. {step}. {closing}."
    opening = _opening(facts, rng)
    if facts["rule"] and order < 0.5:
        return f"{opening}, but {core[0].lower()}{core[1:]}. {step}."
    return f"{opening}. {core}. {step}."


def _curt(facts: Mapping[str, Any], rng: Random) -> str:
    core = _core(facts, rng)
    return f"{'No' if facts['rule'] else 'Fine'}, {core[0].lower()}{core[1:]}."


def _vague(facts: Mapping[str, Any], rng: Random) -> str:
    vague = _pick(words.VAGUE_REFUSALS if facts["rule"] else words.VAGUE_GRANTS, facts, rng)
    return f"{_opening(facts, rng)}. {vague}. {_pick(words.WISHES, facts, rng)}."


def _overpromise(facts: Mapping[str, Any], rng: Random) -> str:
    opening = f"{_pick(words.THANKS, facts, rng)}, {facts['name']}"
    core = _pick(words.RULES[facts["rule"]].promises, facts, rng) if facts["rule"] else _core(facts, rng)
    return f"{opening}. {core}. {_pick(words.FREE_PROMISES, facts, rng)}."


def _rambling(facts: Mapping[str, Any], rng: Random) -> str:
    before, after = rng.sample(words.FILLERS, 2)
    fillers = [realise(filler, facts, rng) for filler in (before, after)]
    return f"{_opening(facts, rng)}. {fillers[0]}. {_core(facts, rng)}. {fillers[1]}."
