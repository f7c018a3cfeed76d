"""ROUGE-1, -2, -L and -Lsum by rouge-score."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version

import evaluate
from nltk.stem.porter import PorterStemmer
from rouge_score import tokenize, tokenizers
from rouge_score.rouge_scorer import RougeScorer

from harness.evaluation.module import TextModule
from harness.evaluation.scored import check_texts, mean_scored
from harness.types import Scored

SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|\s*\n\s*")


class Rouge(TextModule, evaluate.Metric):  # type: ignore[misc]
    """ROUGE F1, 0-100, Porter stemmer on; an output without a letter a-z or a digit scores 0."""

    columns = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    description = "ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum F1 by rouge-score with the Porter stemmer, 0-100."
    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries."

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """ROUGE of N outputs; of several references, the one with the best F1 counts, for each variant by itself.

        Args:
            outputs: N texts. Tokens are runs of a-z and 0-9 after lower-casing: other scripts are not seen.
            references: N lists of at least one reference each.
        Returns:
            One mean per column. For Lsum, sentences are split by `sentence_lines`.
        """
        check_texts(outputs, references)
        scorer = RougeScorer(list(self.columns), tokenizer=_StemsOnce())
        rows = [
            scorer.score_multi([sentence_lines(text) for text in refs], sentence_lines(output))
            for output, refs in zip(outputs, references, strict=True)
        ]
        return {
            name: mean_scored(
                name, [100.0 * row[name].fmeasure for row in rows], signature=_signature(name, references)
            )
            for name in self.columns
        }


def sentence_rouge(column: str) -> Callable[[str, Sequence[str]], float]:
    """(response, references) -> one variant's F1 against the best of the references, 0-100."""
    scorer = RougeScorer([column], tokenizer=_StemsOnce())

    def score(response: str, references: Sequence[str]) -> float:
        lines = [sentence_lines(reference) for reference in references]
        return 100.0 * float(scorer.score_multi(lines, sentence_lines(response))[column].fmeasure)

    return score


class _StemsOnce(tokenizers.Tokenizer):  # type: ignore[misc]
    """rouge-score's own tokens, each distinct word stemmed once: stemming is most of ROUGE's time."""

    def __init__(self) -> None:
        self.stem = lru_cache(maxsize=None)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return tokenize.tokenize(text, self)  # type: ignore[no-any-return]


def sentence_lines(text: str) -> str:
    """The text with one sentence per line: cut after ``.``, ``!`` or ``?`` before white space, and at line breaks.

    Closing quotes and brackets at the cut are dropped; rouge-score ignores them anyway.

    >>> sentence_lines('One. "Two!" Three 3.5?')
    'One.\\n"Two!\\nThree 3.5?'
    """
    return "\n".join(part for part in SENTENCE_END.split(text) if part)


def _signature(name: str, references: Sequence[Sequence[str]]) -> str:
    counts = {len(refs) for refs in references}
    nrefs = str(counts.pop()) if len(counts) == 1 else "var"
    split = "|split:punctuation-newline" if name == "rougeLsum" else ""
    return f"nrefs:{nrefs}|stemmer:yes|measure:f1|refs:best{split}|agg:mean|version:{version('rouge-score')}"
