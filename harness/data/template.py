"""What all text tasks share: a template with the fields' names in braces, checked when the task is made."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from harness.errors import UserError
from harness.types import Fields


class TemplateTask:
    """A prompt made by filling the fields into a template; the response follows after one space.

    Args:
        template: text with every required field in braces; a brace itself is written twice.
        metrics: names of the metrics that are computed.
        main_metric: the column that stands for the task in the table.

    Raises:
        UserError: where the template lacks a field, names an unknown one, or ends in white space (task.template).
    """

    name: str
    version: int
    required_fields: tuple[str, ...]

    def __init__(self, *, template: str, metrics: Sequence[str], main_metric: str) -> None:
        _check(template, self.required_fields)
        self.template = template
        self.metrics: Sequence[str] = tuple(metrics)
        self.main_metric: str = main_metric

    def prompt(self, fields: Fields) -> str:
        """The template filled with the fields."""
        return self.template.format(**{name: fields[name] for name in self.required_fields})


def _check(template: str, required: tuple[str, ...]) -> None:
    def wrong(rule: str, remedy: str) -> UserError:
        return UserError("task.template", repr(template), rule, remedy)

    needed = " and ".join(f"{{{name}}}" for name in required)
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise wrong(f"is not a template ({error})", "write a brace that is meant as text twice") from None
    named = [name for name, _, _ in parts if name is not None]
    for name, spec, conversion in parts:
        if name is not None and (name not in required or spec or conversion):
            raise wrong(f"has the unknown placeholder {{{name}}}", f"use {needed}, and {{{{ }}}} for a brace itself")
    missing = [name for name in required if name not in named]
    if missing:
        raise wrong(f"lacks {{{missing[0]}}}", f"put {needed} into it")
    if template != template.rstrip():
        raise wrong("ends in white space", "end it with a word or a colon: the response follows after one space")
