"""The leaderboard's rows as the short table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_TWO_DECIMALS = ("gold", "kl")
_PROMPT_LEVEL = "prompt-level intervals"


class ResultTable(NamedTuple):
    """A title, the columns' heads, and the cells row by row; a cell of two lines has its interval in the second."""

    title: str
    heads: list[str]
    cells: list[list[str]]


def result_table(rows: Sequence[Mapping[str, Any]], main_metrics: Mapping[str, str | None]) -> ResultTable:
    """What matters of each row; columns that no row fills are left out, and so is the task where there is one.

    Args:
        rows: mappings from the leaderboard's column names.
        main_metrics: task -> main metric; where a task has none, the first metric that the row holds.
    """
    shown = [_row(row, main_metrics.get(str(row.get("task")))) for row in rows]
    heads = [
        head for head in dict.fromkeys(head for row in shown for head in row) if any(row.get(head) for row in shown)
    ]
    tasks = list(dict.fromkeys(row["task"] for row in shown))
    title = "Result, with 95 % intervals"
    if len(tasks) == 1:
        heads.remove("task")
        title = f"Result of {tasks[0]}, with 95 % intervals"
    if rows and all(_PROMPT_LEVEL in str(row.get("flags")) for row in rows):
        # Said once instead of in every row.
        title += " over prompts (one seed)"
    return ResultTable(title, heads, [[row.get(head, "") for head in heads] for row in shown])


def _row(row: Mapping[str, Any], main: str | None) -> dict[str, str]:
    first = next((name.removesuffix("_after") for name in row if name.endswith("_after") and _has(row, name)), None)
    metrics = dict.fromkeys(name for name in (main or first, "gold") if name)
    status, flags = _text(row, "status"), _text(row, "flags")
    notes = [*([] if status == "ok" else [status]), *(flag for flag in flags.split(", ") if flag != _PROMPT_LEVEL)]
    return {
        **{name: _text(row, name) for name in ("rank", "task", "candidate")},
        **{name: _change(row, name) for name in metrics},
        "win rate": _interval(row, "win_rate"),
        "vs reference": _interval(row, "win_rate_reference"),
        "win rate by gold": _text(row, "win_rate_gold"),
        "KL": _text(row, "kl"),
        "length": _change(row, "length"),
        "notes": ", ".join(filter(None, notes)),
    }


def _change(row: Mapping[str, Any], name: str) -> str:
    """Before and after, the difference and its interval in a second line; a control's value alone."""
    if not _has(row, f"{name}_before"):
        return _text(row, f"{name}_after")
    values = f"{_text(row, f'{name}_before')} → {_text(row, f'{name}_after')}"
    difference = _interval(row, f"{name}_delta", sign="+").replace("\n", " ")
    return f"{values}\n{difference}" if difference else values


def _interval(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    low, high = _text(row, f"{name}_low"), _text(row, f"{name}_high")
    return _text(row, name, sign) + (f"\n[{low}, {high}]" if low and high else "")


def _has(row: Mapping[str, Any], name: str) -> bool:
    return bool(_text(row, name))


def _text(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A cell as text. Missing values are None or, out of a data frame, unlike themselves (NaN) or pandas' NA."""
    value = row.get(name)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return ""
    return f"{value:{sign}.{2 if name.startswith(_TWO_DECIMALS) else 1}f}"
