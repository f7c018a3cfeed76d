"""Exact match and token F1 of short answers, as SQuAD scores them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import evaluate

from harness.evaluation.module import TextModule
from harness.evaluation.scored import check_texts, mean_scored
from harness.types import Scored

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
SIGNATURE = "norm:squad|refs:best|empty:equal|agg:mean"


class Squad(TextModule, evaluate.Metric):  # type: ignore[misc]
    """Exact match and F1, 0-100, after SQuAD's normalisation, the best over the references."""

    columns = ("exact_match", "f1")
    description = "Exact match and token F1 with SQuAD's normalisation, the best over the references, 0-100."
    citation = "Rajpurkar et al. 2016 (arXiv 1606.05250); 2018 (arXiv 1806.03822) for empty answers."

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """Exact match and F1 of N answers, each the best over its references, for each measure by itself.

        Args:
            outputs: N texts.
            references: N lists of at least one reference each.
        """
        check_texts(outputs, references)
        pairs = list(zip(outputs, references, strict=True))
        exact = [100.0 * max(float(normalise(out) == normalise(ref)) for ref in refs) for out, refs in pairs]
        f1 = [100.0 * max(token_f1(out, ref) for ref in refs) for out, refs in pairs]
        return {
            name: mean_scored(name, values, signature=SIGNATURE)
            for name, values in zip(self.columns, (exact, f1), strict=True)
        }


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without the articles a, an, the, single spaces.

    >>> normalise("The  U.S. president, an actor")
    'us president actor'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def token_f1(output: str, reference: str) -> float:
    """F1 of the normalised tokens as multisets, 0-1; where one side has no token left, 1 if both have none, else 0."""
    ours, theirs = Counter(normalise(output).split()), Counter(normalise(reference).split())
    if not ours or not theirs:
        return float(ours == theirs)
    # 2PR / (P + R) with P = common / |ours|, R = common / |theirs|
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
