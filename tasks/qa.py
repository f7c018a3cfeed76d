"""Question answering: a text and a question about it in, a short answer out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.data.cutting import Span, most, nothing_fits, sentences, words
from harness.data.splits import normalise
from harness.data.template import TemplateTask
from harness.data.unspaced import UNSPACED, split_words
from harness.types import Cut, Example, Fields

_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_LETTER = rf"[^\W{UNSPACED}]"


class QA(TemplateTask):
    """Answer ``question`` from ``context``. A context that is too long is cut to the window nearest to the question.

    The window is a run of whole words from the beginning of a sentence, as long as fits, chosen by the question alone
    (`question_window`); references are looked at only afterwards, to count the cuts that lost them.
    """

    name: str = "qa"
    version: int = 2
    required_fields: tuple[str, ...] = ("context", "question")

    def __init__(
        self,
        *,
        template: str = "{context}\nQ: {question}\nA:",
        metrics: Sequence[str] = ("exact_match", "f1"),
        main_metric: str = "f1",
    ) -> None:
        super().__init__(template=template, metrics=metrics, main_metric=main_metric)

    def cut(self, example: Example, fits: Callable[[str], bool]) -> Cut:
        """The prompt with the longest question window of the context that fits."""
        prompt = self.prompt(example.fields)
        if fits(prompt):
            return Cut(prompt, was_cut=False, lost_answer=False)
        context, question = example.fields["context"], example.fields["question"]
        spans = words(context)
        asked = asked_words(context, question, spans)
        begins = {span.start for span in sentences(context)}
        starts = [i for i, span in enumerate(spans) if span.start in begins]

        def shortened(width: int) -> str:
            start = question_window(asked, starts, width)
            return str(context[spans[start].start : spans[start + width - 1].end])

        def filled(width: int) -> str:
            return self.prompt({"context": shortened(width), "question": question})

        width = most(1, len(spans) - 1, lambda n: fits(filled(n)))
        if not width:
            raise nothing_fits(example.id)
        return Cut(filled(width), was_cut=True, lost_answer=_lost(example.references, context, shortened(width)))

    def copy_of_input(self, fields: Fields) -> str:
        """The context itself."""
        return str(fields["context"])


def asked_words(context: str, question: str, spans: Sequence[Span]) -> list[str]:
    """For each word of the context the question word that it holds, "" for none.

    Question words of fewer than four letters do not count: they are mostly articles and particles, and with them
    counted more windows lose the answer (tried on the QED training rows at 64, 96 and 128 tokens). A Chinese character
    counts alone.
    """
    asked = {word for word in split_words(normalise(question)) if len(word) > 3 or _CHINESE.match(word)}
    return [next((part for part in split_words(normalise(context[a:b])) if part in asked), "") for a, b in spans]


def question_window(asked: Sequence[str], starts: Sequence[int], width: int) -> int:
    """The first word of the window of ``width`` words with the most different question words in it.

    Args:
        asked: per word of the context, the question word that it holds or "".
        starts: the words at which a window may begin: those that begin a sentence, the first word among them.
        width: words in a window.

    Returns:
        One of ``starts`` from which ``width`` words are left; the earliest of those equally good, since texts tend to
        say first what matters most.
    """
    possible = [start for start in starts if start + width <= len(asked)]
    return max(possible, key=lambda start: len({*asked[start : start + width]} - {""}))


def _lost(references: Sequence[str], context: str, shortened: str) -> bool:
    def holds(text: str) -> bool:
        return any(_standing_alone(reference).search(text) for reference in references)

    return holds(context) and not holds(shortened)


def _standing_alone(text: str) -> re.Pattern[str]:
    """The text where no letter or digit goes on with its first or last word; a script without spaces has no such."""
    before = "" if _UNSPACED.match(text[:1]) else rf"(?<!{_LETTER})"
    after = "" if _UNSPACED.match(text[-1:]) else rf"(?!{_LETTER})"
    return re.compile(before + re.escape(text) + after)
