"""Which column of a row holds what: plain, nested, alternative and joined columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError

_MISSING = object()


class BadRow(Exception):
    """A row that cannot be used; the message says why."""


class Empty(BadRow):
    """A row in which a text is missing: cleaning may drop it."""


class TooLong(BadRow):
    """A row with a text above the limit of characters: cleaning drops it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what.

    Args:
        mapping: our name -> column. Our names are the task's fields, ``response`` (the demonstration; by default the
            first reference, else the chosen response), ``references`` (a text or a list; by default the response),
            ``id``, ``chosen`` and ``rejected``. A task with ``turns`` may name ``dialog`` instead of turns, response
            and references: all turns of a dialogue, as texts, messages or a transcript; each turn after the first
            (where there are roles: each of the assistant's) then is a response to the ones before. It may also name
            ``chosen`` and ``rejected`` alone: whole conversations that differ in the last turn. A column may be nested
            (``answers.text``), may have alternatives of which a row uses the first that it has and that is not null
            (``summaries|summary``), and may be several that are joined to a list (``summary1+summary2``), nulls left
            out unless all are or the list is one of turns, whose sides depend on their places.
        required_fields: the task's fields.
        key: ``data.columns`` or ``data.pairs_columns``, for messages.
        pairs_only: True where the rows are preferences and need no demonstration.

    Raises:
        UserError: where a name is unknown or one that is needed is not mapped.
    """

    mapping: Mapping[str, str]
    required_fields: tuple[str, ...]
    key: str = "data.columns"
    pairs_only: bool = False

    def __post_init__(self) -> None:
        known = {*self.required_fields, "id", "chosen", "rejected"}
        if not self.pairs_only:
            known |= {"response", "references"} | ({"dialog"} if "turns" in self.required_fields else set())
        unknown = sorted(set(self.mapping) - known)
        if unknown:
            value = self.mapping[unknown[0]]
            raise UserError(
                f"{self.key}.{unknown[0]}", value, "is not a name of ours", f"use {', '.join(sorted(known))}"
            )
        needed = [] if "dialog" in self.mapping else list(self.required_fields)
        if self.whole_pairs and "turns" in needed:
            needed.remove("turns")
        if self.pairs_only or "rejected" in self.mapping:
            needed += ["chosen", "rejected"]
        for name in needed:
            if name not in self.mapping:
                raise UserError(f"{self.key}.{name}", None, "is missing", f"name the column: {self.key}.{name}=COLUMN")
        if not {"dialog", "response", "references", "chosen"} & set(self.mapping):
            raise UserError(f"{self.key}.response", None, "is missing", f"name it or {self.key}.references")

    @property
    def whole_pairs(self) -> bool:
        """Whether chosen and rejected hold whole conversations: no column holds the turns before them."""
        mapped = set(self.mapping)
        return "turns" in self.required_fields and "turns" not in mapped and {"chosen", "rejected"} <= mapped

    def get(self, values: Mapping[str, Any], name: str) -> Any:
        """The raw value of one of our names in a row; raises BadRow where the row has no such column."""
        column = self.mapping[name]
        # A plain column is the common case, and there are many rows.
        value = values[column] if column in values else _look_up(values, column, turns=name in ("turns", "dialog"))
        if value is _MISSING:
            raise BadRow(f"has no column {column!r}")
        return value

    def never_seen(self, columns: Iterable[str]) -> UserError | None:
        """The error of a mapped column that no row has, or None; ``columns`` are all that the rows have."""
        there = dict.fromkeys(columns)
        for name, column in self.mapping.items():
            if not any(part in there for alternative in _alternatives(column) for part in alternative):
                listed = ", ".join(there) or "none"
                return UserError(f"{self.key}.{name}", column, "is not a column", f"the columns are: {listed}")
        return None


def _alternatives(column: str) -> list[list[str]]:
    """``a|b+c`` -> [[a|b+c], [a], [b, c]]: a column of exactly that name goes first."""
    return [[column], *([*alternative.split("+")] for alternative in column.split("|"))]


def _look_up(values: Mapping[str, Any], column: str, *, turns: bool) -> Any:
    best: Any = _MISSING
    for parts in _alternatives(column):
        found = [_nested(values, part) for part in parts]
        if any(value is _MISSING for value in found):
            continue
        best = found[0] if len(found) == 1 else found if turns else _without_nulls(found)
        if best is not None:
            break
    return best


def _without_nulls(found: Sequence[Any]) -> list[Any] | None:
    return [value for value in found if value is not None] or None


def _nested(values: Any, column: str) -> Any:
    """A column by name, else by its dotted path; through a list of objects it gives the list of their values.

    What would stand in a null is null.
    """
    if values is None:
        return None
    if isinstance(values, list):
        parts = [_nested(value, column) for value in values]
        return _MISSING if any(part is _MISSING for part in parts) else parts
    if not isinstance(values, dict):
        return _MISSING
    if column in values:
        return values[column]
    head, dot, rest = column.partition(".")
    return _nested(values[head], rest) if dot and head in values else _MISSING


def column_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from column_names(inner, f"{prefix}{name}.")
