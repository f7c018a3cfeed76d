"""Translation: a sentence in one language in, the same in another out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.data.cutting import longest_start, nothing_fits
from harness.data.template import TemplateTask
from harness.types import Cut, Example, Fields


class Translate(TemplateTask):
    """Translate ``source`` into the language that the template names. A long source loses words at its end."""

    name: str = "translate"
    version: int = 2
    required_fields: tuple[str, ...] = ("source",)

    def __init__(
        self,
        *,
        template: str = "{source}\nGerman:",
        metrics: Sequence[str] = ("bleu", "chrf"),
        main_metric: str = "bleu",
    ) -> None:
        super().__init__(template=template, metrics=metrics, main_metric=main_metric)

    def cut(self, example: Example, fits: Callable[[str], bool]) -> Cut:
        """The prompt with as many leading words of the source as fit."""
        prompt = self.prompt(example.fields)
        if fits(prompt):
            return Cut(prompt, was_cut=False, lost_answer=False)
        source = longest_start(
            example.fields["source"], lambda text: fits(self.prompt({"source": text})), whole_sentences=False
        )
        if source is None:
            raise nothing_fits(example.id)
        return Cut(self.prompt({"source": source}), was_cut=True, lost_answer=False)

    def copy_of_input(self, fields: Fields) -> str:
        """The source, untranslated."""
        return str(fields["source"])
