"""Examples from files on disk: which column holds what, and what is wrong with the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.files import Row, read_rows
from harness.errors import UserError
from harness.types import Example, PairExample

_MISSING = object()
_SHOWN = 20


class LocalRows(NamedTuple):
    """What one split's files hold: examples, the pairs among them, and the rows that could not be used."""

    examples: list[Example]
    pairs: list[PairExample]
    bad_rows: list[str]


class _Bad(Exception):
    """A row that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what.

    Args:
        mapping: our name -> column. Our names are the task's fields, ``response`` (the demonstration; by default the
            first reference, else the chosen response), ``references`` (a text or a list; by default the response),
            ``id``, ``chosen`` and ``rejected``. A task with ``turns`` may name ``dialog`` instead of turns, response
            and references: a list of all turns of a dialogue, each turn after the first then being a response to the
            ones before. A column may be nested (``answers.text``), may have alternatives of which a row uses the
            first that it has and that is not null (``summaries|summary``), and may be several that are joined to a list
            (``summary1+summary2``).
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
        if self.pairs_only or "rejected" in self.mapping:
            needed += ["chosen", "rejected"]
        for name in needed:
            if name not in self.mapping:
                raise UserError(f"{self.key}.{name}", None, "is missing", f"name the column: {self.key}.{name}=COLUMN")
        if not {"dialog", "response", "references", "chosen"} & set(self.mapping):
            raise UserError(f"{self.key}.response", None, "is missing", f"name it or {self.key}.references")

    def get(self, values: Mapping[str, Any], name: str) -> Any:
        """The raw value of one of our names in a row; raises _Bad where the row has no such column."""
        column = self.mapping[name]
        value = _look_up(values, column)
        if value is _MISSING:
            raise _Bad(f"has no column {column!r}")
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


def _look_up(values: Mapping[str, Any], column: str) -> Any:
    best: Any = _MISSING
    for parts in _alternatives(column):
        found = [_nested(values, part) for part in parts]
        if any(value is _MISSING for value in found):
            continue
        best = found[0] if len(found) == 1 else found
        if best is not None:
            break
    return best


def _nested(values: Any, column: str) -> Any:
    """A column by name, else by its dotted path; through a list of objects it gives the list of their values."""
    if isinstance(values, list):
        parts = [_nested(value, column) for value in values]
        return _MISSING if any(part is _MISSING for part in parts) else parts
    if not isinstance(values, dict):
        return _MISSING
    if column in values:
        return values[column]
    head, dot, rest = column.partition(".")
    return _nested(values[head], rest) if dot and head in values else _MISSING


def _column_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from _column_names(inner, f"{prefix}{name}.")


def _text(value: Any, name: str) -> str:
    if value is None:
        raise _Bad(f"has no {name} (null)")
    if not isinstance(value, str):
        raise _Bad(f"has {name} of type {type(value).__name__}, not text")
    if not value.strip():
        raise _Bad(f"has an empty {name}")
    return value.strip()


def _texts(value: Any, name: str, *, least: int = 1) -> list[str]:
    if not isinstance(value, list):
        raise _Bad(f"has {name} of type {type(value).__name__}, not a list")
    if len(value) < least:
        raise _Bad(f"has {len(value)} of {name}, fewer than {least}")
    return [_text(part, name) for part in value]


def _text_or_texts(value: Any, name: str) -> list[str]:
    return _texts(value, name) if isinstance(value, list) else [_text(value, name)]


def _fields(columns: Columns, values: Mapping[str, Any]) -> dict[str, Any]:
    read = {name: columns.get(values, name) for name in columns.required_fields}
    return {name: _texts(value, name) if name == "turns" else _text(value, name) for name, value in read.items()}


def _identity(columns: Columns, values: Mapping[str, Any], label: str, number: int) -> str:
    if "id" not in columns.mapping:
        return f"{label}:{number}"
    value = columns.get(values, "id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _Bad(
            f"has an id of type {type(value).__name__}, not text or integer" if value != "" else "has an empty id"
        )
    return f"{label}:{value}"


def _examples(columns: Columns, values: Mapping[str, Any], identity: str, max_turns: int) -> list[Example]:
    """The examples of one row: one, or one per turn of a whole dialogue."""
    mapped = columns.mapping
    if "dialog" in mapped:
        turns = _texts(columns.get(values, "dialog"), "dialog", least=2)
        return [
            Example(f"{identity}-{t}", {"turns": turns[max(0, t - max_turns) : t]}, turns[t], [turns[t]])
            for t in range(1, len(turns))
        ]
    fields = _fields(columns, values)
    references = _text_or_texts(columns.get(values, "references"), "references") if "references" in mapped else []
    if "response" in mapped:
        response = _text(columns.get(values, "response"), "response")
    else:
        response = references[0] if references else _text(columns.get(values, "chosen"), "chosen")
    return [Example(identity, fields, response, references or [response])]


def _pair(columns: Columns, values: Mapping[str, Any], identity: str) -> PairExample:
    chosen = _text(columns.get(values, "chosen"), "chosen")
    rejected = _text(columns.get(values, "rejected"), "rejected")
    if chosen == rejected:
        raise _Bad("has equal chosen and rejected responses")
    return PairExample(identity, _fields(columns, values), chosen, rejected)


def read_examples(
    paths: Sequence[Path], *, columns: Columns, label: str, max_bad_rows: int, max_turns: int = 5
) -> LocalRows:
    """The examples of one split's files, and the pairs where ``chosen`` and ``rejected`` are mapped.

    Args:
        label: split's name; starts every id.
        max_bad_rows: rows that may be unusable (not JSON, a column missing, empty or no text, an id twice).
        max_turns: most turns of context, where whole dialogues are taken apart (``dialog``).

    Raises:
        UserError: where a mapped column is in no row, more rows are bad, or none is left.
    """
    examples: list[Example] = []
    pairs: list[PairExample] = []
    bad: list[str] = []
    seen_ids: set[str] = set()
    seen_columns: dict[str, None] = {}
    number = 0
    for row in _all_rows(paths):
        number += 1
        try:
            if row.values is None:
                raise _Bad(row.problem)
            seen_columns.update(dict.fromkeys(_column_names(row.values)))
            identity = _identity(columns, row.values, label, number)
            if identity in seen_ids:
                raise _Bad(f"repeats the id {identity.partition(':')[2]!r}")
            made = [] if columns.pairs_only else _examples(columns, row.values, identity, max_turns)
            if "rejected" in columns.mapping:
                pairs.append(_pair(columns, row.values, identity))
            examples += made
            seen_ids.add(identity)
        except _Bad as problem:
            bad.append(f"{row.place} {problem}")
    _judge(columns, list(seen_columns), bad, number, max_bad_rows, paths)
    return LocalRows(examples, pairs, bad)


def _all_rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        yield from read_rows(path)


def _judge(
    columns: Columns, seen: list[str], bad: list[str], rows: int, max_bad_rows: int, paths: Sequence[Path]
) -> None:
    """Raise the error that explains most: an empty file, a column that no row has, then too many bad rows."""
    if not rows:
        raise UserError(str(paths[0]), None, "has no rows", "give a file with data in it")
    unmapped = columns.never_seen(seen) if seen else None
    if unmapped:
        raise unmapped
    if len(bad) > max_bad_rows:
        shown = "; ".join(bad[:_SHOWN])
        rule = f"is less than the {len(bad)} of {rows} rows that cannot be used ({shown})"
        raise UserError("data.max_bad_rows", max_bad_rows, rule, "correct them, or allow so many bad rows")
    if len(bad) == rows:
        raise UserError(str(paths[0]), None, f"has no row that can be used ({bad[0]})", "correct the file")


def read_pairs(
    path: str, *, columns: Mapping[str, str], required_fields: tuple[str, ...], max_bad_rows: int
) -> tuple[list[PairExample], list[str]]:
    """The preference pairs of a file (``data.pairs_path``), and the rows that could not be used.

    Args:
        columns: ``data.pairs_columns``; the task's fields, ``chosen``, ``rejected`` and, if wanted, ``id``.

    Raises:
        UserError: as `read_examples`, and where the file is missing.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError("data.pairs_path", path, "does not exist or is not a file", "give the file with the pairs")
    mapping = Columns(columns, required_fields, key="data.pairs_columns", pairs_only=True)
    read = read_examples([file], columns=mapping, label="pairs", max_bad_rows=max_bad_rows)
    return read.pairs, read.bad_rows
