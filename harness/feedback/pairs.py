"""From sampled responses to labelled preference pairs."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from harness.errors import RunFailed
from harness.feedback.annotators import Annotator, Verdict
from harness.training.preferences import TokenPair
from harness.types import Example

WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
SPARE = 1.3
"""Comparisons sampled at a time, as a multiple of the pairs still wanted: some will turn out uninformative."""


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One labelled comparison.

    Args:
        id: of the example.
        prompt: as the model saw it.
        chosen, rejected: the texts.
        chosen_tokens, rejected_tokens: response ids in the tokenizer of the model that is to learn from them.
        prompt_tokens: likewise.
        agrees: 1 where the annotator's unbiased utility agrees with the label, 0 where not, 0.5 where it is equal;
            None where none is known.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    prompt_tokens: list[int]
    chosen_tokens: list[int]
    rejected_tokens: list[int]
    agrees: float | None = None

    def tokens(self) -> TokenPair:
        return TokenPair(self.prompt_tokens, self.chosen_tokens, self.rejected_tokens)


FIELDS = tuple(field.name for field in fields(LabelledPair))


class Candidates(NamedTuple):
    """Two responses to each of M prompts: texts and tokens."""

    texts: list[tuple[str, str]]
    tokens: list[tuple[list[int], list[int]]]


class Collected(NamedTuple):
    """Pairs, and how many comparisons were dropped for equal tokens and for equal label value."""

    pairs: list[LabelledPair]
    equal_tokens: int
    equal_value: int

    def counts(self) -> dict[str, int]:
        return {"pairs": len(self.pairs), "equal_tokens": self.equal_tokens, "equal_value": self.equal_value}


def collect_pairs(
    examples: Sequence[Example],
    prompts: Sequence[str],
    prompt_tokens: Sequence[list[int]],
    *,
    respond: Callable[[list[int], int], Candidates],
    annotator: Annotator,
    rng: Random,
    per_prompt: int,
    max_pairs: int,
    attempts: int,
    advance: Callable[[int], None] | None = None,
) -> Collected:
    """Sample two responses at a time, drop uninformative comparisons and try those again, label the rest.

    Args:
        examples, prompts, prompt_tokens: N of each.
        respond: (row numbers, attempt) -> two responses to each of those rows.
        annotator: who labels.
        rng: of the labels and of the order in which prompts are taken.
        per_prompt: comparisons per prompt.
        max_pairs: enough pairs.
        attempts: rounds of sampling at most.
        advance: told after each round how many pairs it gave.
    """
    slots = [row for _ in range(per_prompt) for row in rng.sample(range(len(examples)), len(examples))]
    pairs: list[LabelledPair] = []
    equal_tokens = equal_value = 0
    for attempt in range(attempts):
        needed = math.ceil(SPARE * (max_pairs - len(pairs)))
        now, later = slots[:needed], slots[needed:]
        if not now:
            break
        again: list[int] = []
        before = len(pairs)
        candidates = respond(now, attempt)
        for row, texts, tokens in zip(now, candidates.texts, candidates.tokens, strict=True):
            if len(pairs) == max_pairs:
                break
            if tokens[0] == tokens[1]:
                equal_tokens += 1
                again.append(row)
                continue
            first, second = annotator.utility(examples[row], texts)
            if annotator.ties(texts, (first, second)):
                equal_value += 1
                again.append(row)
                continue
            verdict = annotator.judge(texts, (first, second), rng)
            pairs.append(_labelled(examples[row].id, prompts[row], prompt_tokens[row], texts, tokens, verdict))
        if advance is not None:
            advance(len(pairs) - before)
        slots = later + again
    return Collected(pairs, equal_tokens, equal_value)


def _labelled(
    id: str,
    prompt: str,
    prompt_tokens: list[int],
    texts: tuple[str, str],
    tokens: tuple[list[int], list[int]],
    verdict: Verdict,
) -> LabelledPair:
    best, worst = (0, 1) if verdict.first_preferred else (1, 0)
    return LabelledPair(
        id=id,
        prompt=prompt,
        chosen=texts[best],
        rejected=texts[worst],
        prompt_tokens=prompt_tokens,
        chosen_tokens=tokens[best],
        rejected_tokens=tokens[worst],
        agrees=verdict.agrees_with_utility,
    )


def balanced_by_length(pairs: Sequence[LabelledPair], rng: Random) -> list[LabelledPair]:
    """As many pairs whose chosen response is k words the longer as such where it is k words the shorter, for every k.

    A punctuation mark counts as a word, about as in BLEU: else leaving commas out would be a way to be shorter. What is
    too many is left out at random, the others keep their order: length alone then tells nothing of a pair.
    Source: Singhal et al. 2023 (arXiv 2310.03716), who balance a reward model's data so.
    """
    by_lead: dict[int, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_lead[_words(pair.chosen) - _words(pair.rejected)].append(index)
    kept: list[int] = []
    for lead, indices in sorted(by_lead.items()):
        kept += rng.sample(indices, min(len(indices), len(by_lead.get(-lead, ()))))
    return [pairs[index] for index in sorted(kept)]


def _words(text: str) -> int:
    return len(WORD_OR_MARK.findall(text))


def require_pairs(count: int, minimum: int, key: str) -> None:
    """Raise RunFailed where there are fewer informative pairs than ``key`` asks for."""
    if count < minimum:
        raise RunFailed(f"too few informative pairs ({count} of {key}={minimum})")


def examinable(held_out: Sequence[LabelledPair]) -> bool:
    """Whether an interval can be given for these pairs: it resamples prompts, so it takes two of them."""
    return len({pair.prompt for pair in held_out}) > 1


def write_pairs(path: Path, pairs: Sequence[LabelledPair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps({name: getattr(pair, name) for name in FIELDS}, ensure_ascii=False) + "\n")


def read_pairs(path: Path) -> list[LabelledPair]:
    with path.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    return [LabelledPair(**row) for row in rows]
