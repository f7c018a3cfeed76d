"""The table in Markdown: the columns that matter first, one table per task."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.leaderboard.legend import CAVEATS, decimals
from harness.leaderboard.rows import Row
from harness.leaderboard.table import main_metric


def markdown(rows: Sequence[Row], further: Sequence[str] = ()) -> str:
    """The whole file; ``further`` are the lines of other tables, after the tasks' own."""
    lines = ["# Leaderboard", ""]
    for task in dict.fromkeys(row.first["task"] for row in rows):
        lines += [f"## {escape_markdown(task)}", "", *_table([row for row in rows if row.first["task"] == task]), ""]
    lines += further
    if not rows:
        return "\n".join(lines) + "\n"
    lines += [
        "*Italic*: controls. Intervals: 95 %. `before` is the SFT policy, `after` the final one. "
        "All columns are in `leaderboard.csv`.",
        "",
        "What the numbers do not say:",
        "",
        *(f"- {caveat}" for caveat in CAVEATS),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    main = main_metric(rows)
    metrics = [name for name in dict.fromkeys((main, "gold")) if name and any(name in row.metrics for row in rows)]
    rates = ("win_rate", "win_rate_reference", "win_rate_gold")
    named = map(escape_markdown, metrics)
    heads = ["rank", "candidate", "seeds", "status", *named, *rates, "kl", "length", "flags"]
    lines = [table_line(heads), table_line(["---:" if head in ("rank", "kl") else "---" for head in heads])]
    for row in rows:
        name = escape_markdown(str(row.cells["candidate"]))
        cells = [
            str(row.cells.get("rank", "")),
            f"*{name}*" if row.fixed else name,
            str(row.cells["seeds"]),
            escape_markdown(str(row.cells["status"])),
            *(change(row, metric) for metric in metrics),
            *(rate(row, column) for column in rates),
            number(row, "kl"),
            change(row, "length"),
            escape_markdown(", ".join(row.cells["flags"])),
        ]
        lines.append(table_line(cells))
    return lines


def number(row: Row, column: str) -> str:
    value = row.cells.get(column)
    return "" if value is None else f"{value:.{decimals(column)}f}"


def rate(row: Row, column: str) -> str:
    """A value with its interval: ``62.1 [58.0, 66.2]``."""
    low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
    return number(row, column) + (f" [{low}, {high}]" if low and high else "")


def change(row: Row, name: str) -> str:
    """Before, after, difference and interval: ``41.2 → 55.3 (+14.1 [12.8, 15.5])``; a control's value alone."""
    before, after = number(row, f"{name}_before"), number(row, f"{name}_after")
    if not before:
        return after
    delta, digits = row.cells.get(f"{name}_delta"), decimals(f"{name}_delta")
    low, high = number(row, f"{name}_delta_low"), number(row, f"{name}_delta_high")
    difference = "" if delta is None else f"{delta:+.{digits}f}" + (f" [{low}, {high}]" if low and high else "")
    return f"{before} → {after}" + (f" ({difference})" if difference else "")


def table_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML inside it leave alone, on one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
