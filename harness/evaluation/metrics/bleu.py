"""Corpus BLEU as sacrebleu computes it, from its sentence statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

import evaluate
import numpy as np
from sacrebleu.metrics import BLEU

from harness.evaluation.module import TextModule
from harness.evaluation.scored import SummedScored, check_texts
from harness.types import Scored

ORDERS = 4


class Bleu(TextModule, evaluate.Metric):  # type: ignore[misc]
    """BLEU, 0-100: 13a tokens, mixed case, exponential smoothing; an empty output scores 0."""

    columns = ("bleu",)
    description = "Corpus BLEU with sacrebleu's default tokenisation and smoothing, 0-100."
    citation = "Papineni et al. 2002, BLEU; Post 2018 (arXiv 1804.08771), sacrebleu."

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """BLEU of N outputs; several references per output are merged by n-gram maximum and closest length.

        Args:
            outputs: N texts.
            references: N lists of at least one reference each.
        Returns:
            ``bleu``. Its corpus score equals sacrebleu's ``corpus_bleu``; a per-example value is sentence BLEU with
            effective order (a sentence of three tokens has no 4-gram and would score 0 whatever it says).
        """
        check_texts(outputs, references)
        bleu = BLEU()
        # sacrebleu wants one stream per reference position, None where an example has fewer
        rows = bleu._extract_corpus_statistics(list(outputs), list(zip_longest(*references)))
        statistics = np.asarray(rows, dtype=np.float64)
        formula = partial(bleu_of_sums, effective_order=False)
        per_example = bleu_of_sums(statistics, effective_order=True)
        return {"bleu": SummedScored("bleu", str(bleu.get_signature()), per_example, statistics, formula)}


def bleu_of_sums(sums: np.ndarray, *, effective_order: bool) -> np.ndarray:
    """BLEU from summed statistics, for many sums at once.

    Args:
        sums: (K, 10) float: output length, closest reference length, matched and total n-grams for n = 1..4.
        effective_order: True: the geometric mean stops at the longest n-gram that the outputs have.
    Returns: (K,) float, 0-100.
    Source: Papineni et al. 2002; smoothing of zero counts 1/2, 1/4, ... by Chen and Cherry 2014, method 3.
    """
    output_length, reference_length = sums[:, 0], sums[:, 1]
    matched, total = sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS :]
    halvings = np.cumsum((matched == 0) & (total > 0), axis=1)
    counted = np.where(matched > 0, matched, 0.5**halvings)
    has_order = total > 0
    log_precision = np.log(counted / np.where(has_order, total, 1.0), where=has_order, out=np.zeros_like(counted))
    orders = has_order.sum(axis=1) if effective_order else np.full(len(sums), ORDERS)
    geometric_mean = np.exp(log_precision.sum(axis=1) / np.maximum(orders, 1))
    shortfall = reference_length / np.maximum(output_length, 1.0)
    brevity = np.exp(np.minimum(0.0, 1.0 - shortfall))
    scores = 100.0 * brevity * geometric_mean
    undefined = ~matched.any(axis=1) | (has_order.sum(axis=1) < orders)
    return np.asarray(np.where(undefined, 0.0, scores))
