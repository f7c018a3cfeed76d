"""From sampled responses to labelled preference pairs."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from harness.errors import RunFailed
from harness.feedback.annotators import Annotator, Verdict
from harness.models.codec import Codec
from harness.rollouts.sampler import Rollout
from harness.training.preferences import TokenPair
from harness.types import Example

Value = TypeVar("Value")
WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
INFORMATIVE = 0.8
"""The share of comparisons that is expected to tell something, until the first have been made."""
LEAST_INFORMATIVE = 0.1
"""A share below it is not reckoned with: so many comparisons for one pair are more than a round should have."""
MATCHINGS = {1: (((0, 1),),), 2: (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))}
"""By the number of comparisons: how the responses to one prompt can be compared, each of them once."""


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
    """Two responses for each comparison, to each of M prompts: texts and tokens."""

    texts: list[tuple[str, ...]]
    tokens: list[tuple[list[int], ...]]


def candidates(texts: Sequence[str], tokens: Sequence[list[int]], count: int) -> Candidates:
    """Of responses in a row, ``count`` to each prompt."""
    starts = range(0, len(texts), count)
    return Candidates(*([tuple(each[start : start + count]) for start in starts] for each in (texts, tokens)))  # type: ignore[arg-type]


def sampled_candidates(rollout: Rollout, codec: Codec, count: int) -> Candidates:
    """Of sampled responses in a row, ``count`` to each prompt, each with EOS for whatever ended it."""
    tokens = list(map(codec.closed, rollout.tokens))
    return candidates(codec.decode(tokens), tokens, count)


class Collected(NamedTuple):
    """Pairs, how many comparisons were dropped for equal tokens and for equal label value, and the shares of cuts."""

    pairs: list[LabelledPair]
    equal_tokens: int
    equal_value: int
    cuts: Mapping[str, float] = MappingProxyType({})

    def counts(self) -> dict[str, int]:
        return {"pairs": len(self.pairs), "equal_tokens": self.equal_tokens, "equal_value": self.equal_value}


def collect_pairs(
    examples: Sequence[Example],
    prompts: Sequence[str],
    prompt_tokens: Sequence[list[int]],
    *,
    respond: Callable[[list[int], int, int], Candidates],
    annotator: Annotator,
    rng: Random,
    per_prompt: int,
    max_pairs: int,
    attempts: int,
    at_once: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Collected:
    """Sample responses, drop uninformative comparisons and try those again, label the rest.

    Where two comparisons are made of four responses, these are matched so that as many as can be are informative.

    Args:
        examples, prompts, prompt_tokens: N of each.
        respond: (row numbers, attempt, comparisons) -> two responses for each comparison, to each of those rows.
        annotator: who labels.
        rng: of the labels and of the order in which prompts are taken.
        per_prompt: comparisons per prompt.
        max_pairs: enough pairs.
        attempts: rounds of sampling at most.
        at_once: comparisons of one prompt in a round, 1 or 2.
        advance: told after each round how many pairs it gave.
    """
    left = _slots(len(examples), per_prompt, at_once, rng)
    pairs: list[LabelledPair] = []
    equal_tokens = equal_value = 0
    for attempt in range(attempts):
        before, tried = len(pairs), len(pairs) + equal_tokens + equal_value
        share = max(before / tried, LEAST_INFORMATIVE) if tried else INFORMATIVE
        now, left = _first(left, math.ceil((max_pairs - before) / share))
        if not now:
            break
        for size in sorted({size for _, size in now}, reverse=True):
            rows = [row for row, wanted in now if wanted == size]
            if len(pairs) >= max_pairs:
                break
            for row, texts, tokens in zip(rows, *respond(rows, attempt, size), strict=True):
                if len(pairs) >= max_pairs:
                    break
                compared = _compared(annotator, examples[row], texts, tokens)
                for pair, utilities in compared.informative:
                    verdict = annotator.judge(_two(texts, pair), utilities, rng)
                    given = prompts[row], prompt_tokens[row], _two(texts, pair), _two(tokens, pair), verdict
                    pairs.append(_labelled(examples[row].id, *given))
                equal_tokens, equal_value = equal_tokens + compared.equal_tokens, equal_value + compared.equal_value
                if missing := compared.equal_tokens + compared.equal_value:
                    left.append((row, missing))
        del pairs[max_pairs:]
        if advance is not None:
            advance(len(pairs) - before)
    return Collected(pairs, equal_tokens, equal_value)


def _slots(rows: int, per_prompt: int, at_once: int, rng: Random) -> list[tuple[int, int]]:
    """Row numbers, each with how many comparisons to make of it at once; every row comes once before any twice."""
    sizes = [at_once] * (per_prompt // at_once) + ([per_prompt % at_once] if per_prompt % at_once else [])
    return [(row, size) for size in sizes for row in rng.sample(range(rows), rows)]


def _first(slots: list[tuple[int, int]], comparisons: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The first slots that come to so many comparisons, or all; and the others."""
    before = accumulate((size for _, size in slots), initial=0)
    count = next((index for index, total in enumerate(before) if total >= comparisons), len(slots))
    return slots[:count], slots[count:]


class _Compared(NamedTuple):
    """One prompt's comparisons: those that tell something, with the utilities of both responses, and the others."""

    informative: list[tuple[tuple[int, int], tuple[float, float]]]
    equal_tokens: int
    equal_value: int


def _compared(annotator: Annotator, example: Example, texts: Sequence[str], tokens: Sequence[list[int]]) -> _Compared:
    """The responses to one prompt in the first of the matchings of which most comparisons are informative."""
    utilities = annotator.utility(example, texts)

    def compare(matching: Sequence[tuple[int, int]]) -> _Compared:
        different = [pair for pair in matching if tokens[pair[0]] != tokens[pair[1]]]
        worths = [(pair, _two(utilities, pair)) for pair in different]
        informative = [(pair, worth) for pair, worth in worths if not annotator.ties(_two(texts, pair), worth)]
        return _Compared(informative, len(matching) - len(different), len(different) - len(informative))

    return max(map(compare, MATCHINGS[len(texts) // 2]), key=lambda compared: len(compared.informative))


def _two(values: Sequence[Value], pair: tuple[int, int]) -> tuple[Value, Value]:
    return values[pair[0]], values[pair[1]]


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
    """Write one line per pair, with ``FIELDS``."""
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps({name: getattr(pair, name) for name in FIELDS}, ensure_ascii=False) + "\n")


def read_pairs(path: Path) -> list[LabelledPair]:
    """What `write_pairs` wrote."""
    with path.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    return [LabelledPair(**row) for row in rows]
