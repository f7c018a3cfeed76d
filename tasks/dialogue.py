"""Dialogue: the turns so far in, the next turn out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.data.cutting import longest_end, most, nothing_fits
from harness.data.template import TemplateTask
from harness.errors import UserError
from harness.types import Cut, Example, Fields


class Dialogue(TemplateTask):
    """Answer the last of ``turns``. A dialogue that is too long loses its oldest turns.

    Where the last turn alone is too long, it loses words at its beginning.

    Args:
        template: ``{turns}`` stands for a line per turn ("Customer: …") and a last one with the answering side's name.
        speakers: names of the two sides, the answering one second; turns alternate, counted back from the answer.
    """

    name: str = "dialogue"
    version: int = 2
    required_fields: tuple[str, ...] = ("turns",)

    def __init__(
        self,
        *,
        template: str = "{turns}",
        speakers: Sequence[str] = ("Customer", "Agent"),
        metrics: Sequence[str] = ("bleu", "distinct1", "distinct2"),
        main_metric: str = "bleu",
    ) -> None:
        super().__init__(template=template, metrics=metrics, main_metric=main_metric)
        if len(speakers) != 2 or not all(isinstance(name, str) and name.strip() for name in speakers):
            raise UserError("task.speakers", list(speakers), "is not two names", "give two, the answering side second")
        self.speakers: tuple[str, ...] = tuple(speakers)

    def prompt(self, fields: Fields) -> str:
        """One line per turn with its speaker's name, then the name of the one who answers."""
        turns: Sequence[str] = fields["turns"]
        # The answer is by speaker 1, so the turn d places before it is by speaker (1 - d) mod 2.
        lines = [f"{self.speakers[(1 + len(turns) - i) % 2]}: {turn}" for i, turn in enumerate(turns)]
        return self.template.format(turns="\n".join([*lines, f"{self.speakers[1]}:"]))

    def cut(self, example: Example, fits: Callable[[str], bool]) -> Cut:
        """The prompt with as many of the last turns as fit."""
        turns: list[str] = example.fields["turns"]
        prompt = self.prompt(example.fields)
        if fits(prompt):
            return Cut(prompt, was_cut=False, lost_answer=False)
        kept = most(1, len(turns) - 1, lambda n: fits(self.prompt({"turns": turns[-n:]})))
        if kept:
            return Cut(self.prompt({"turns": turns[-kept:]}), was_cut=True, lost_answer=False)
        last = longest_end(turns[-1], lambda text: fits(self.prompt({"turns": [text]})))
        if last is None:
            raise nothing_fits(example.id)
        return Cut(self.prompt({"turns": [last]}), was_cut=True, lost_answer=False)

    def copy_of_input(self, fields: Fields) -> str:
        """The last turn, echoed."""
        return str(fields["turns"][-1])
