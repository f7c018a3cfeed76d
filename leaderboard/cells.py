"""The page's tables: the short one that is seen first, and the one with all columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from harness.leaderboard.charts import interval_bar
from harness.leaderboard.legend import METRICS, decimals, explain
from harness.leaderboard.markdown import change, number
from harness.leaderboard.rows import Row
from harness.leaderboard.table import columns_of, main_metric
from harness.types import Interval

_PROMPT_LEVEL = "prompt-level intervals"


class Column(NamedTuple):
    """A column of a table.

    Args:
        head: its title.
        about: what it says, shown on hover.
        numeric: sorted as numbers, the best first.
        key: what a row is sorted by; None for an empty cell.
        cell: the cell's HTML, escaped.
    """

    head: str
    about: str
    numeric: bool
    key: Callable[[Row], object]
    cell: Callable[[Row], str]


def overview(rows: Sequence[Row], caption: str) -> str:
    """The columns that matter first: who, how far, and against what."""
    main = main_metric(rows)
    metrics = [name for name in dict.fromkeys((main, "gold")) if name and any(name in row.metrics for row in rows)]
    columns = [
        _plain("rank"),
        Column("candidate", explain("candidate"), False, lambda row: row.cells["candidate"], _candidate),
        Column("status", explain("status"), False, lambda row: row.cells["status"], _status),
        *(_metric_column(name, rows) for name in metrics),
        _rate_column("win_rate", "win rate", rows),
        _rate_column("win_rate_reference", "win rate vs reference", rows),
        _plain("win_rate_gold", "win rate by gold"),
        _plain("kl", "KL"),
        Column(
            "length",
            "Mean response length in tokens.",
            True,
            _value("length_after"),
            lambda row: _change(row, "length"),
        ),
    ]
    filled = [column for column in columns if any(column.key(row) is not None for row in rows)]
    return _table(filled, rows, caption, "overview")


def all_columns(rows: Sequence[Row], caption: str) -> str:
    """Every column of ``leaderboard.csv`` that applies to the task, in its order."""
    return _table([_plain(column) for column in columns_of(rows)], rows, caption, "everything")


def badges(flags: Sequence[str]) -> str:
    """Flags as badges; an interval's kind is a note, not a warning."""
    spans = []
    for flag in flags:
        light = flag.startswith(_PROMPT_LEVEL)
        spans.append(f'<span class="badge {"note" if light else "warn"}">{escape(flag)}</span>')
    return " ".join(spans)


def _table(columns: Sequence[Column], rows: Sequence[Row], caption: str, kind: str) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if column.head == "rank" else "none"}"'
        f' class="{"num" if column.numeric else "text"}"><button type="button" title="{escape(column.about)}">'
        f'{escape(column.head)}<span class="arrow" aria-hidden="true"></span></button></th>'
        for column in columns
    )
    bodies = []
    for league, group in groupby(rows, key=lambda row: row.league):
        members = list(group)
        if league:
            note = escape(
                f"Not comparable with the rows above: {', '.join(members[0].apart)}. Ranked among themselves."
            )
            bodies.append(
                f'<tbody class="apart"><tr><th colspan="{len(columns)}" scope="rowgroup">{note}</th></tr></tbody>'
            )
        bodies.append(f"<tbody>{''.join(_tr(columns, row) for row in members)}</tbody>")
    table = f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>{''.join(bodies)}"
    label = escape(caption)
    return f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{label}"><table>{table}</table></div>'


def _tr(columns: Sequence[Column], row: Row) -> str:
    cells = []
    for column in columns:
        key = column.key(row)
        value = "" if key is None else escape(str(key))
        tag, scope = ("th", ' scope="row"') if column.head == "candidate" else ("td", "")
        cells.append(
            f'<{tag}{scope} class="{"num" if column.numeric else "text"}" data-v="{value}">{column.cell(row)}</{tag}>'
        )
    kinds = [name for name, holds in (("control", row.fixed), ("failed", not row.records)) if holds]
    return f'<tr class="{" ".join(kinds)}">{"".join(cells)}</tr>'


def _value(column: str) -> Callable[[Row], object]:
    return lambda row: row.cells.get(column)


def _plain(column: str, head: str | None = None) -> Column:
    """A column that shows its cell and nothing else."""

    def cell(row: Row) -> str:
        value = row.cells.get(column)
        if column == "flags":
            return badges(row.cells["flags"])
        if isinstance(value, int | float):
            return number(row, column)
        text = "" if value is None else str(value)
        return escape(text) if len(text) < 60 else f'<span class="long" title="{escape(text)}">{escape(text)}</span>'

    def key(row: Row) -> object:
        value = row.cells.get(column)
        return (", ".join(value) or None) if isinstance(value, list) else value

    words = ("task", "candidate", "model", "algorithm", "feedback", "judge", "data", "seeds", "status", "flags")
    texts = (*words, "device", "signatures", "fingerprint", "git_commit", "run_ids")
    return Column(head or column, explain(column), column not in texts, key, cell)


def _candidate(row: Row) -> str:
    label = '<span class="badge control">control</span> ' if row.fixed else ""
    # Overrides break between names and values, not within them.
    name = escape(str(row.cells["candidate"])).replace("=", "=<wbr>").replace(",", ",<wbr>")
    return f'{label}<span class="name">{name}</span>'


def _status(row: Row) -> str:
    status = str(row.cells["status"])
    kind = status.split(":")[0].split(" ")[0]
    over = "prompt" if _PROMPT_LEVEL in row.cells["flags"] else "seed"
    words = f"{row.cells['seeds']} seeds" + (f" · {over}-level" if row.levels else "")
    seeds = f'<span class="seeds">{escape(words)}</span>'
    flags = [flag for flag in row.cells["flags"] if flag != _PROMPT_LEVEL]
    return f'<span class="badge {escape(kind)}">{escape(status)}</span> {seeds} {badges(flags)}'


def _change(row: Row, name: str) -> str:
    return escape(change(row, name))


def _metric_column(name: str, rows: Sequence[Row]) -> Column:
    """Before → after with the difference's interval, drawn on a scale that the column shares."""
    drawn = {id(row): _drawn(row, name) for row in rows}
    scale = _scale(rows, lambda row: [] if drawn[id(row)] is None else [*drawn[id(row)][0], drawn[id(row)][1]])  # type: ignore[index]

    def cell(row: Row) -> str:
        found = drawn[id(row)]
        if found is None:
            return _change(row, name)
        interval, before = found
        bar = interval_bar(interval, scale, label=f"{name} {change(row, name)}", before=before)
        after = number(row, f"{name}_after")
        digits = decimals(f"{name}_after")
        if before is None:
            small = f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
            return f'<span class="value"><b>{after}</b></span>{bar}<small>{small}</small>'
        delta = row.cells[f"{name}_delta"]
        low, high = number(row, f"{name}_delta_low"), number(row, f"{name}_delta_high")
        sign = "up" if row.cells[f"{name}_delta_low"] > 0 else "down" if row.cells[f"{name}_delta_high"] < 0 else "even"
        value = f'<span class="value">{number(row, f"{name}_before")} → <b>{after}</b></span>'
        return f'{value}{bar}<small><span class="{sign}">{delta:+.{digits}f}</span> [{low}, {high}]</small>'

    about = f"{METRICS.get(name, f'Extra metric {name}')}. Before → after, and the difference with its 95 % interval."
    return Column(name, about, True, _value(f"{name}_after"), cell)


def _drawn(row: Row, name: str) -> tuple[Interval, float | None] | None:
    """What is drawn: a candidate's paired difference laid at its value before; a control's value and its interval."""
    before, after = row.cells.get(f"{name}_before"), row.cells.get(f"{name}_after")
    low, high = row.cells.get(f"{name}_delta_low"), row.cells.get(f"{name}_delta_high")
    if after is not None and before is not None and low is not None and high is not None:
        return Interval(after, before + low, before + high), before
    return (row.after[name], None) if name in row.after else None


def _scale(
    rows: Sequence[Row], ends: Callable[[Row], Sequence[float | None]], *, mark: float | None = None
) -> tuple[float, float]:
    """What a column's drawings span: the candidates' intervals, or the controls' where there is no candidate."""
    rivals = [row for row in rows if not row.fixed and any(ends(row))] or rows
    values = [value for row in rivals for value in (*ends(row), mark) if value is not None]
    return min(values, default=0.0), max(values, default=1.0)


def _rate_column(column: str, head: str, rows: Sequence[Row]) -> Column:
    names = (column, f"{column}_low", f"{column}_high")
    scale = _scale(rows, lambda row: [row.cells.get(name) for name in names], mark=50.0)

    def cell(row: Row) -> str:
        if names[1] not in row.cells:
            return number(row, column)
        interval = Interval(*(row.cells[name] for name in names))
        low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
        bar = interval_bar(interval, scale, label=f"{head} {interval.estimate:.1f}", mark=50.0)
        return f'<span class="value"><b>{number(row, column)}</b></span>{bar}<small>[{low}, {high}]</small>'

    return Column(head, explain(column), True, _value(column), cell)
