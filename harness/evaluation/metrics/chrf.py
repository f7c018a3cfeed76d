"""Corpus chrF as sacrebleu computes it, from its sentence statistics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import evaluate
import numpy as np
from sacrebleu.metrics import CHRF

from harness.evaluation.module import TextModule
from harness.evaluation.scored import SummedScored, check_texts
from harness.types import Scored

ORDERS = 6
BETA_SQUARED = 4.0


class Chrf(TextModule, evaluate.Metric):  # type: ignore[misc]
    """chrF2, 0-100: character n-grams up to 6, no word n-grams, spaces ignored; an empty output scores 0."""

    columns = ("chrf",)
    description = "Corpus chrF2 with sacrebleu's defaults, 0-100."
    citation = "Popovic 2015, chrF; Post 2018 (arXiv 1804.08771), sacrebleu."

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """chrF of N outputs; of several references, the one with the best sentence chrF counts.

        Args:
            outputs: N texts.
            references: N lists of at least one reference each.
        Returns:
            ``chrf``. Its corpus score equals sacrebleu's ``corpus_chrf``, a per-example value its ``sentence_chrf``.
        """
        check_texts(outputs, references)
        chrf = CHRF()
        rows = chrf._extract_corpus_statistics(list(outputs), list(zip_longest(*references)))
        statistics = np.asarray(rows, dtype=np.float64)
        signature = str(chrf.get_signature())
        return {"chrf": SummedScored("chrf", signature, chrf_of_sums(statistics), statistics, chrf_of_sums)}


def chrf_of_sums(sums: np.ndarray) -> np.ndarray:
    """chrF from summed statistics, for many sums at once.

    Args:
        sums: (K, 18) float: n-grams of the output, of the reference, and matched, for n = 1..6.
    Returns: (K,) float, 0-100: F2 of precision and recall, each averaged over the orders that both sides have.
    Source: Popovic 2015, eq. 1.
    """
    outputs, references, matched = np.moveaxis(sums.reshape(len(sums), ORDERS, 3), 2, 0)
    both = (outputs > 0) & (references > 0)
    orders = np.maximum(both.sum(axis=1), 1)
    precision = np.divide(matched, outputs, where=both, out=np.zeros_like(matched)).sum(axis=1) / orders
    recall = np.divide(matched, references, where=both, out=np.zeros_like(matched)).sum(axis=1) / orders
    denominator = BETA_SQUARED * precision + recall
    numerator = 100.0 * (1.0 + BETA_SQUARED) * precision * recall
    return np.asarray(np.divide(numerator, denominator, where=denominator > 0, out=np.zeros_like(numerator)))
