"""The reward models' table as a tab of the page, and as a part of the Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from harness.leaderboard.cells import badges
from harness.leaderboard.charts import interval_bar
from harness.leaderboard.markdown import escape_markdown, table_line
from harness.leaderboard.page import fact_list
from harness.leaderboard.reward_models import BenchRow, about, bench_columns, league_label, shown
from harness.types import Interval

TITLE = "reward models"
NOTE = (
    "Each reward model was asked about the same preferences. Accuracy says nothing of what happens when the model is "
    "optimised against; pairs made by a rule are easier than those that people compared. Brackets are 95 % intervals "
    "over prompts."
)
_TEXTS = ("data", "candidate", "model", "kind", "task", "status", "flags", *("device", "data_hash", "fingerprint"))
_TEXT_COLUMNS = (*_TEXTS, "git_commit", "run_id")


def bench_section(index: int, rows: Sequence[BenchRow]) -> str:
    """The tab's content, in the form that the page's script expects of a section."""
    overview = _overview(rows)
    return f"""
<section id="task-{index}" class="task" role="tabpanel" aria-labelledby="tab-{index}">
<h2>Reward models</h2>
<p class="note">{escape(NOTE)}</p>
<p class="tools"><label><input type="checkbox" class="all-columns"> all columns</label></p>
{_table(rows, overview, "overview")}
{_table(rows, bench_columns(rows), "everything")}
<h3>How each row was made</h3>
{"".join(_made(row) for row in rows)}
<details><summary>What each column says</summary><dl>{_legend(rows)}</dl></details>
</section>"""


def bench_markdown(rows: Sequence[BenchRow]) -> list[str]:
    """Lines of the Markdown file."""
    columns = [column for column in _overview(rows) if column != "data"]
    lines = ["## Reward models", "", NOTE, ""]
    for _, group in groupby(rows, key=lambda row: row.league):
        members = list(group)
        lines += [f"### {escape_markdown(league_label(members))}", ""]
        lines += [table_line(columns), table_line(["---"] * len(columns))]
        lines += [table_line([escape_markdown(_text(row, column)) for column in columns]) for row in members]
        lines.append("")
    return lines


def _overview(rows: Sequence[BenchRow]) -> list[str]:
    """The columns that matter first, as far as some row has them; the largest n stands for best-of-n."""
    gains = [name for name in bench_columns(rows) if name.startswith("best_of_") and name.endswith("_gain")]
    wanted = ["rank", "candidate", "kind", "status", "pairs", "accuracy", "ece", "length_correlation"]
    wanted += ["longer_preferred", "longer_labelled", "flip_rate", "first_preferred", "batch_verdicts_changed"]
    wanted += gains[-1:]
    return [name for name in wanted if any(name in row.cells for row in rows)]


def _text(row: BenchRow, column: str) -> str:
    """A cell with its interval, where it has one: ``62.1 [58.0, 66.2]``; and the flags behind the status."""
    text = shown(column, row.cells.get(column))
    low, high = (shown(column, row.cells.get(f"{column}_{end}")) for end in ("low", "high"))
    if column == "status" and row.cells["flags"]:
        return f"{text} ({row.cells['flags']})"
    return f"{text} [{low}, {high}]" if low and high else text


def _table(rows: Sequence[BenchRow], columns: Sequence[str], kind: str) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if column == "rank" else "none"}" class="{_class(column)}">'
        f'<button type="button" title="{escape(about(column))}">{escape(_head(column, kind))}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
        for column in columns
    )
    scale = _scale(rows)
    bodies = []
    for data_hash, group in groupby(rows, key=lambda row: row.league):
        members = list(group)
        head = escape(f"{league_label(members)} · data hash {data_hash}")
        bodies.append(
            f'<tbody class="apart"><tr><th colspan="{len(columns)}" scope="rowgroup">{head}</th></tr></tbody>'
        )
        bodies.append(f"<tbody>{''.join(_tr(row, columns, kind, scale) for row in members)}</tbody>")
    caption = f"Reward models: {'the main columns' if kind == 'overview' else 'all columns'}"
    return (
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _tr(row: BenchRow, columns: Sequence[str], kind: str, scale: tuple[float, float]) -> str:
    cells = []
    for column in columns:
        value = row.cells.get(column)
        tag, scope = ("th", ' scope="row"') if column == "candidate" else ("td", "")
        content = _cell(row, column, scale) if kind == "overview" else escape(shown(column, value))
        key = "" if value is None else escape(str(value))
        cells.append(f'<{tag}{scope} class="{_class(column)}" data-v="{key}">{content}</{tag}>')
    failed = ' class="failed"' if row.record["status"] == "failed" else ""
    return f"<tr{failed}>{''.join(cells)}</tr>"


def _cell(row: BenchRow, column: str, scale: tuple[float, float]) -> str:
    if column == "candidate":
        return f'<span class="name">{escape(str(row.cells[column]))}</span>'
    if column == "status":
        status = str(row.cells[column])
        notes = [flag for flag in row.flags if flag]
        return f'<span class="badge {escape(row.record["status"])}">{escape(status)}</span><br>{badges(notes)}'
    low, high = row.cells.get(f"{column}_low"), row.cells.get(f"{column}_high")
    value = row.cells.get(column)
    if value is None or low is None or high is None:
        return escape(shown(column, value))
    ends = f"<small>[{shown(column, low)}, {shown(column, high)}]</small>"
    bar = ""
    if column == "accuracy":
        bar = interval_bar(Interval(value, low, high), scale, label=f"accuracy {value:.1f}", mark=50.0)
    return f'<span class="value"><b>{shown(column, value)}</b></span>{bar}{ends}'


def _scale(rows: Sequence[BenchRow]) -> tuple[float, float]:
    """What the accuracies' drawings span: all intervals, and chance."""
    ends = [row.cells.get(f"accuracy_{end}") for row in rows for end in ("low", "high")]
    values = [50.0, *(value for value in ends if value is not None)]
    return min(values), max(values)


def _head(column: str, kind: str) -> str:
    """A title: words that can break in the short table, the column's own name in the long one."""
    return column.replace("_", " ") if kind == "overview" else column


def _class(column: str) -> str:
    return "text" if column in _TEXT_COLUMNS else "num"


def _made(row: BenchRow) -> str:
    record = row.record
    run: dict[str, Any] = {
        "status": row.cells["status"],
        "commit": record["git_commit"] or "not known",
        "created": record["created"],
        "data hash": record["data_hash"],
        "wall seconds": round(record["wall_seconds"], 1),
        "device": record["device"],
        "hardware": record["hardware"],
        "versions": record["versions"],
    }
    tables = [("Run", run), ("Report", record["report"]), ("Data", record["data_report"]), ("Config", record["config"])]
    blocks = "".join(fact_list(title, content, fold=title != "Run") for title, content in tables if content)
    command = f'<pre class="command"><code>{escape(record["command"])}</code></pre>'
    head = f"{escape(record['candidate'])} on {escape(record['data'])}"
    return (
        f'<details class="made"><summary>{head}</summary><article><h4>{escape(record["run_id"])}</h4>'
        f"{command}{blocks}</article></details>"
    )


def _legend(rows: Sequence[BenchRow]) -> str:
    return "".join(
        f"<dt><code>{escape(column)}</code></dt><dd>{escape(about(column))}</dd>" for column in bench_columns(rows)
    )
