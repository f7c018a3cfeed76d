"""Question answering: a text and a question about it in, a short answer out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

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

    The window is a run of whole words from the beginning of a sentence, as long as fits from there, chosen by the
    question alone (`question_window`); references are looked at only afterwards, to count the cuts that lost them.
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

        def shortened(window: Span) -> str:
            return str(context[spans[window.start].start : spans[window.end - 1].end])

        def filled(window: Span) -> str:
            return self.prompt({"context": shortened(window), "question": question})

        window = question_window(asked, starts, lambda start, end: fits(filled(Span(start, end))))
        if window is None:
            raise nothing_fits(example.id)
        return Cut(filled(window), was_cut=True, lost_answer=_lost(example.references, context, shortened(window)))

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


def question_window(asked: Sequence[str], starts: Sequence[int], fits: Callable[[int, int], bool]) -> Span | None:
    """Of the longest windows that fit, one from each beginning, that with the most different question words in it.

    Where a window ends is found by bisection, and for few beginnings alone: of two windows the later one ends no
    earlier, so those that are known bound the others, and what cannot be the best any more is not asked for.

    Args:
        asked: per word of the context, the question word that it holds or "".
        starts: the words at which a window may begin: those that begin a sentence, the first word among them.
        fits: (first word, end) -> whether the window fits; what fits is assumed to do so with words less.

    Returns:
        The words from first to end, end excluded; the earliest window of those equally good, since texts tend to say
        first what matters most. None where no window of a word fits.
    """
    if not starts:
        return None
    first, following = np.array(starts), _following(asked, starts)
    low, high, known = first.copy(), np.full(len(starts), len(asked)), np.zeros(len(starts), dtype=bool)
    best = 0
    while not known[best]:
        # The middle between the known ones around it, which bounds as many others as one can.
        after = best + int(known[best:].argmax()) if known[best:].any() else len(starts)
        before = int(known[:best].nonzero()[0][-1]) if best else -1
        middle = (before + after) // 2 if best else 0
        end = _end(starts[middle], int(low[middle]), int(high[middle]), fits)
        earlier = ~known[:middle]
        high[:middle][earlier] = np.minimum(high[:middle][earlier], end)
        low[middle:] = np.maximum(low[middle:], end)
        high[middle], known[middle] = end, True
        # By question words, then by whether there is a window at all.
        best = int((2 * (following < high[:, None]).sum(axis=1) + (high > first)).argmax())
    return Span(starts[best], int(high[best])) if high[best] > starts[best] else None


def _end(start: int, low: int, high: int, fits: Callable[[int, int], bool]) -> int:
    """The end of the longest window from a word that fits, which is in low..high; the word itself where none fits."""
    least = max(low, start + 1)
    end = most(least, high, lambda n: fits(start, n))
    # A tokenizer may break by a token what the bounds assume: what does not fit is never taken.
    return end if end >= least else most(start + 1, least - 1, lambda n: fits(start, n))


def _following(asked: Sequence[str], starts: Sequence[int]) -> NDArray[np.int64]:
    """(beginnings, question words) where each question word stands next; behind the last word where it does not."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(asked):
        if word:
            places.setdefault(word, []).append(place)
    columns = [np.array([*there, len(asked)])[np.searchsorted(there, starts)] for there in places.values()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(starts), 0), dtype=np.int64)


def _lost(references: Sequence[str], context: str, shortened: str) -> bool:
    def holds(text: str) -> bool:
        return any(_standing_alone(reference).search(text) for reference in references)

    return holds(context) and not holds(shortened)


def _standing_alone(text: str) -> re.Pattern[str]:
    """The text where no letter or digit goes on with its first or last word; a script without spaces has no such."""
    before = "" if _UNSPACED.match(text[:1]) else rf"(?<!{_LETTER})"
    after = "" if _UNSPACED.match(text[-1:]) else rf"(?!{_LETTER})"
    return re.compile(before + re.escape(text) + after)
