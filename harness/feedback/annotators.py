"""Who says which of two responses is better: simulated annotators with a known utility, noise and bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.types import Example, World

Utility = Callable[[Example, Sequence[str]], list[float]]
"""The worth of each of several responses to one example."""


class Verdict(NamedTuple):
    """A label: which response was preferred, and whether the utility alone says the same; 0.5 where it sees a tie."""

    first_preferred: bool
    agrees_with_utility: float


SAME_VALUE = 1e-9
"""Utilities this close are equal: sums of the same parts in another order differ by rounding."""


@dataclass(frozen=True)
class Annotator:
    """A Bradley–Terry annotator: P(first preferred) = sigmoid of the difference in perceived utility.

    Args:
        utility: the unbiased worth of responses.
        temperature: divides utility differences; a larger one makes more random labels.
        indifference: perceived differences up to this size are not noticed: the pair is a tie, and dropped.
        noise: the share of labels that are flipped whatever the difference.
        length_bias: added to the perceived utility for each word of a response, in units of the temperature.

    Source: Bradley and Terry 1952; as a simulated annotator with noise, Gao et al. 2022 (arXiv 2210.10760), section 2.
    """

    utility: Utility
    temperature: float = 1.0
    indifference: float = 0.0
    noise: float = 0.0
    length_bias: float = 0.0

    def perceived(self, responses: tuple[str, str], utilities: tuple[float, float]) -> float:
        """How much better the first response seems: its lead in utility, and what its length adds to that."""
        words = len(responses[0].split()) - len(responses[1].split())
        return utilities[0] - utilities[1] + self.temperature * self.length_bias * words

    def ties(self, responses: tuple[str, str], utilities: tuple[float, float]) -> bool:
        """True where the annotator sees no difference."""
        return abs(self.perceived(responses, utilities)) <= max(SAME_VALUE, self.indifference)

    def judge(self, responses: tuple[str, str], utilities: tuple[float, float], rng: Random) -> Verdict:
        """Draw a label for two responses of the stated utilities."""
        preferred = rng.random() < _sigmoid(self.perceived(responses, utilities) / self.temperature)
        if rng.random() < self.noise:
            preferred = not preferred
        lead = utilities[0] - utilities[1]
        return Verdict(preferred, 0.5 if abs(lead) <= SAME_VALUE else float((lead > 0) == preferred))


def gold_utility(world: World) -> Utility:
    """The controlled world's gold reward, in gold points.

    Raises:
        UserError: ``feedback.kind``, when it is asked about an example without latent facts.
    """

    def utility(example: Example, responses: Sequence[str]) -> list[float]:
        if example.facts is None:
            raise UserError(
                "feedback.kind", "gold", "needs a controlled world", "use feedback=metric or feedback=pairs"
            )
        return [sum(world.gold_parts(example.facts, response).values()) for response in responses]

    return utility


METRIC_POINTS_PER_NAT = 10.0
"""A difference of this many metric points is worth one nat of preference at temperature 1."""


def metric_utility(name: str) -> Utility:
    """A smooth sentence metric against the references, in tens of points; of several, joined by +, the mean.

    Raises:
        UserError: ``feedback.metric`` is none of them.
    """
    metrics = [SMOOTH_METRICS[part]() for part in smooth_metrics(name)]

    def utility(example: Example, responses: Sequence[str]) -> list[float]:
        references = example.references or [example.response]
        points = [[metric(response, references) for metric in metrics] for response in responses]
        return [math.fsum(row) / len(row) / METRIC_POINTS_PER_NAT for row in points]

    return utility


def smooth_metrics(name: str, key: str = "feedback.metric") -> list[str]:
    """The names in ``SMOOTH_METRICS`` that one such as ``bleu`` or ``chrf+gleu`` stands for.

    Raises:
        UserError: one of them is not there; ``key`` says where it was given.
    """
    names = name.split("+")
    if set(names) - set(SMOOTH_METRICS):
        rule = "is no smooth sentence metric that we know"
        raise UserError(key, name, rule, f"choose {', '.join(SMOOTH_METRICS)}, or several joined by +")
    return names


SentenceMetric = Callable[[str, Sequence[str]], float]
"""(response, references) -> 0-100, by the best reference or all of them together, as the metric has it."""


def _sentence_chrf() -> SentenceMetric:
    from sacrebleu.metrics import CHRF

    metric: Any = CHRF()
    return lambda response, references: float(metric.sentence_score(response, list(references)).score)


def _sentence_bleu() -> SentenceMetric:
    """Of its effective order, smoothed: sacrebleu's own advice for single sentences."""
    from sacrebleu.metrics import BLEU

    metric: Any = BLEU(effective_order=True)
    return lambda response, references: float(metric.sentence_score(response, list(references)).score)


def _sentence_gleu() -> SentenceMetric:
    """The smaller of precision and recall of 1- to 4-grams, over sacrebleu's default tokens: neither length pays.

    BLEU of single sentences pays for brevity, chrF, which counts recall twice, for length; a policy that is optimised
    finds both. Source: Wu et al. 2016 (arXiv 1609.08144), section 4.3.
    """
    from nltk.translate.gleu_score import sentence_gleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokens = Tokenizer13a()

    def score(response: str, references: Sequence[str]) -> float:
        return 100.0 * float(sentence_gleu([tokens(each).split() for each in references], tokens(response).split()))

    return score


def _sentence_rouge() -> SentenceMetric:
    from harness.evaluation.metrics.rouge import sentence_rouge

    return sentence_rouge("rougeL")


def _token_f1() -> SentenceMetric:
    from harness.evaluation.metrics.squad import token_f1

    return lambda response, references: 100 * max((token_f1(response, each) for each in references), default=0.0)


SMOOTH_METRICS: dict[str, Callable[[], SentenceMetric]] = {
    "bleu": _sentence_bleu,
    "chrf": _sentence_chrf,
    "f1": _token_f1,
    "gleu": _sentence_gleu,
    "rougeL": _sentence_rouge,
}


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
