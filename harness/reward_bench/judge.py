"""A generative judge behind an endpoint as the examined reward model: asked which of two answers is better, twice.

A judge that sees two answers may prefer a place to an answer (Zheng et al. 2023, arXiv 2306.05685, section 3.3): each
pair is put to it in both orders, and a verdict is the mean of both votes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.api.cache import AnswerCache
from harness.api.client import Client
from harness.api.endpoint import Endpoint
from harness.api.request import with_options
from harness.errors import RunFailed
from harness.reward_bench.config import ScorerConfig
from harness.reward_bench.verdicts import Verdicts
from harness.types import PairExample, Task

WORDING_VERSION = 2
"""Bumped when the wording below or the reading of answers changes."""
WORDING = """Two answers to the same prompt are given below. Decide which one is better. {criterion}

=== Prompt ===
{prompt}

=== Answer A ===
{first}

=== Answer B ===
{second}

=== End ===
Reply with one letter and nothing else: A if answer A is better, B if answer B is better, C if neither is."""
VOTES = {"A": 1, "B": -1, "C": 0}
"""Letter -> vote for the answer in the first place."""


def judge_identity(scorer: ScorerConfig) -> dict[str, Any]:
    """What of the configuration decides a judge's verdicts."""
    return {
        "kind": scorer.kind,
        "base_url": str(scorer.base_url).rstrip("/"),
        "name": scorer.name,
        "protocol": scorer.api.protocol,
        "system": scorer.api.system,
        "options": dict(scorer.api.options),
        "criterion": scorer.criterion,
        "answer_tokens": scorer.answer_tokens,
        "wording": WORDING_VERSION,
    }


def scorer_endpoint(scorer: ScorerConfig) -> Endpoint:
    """Where the judge is asked."""
    return Endpoint(str(scorer.base_url), str(scorer.name), scorer.api, group="scorer")


class PairJudge:
    """Asks for a verdict on each pair in both orders; one that never gives any is a failure, not a row at 50 %.

    Args:
        scorer: the judge, its criterion, and how it is asked.
        task: whose wording the prompts have.
        cache: the folder where answers are kept.
    """

    def __init__(self, scorer: ScorerConfig, task: Task, cache: Path) -> None:
        self.scorer, self.task = scorer, task
        self.client = Client(scorer_endpoint(scorer), AnswerCache(cache))

    def judge(self, pairs: Sequence[PairExample], advance: Callable[[int], None]) -> Verdicts:
        """The verdict on every pair, from a vote on each order of its answers.

        Raises:
            UserError, RunFailed: the endpoint refuses or fails; or no answer names A, B or C.
        """
        bodies = [self.body(pair, pair.chosen, pair.rejected) for pair in pairs]
        bodies += [self.body(pair, pair.rejected, pair.chosen) for pair in pairs]
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            advance((done + count) // 2 - done // 2)
            done += count

        replies = self.client.ask(bodies, tell)
        letters = [read_verdict(reply.text) for reply in replies]
        if not any(letters):
            raise RunFailed(f"{self.scorer.name} named A, B or C in no answer; the first is {replies[0].text[:80]!r}")
        firsts = np.array([0 if letter is None else VOTES[letter] for letter in letters])
        chosen_first, rejected_first = firsts[: len(pairs)], firsts[len(pairs) :]
        facts = {
            "first_preferred": float(50 + 50 * firsts.mean()),
            "ties": sum(letter == "C" for letter in letters),
            "no_verdict": {
                "count": sum(letter is None for letter in letters),
                "shown": [reply.text[:80] for reply, letter in zip(replies, letters, strict=True) if letter is None][
                    :5
                ],
            },
            "usage": asdict(self.client.usage),
        }
        flips = chosen_first * -rejected_first == -1
        return Verdicts((chosen_first - rejected_first) / 2, None, flips, facts)

    def body(self, pair: PairExample, first: str, second: str) -> dict[str, Any]:
        """The request about a pair in one order."""
        text = WORDING.format(
            criterion=self.scorer.criterion, prompt=self.task.prompt(pair.fields), first=first, second=second
        )
        said: dict[str, Any] = {"prompt": f"{text}\n\nLetter:"}
        if self.scorer.api.protocol == "chat":
            system = [] if self.scorer.api.system is None else [{"role": "system", "content": self.scorer.api.system}]
            said = {"messages": [*system, {"role": "user", "content": text}]}
        limits = {"max_tokens": self.scorer.answer_tokens, "temperature": 0.0}
        return with_options({"model": self.scorer.name, **said, **limits}, self.scorer.api)


_ALONE = re.compile(r"[\W_]*(?:answer|response|verdict|choice|winner|letter)?[\W_]*([ABC])[\W_]*", re.IGNORECASE)
_LINE = re.compile(r"\s*([ABC])[\s.:,;!]*")
_OPENING = re.compile(r"\s*([ABC])\s*(?:[.:;–—]|-\s|,?\s*(?:because|since)\b)")
_MARKUP = re.compile(r"[*_`#\[\](){}]+|(?<!\w)[\"'“”‘’]+|[\"'“”‘’]+(?!\w)")
# What else may stand before the noun ("worse", "longer") turns the sentence around.
_CALLED = re.compile(
    r"(?:^|[.:;,!?\n]|\b(?i:the|my|so|thus|hence|therefore|better|best|final|preferred|correct|right|winning|overall)\s)"
    r"\s*(?i:answer|response|verdict|choice|winner|letter)\s*(?:\b(?i:is)\b\s*:?|:)\s*(?:(?i:answer|response)\s+)?"
    r"([ABC])\b"
)
_SURE = r"(?:(?i:clearly|slightly|definitely|significantly|much|far|the)\s+)*"
_BETTER = re.compile(rf"\b([ABC])\s+(?i:is)\s+{_SURE}(?i:better|best|winner)\b")
_BEATEN = re.compile(
    r"\b(?i:than|over)\s+(?:(?i:the)\s+)?(?:(?i:answer|response)\s+)?[ABC]\b"
    rf"|\b[ABC]\s+(?i:is)\s+{_SURE}(?i:worse|worst)\b"
)
"""Where a letter is only what another one is better than."""
_TURNED_BEFORE = re.compile(
    r"\b(?:not|never|no|neither|nor|cannot|hardly|less|least|unless|if|whether|wrong|worse|worst|doubt|unclear|although"
    r"|though|while|might|may|could|would)\b|n[’']t\b",
    re.IGNORECASE,
)
_TURNED_AFTER = re.compile(r"\?|\b(?:but|however|although|though|except|unless|if)\b", re.IGNORECASE)


def read_verdict(text: str) -> str | None:
    """The letter that an answer settles on, or None where it settles on none.

    A letter alone, with or without a word such as "Answer" and marks around it; else the last line or the first, if it
    is such a letter; else the one that the text opens with, its reason behind it, calls its answer, verdict, choice or
    winner, or says is better. What an answer is like ("answer B is rude") is no verdict. A text that names several, a
    first line that the rest takes back, a sentence that is turned around, and another letter that is more than what
    the named one is better than, leave doubt: None.

    >>> [read_verdict(text) for text in ("A", "**B**.", "Answer: c", "A good reply.", "The better answer is B.")]
    ['A', 'B', 'C', None, 'B']
    >>> [read_verdict(text) for text in ("A is better than answer B.", "Clearly, answer B is worse.", "A beats B.")]
    ['A', None, None]
    """
    if match := _ALONE.fullmatch(text):
        return match.group(1).upper()
    said = _MARKUP.sub(" ", text).strip()
    lines = said.splitlines() or [""]
    first, last = (match.group(1) if (match := _LINE.fullmatch(lines[row])) else None for row in (0, -1))
    if last is not None:
        return last if first in (None, last) else None
    if first is not None:
        return first if _named("\n".join(lines[1:])) <= {first} else None
    named = _named(said)
    if match := _OPENING.match(said):
        named.add(match.group(1))
    letter = named.pop() if len(named) == 1 else None
    others = set(re.findall(r"\b[ABC]\b", _BEATEN.sub(" ", said))) - {letter}
    return None if others else letter


def _named(text: str) -> set[str | None]:
    """The letters that sentences name as the verdict; None among them for a sentence that is turned around."""
    found: set[str | None] = set()
    for sentence in re.findall(r"[^.!?\n]+[.!?\n]?", text):
        for match in (*_CALLED.finditer(sentence), *_BETTER.finditer(sentence)):
            before, after = sentence[: match.start(1)], sentence[match.end(1) :]
            turned = _TURNED_BEFORE.search(before) or _TURNED_AFTER.search(after)
            found.add(None if turned else match.group(1))
    return found
