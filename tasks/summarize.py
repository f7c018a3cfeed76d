"""Summarisation: a text in, a short version of it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.data.cutting import longest_start, nothing_fits
from harness.data.template import TemplateTask
from harness.types import Cut, Example, Fields


class Summarize(TemplateTask):
    """Summarise ``source``. A source that is too long loses whole sentences or lines at its end.

    Where the first sentence alone is too long, it loses words at its end.

    Args:
        ending: what the sources of a data set end with and the template says again, such as ``TL;DR:``; it is taken
            off, so that a source which is cut has it too.
    """

    name: str = "summarize"
    version: int = 2
    required_fields: tuple[str, ...] = ("source",)

    def __init__(
        self,
        *,
        template: str = "{source}\nTL;DR:",
        metrics: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"),
        main_metric: str = "rougeL",
        ending: str = "",
    ) -> None:
        super().__init__(template=template, metrics=metrics, main_metric=main_metric)
        self.ending = ending

    def prompt(self, fields: Fields) -> str:
        """The template filled with the source, less its ending."""
        return super().prompt({**fields, "source": self._source(fields)})

    def _source(self, fields: Fields) -> str:
        source = str(fields["source"])
        return source.removesuffix(self.ending).rstrip() if self.ending and source.endswith(self.ending) else source

    def cut(self, example: Example, fits: Callable[[str], bool]) -> Cut:
        """The prompt with as many leading sentences of the source as fit."""
        prompt = self.prompt(example.fields)
        if fits(prompt):
            return Cut(prompt, was_cut=False, lost_answer=False)
        source = longest_start(
            self._source(example.fields), lambda text: fits(self.prompt({"source": text})), whole_sentences=True
        )
        if source is None:
            raise nothing_fits(example.id)
        return Cut(self.prompt({"source": source}), was_cut=True, lost_answer=False)

    def copy_of_input(self, fields: Fields) -> str:
        """The source itself."""
        return self._source(fields)
