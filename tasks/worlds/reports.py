"""The controlled world of summaries: short local-news reports with asides, to be told in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from harness.data.mixtures import mixture_of
from harness.tasks.worlds import reports_language as language
from harness.tasks.worlds.reports_gold import PART_MAXIMA, ReportGold
from harness.types import Demonstration, Draw

MIXTURE: Mapping[str, float] = {"good": 0.25, "dropped": 0.40, "lead": 0.18, "verbose": 0.17}


class Reports:
    """Reports of an event (what, where, when, what follows) among sentences about something else, and their summaries.

    Demonstrations are drawn from a mixture of styles:

    - ``good`` (25 %): all facts in one or two sentences.
    - ``dropped`` (40 %): leaves out what follows, and with probability ``undated_share`` also the day.
    - ``lead`` (18 %): the report's first sentence, copied; it never tells what follows.
    - ``verbose`` (17 %): all facts, and then one of the report's asides.

    What these earn on average, of 4: 4.0, 2.2, 2.1 and 3.1. Measured, before ``faithful`` counted false asides,
    on a GPT-2 of 2 layers, width 128, word tokens,
    700 steps of 64: greedy gold 2.36 (59 %), nearly all of it ``dropped`` or ``lead``; sampled at temperature 1 2.71;
    facts stated rightly 100 % greedy, 98 % sampled; correlation of gold with sentence BLEU .57 greedy, .67 sampled. A
    reward model of the same size from 7,600 pairs of such samples: 70.9 % of held-out labels, the gold oracle 72.9 %.

    Args:
        mixture: style -> probability, in the place of ``MIXTURE``; styles left out are not drawn.
        undated_share: of the ``dropped`` demonstrations, the share that leaves out the day too.
        second_aside_share: of the reports whose first sentence leaves a fact to a later one, the share with two asides.

    Raises:
        UserError: the mixture names another style, or does not sum to 1.
    """

    name = "reports"
    version = 2
    part_maxima: Mapping[str, float] = PART_MAXIMA
    max_references = len(language.SUMMARIES)

    def __init__(
        self,
        mixture: Mapping[str, float] | None = None,
        *,
        undated_share: float = 0.5,
        second_aside_share: float = 0.25,
    ) -> None:
        self.mixture: Mapping[str, float] = mixture_of(mixture, MIXTURE)
        self.undated_share = undated_share
        self.second_aside_share = second_aside_share
        self._gold = ReportGold()

    def draw(self, rng: Random) -> Draw:
        """A report, and the facts behind it: meanings by slot, the first sentence, the asides, and its colouring."""
        event = _draw_event(rng)
        left_out = rng.choice(("day", "day", "town", "none"))
        lead = language.fill(rng.choice(language.LEADS[left_out]), event, rng)
        later = [language.fill(rng.choice(language.CONSEQUENCES), event, rng)]
        if left_out != "none":
            later.append(language.fill(rng.choice(language.LATER[left_out]), event, rng))
        aside_count = 2 if left_out == "none" or rng.random() < self.second_aside_share else 1
        asides = [language.fill(template, event, rng) for template in rng.sample(language.ASIDES, aside_count)]
        rest = [*later, *asides]
        rng.shuffle(rest)
        report = " ".join([lead, *rest])
        facts = {**event, "lead": lead, "asides": asides, "colouring": language.colouring_words(report)}
        return Draw({"source": report}, facts)

    def demonstrate(self, facts: Mapping[str, Any], rng: Random) -> Demonstration:
        """A response in a style of the mixture."""
        style = rng.choices(list(self.mixture), weights=list(self.mixture.values()))[0]
        if style == "good":
            response = _good(facts, rng)
        elif style == "dropped":
            events = language.UNDATED_EVENTS if rng.random() < self.undated_share else language.EVENTS
            response = language.fill(rng.choice(events) + ".", facts, rng)
        elif style == "lead":
            response = facts["lead"]
        else:
            response = f"{_good(facts, rng)} {rng.choice(facts['asides'])}"
        return Demonstration(response, style)

    def references(self, facts: Mapping[str, Any], rng: Random, count: int) -> list[str]:
        """``count`` good summaries, all different.

        Raises:
            ValueError: more are asked for than every report has.
        """
        if count > self.max_references:
            raise ValueError(f"at most {self.max_references} references, not {count}")
        found: list[str] = []
        while len(found) < count:
            summary = _good(facts, rng)
            if summary not in found:
                found.append(summary)
        return found

    def gold_parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]:
        """What the response is worth, by part: see ``ReportGold``."""
        return self._gold.parts(facts, response)


def _good(facts: Mapping[str, Any], rng: Random) -> str:
    return language.fill(rng.choice(language.SUMMARIES), facts, rng)


def _draw_event(rng: Random) -> dict[str, str]:
    by_transport = rng.random() < 0.5
    subject = rng.choice(language.TRANSPORT if by_transport else language.GATHERINGS)
    outcomes = language.TRANSPORT_OUTCOMES if by_transport else language.GATHERING_OUTCOMES
    event = {slot: rng.choice(language.MEANINGS[slot])[0] for slot in ("cause", "harm", "site", "town", "day")}
    return {**event, "subject": subject, "outcome": rng.choice(outcomes)[0]}
