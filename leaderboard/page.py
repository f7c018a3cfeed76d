"""The table as one self-contained HTML page: no external request, all text escaped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from types import MappingProxyType
from typing import Any

from harness.leaderboard.cells import all_columns, badges, overview
from harness.leaderboard.charts import curve_panels
from harness.leaderboard.legend import CAVEATS, decimals, explain
from harness.leaderboard.rows import Row
from harness.leaderboard.table import columns_of
from harness.records import Record, Sample

_TEXTS = ("base", "before", "after")


def page(rows: Sequence[Row], further: Mapping[str, Callable[[int], str]] = MappingProxyType({})) -> str:
    """The whole page. The same rows give the same bytes.

    Args:
        rows: a tab per task.
        further: title -> (the tab's number -> its section), of tabs after the tasks'.
    """
    tasks = list(dict.fromkeys(row.first["task"] for row in rows))
    by_task = {task: [row for row in rows if row.first["task"] == task] for task in tasks}
    records = [record for row in rows for record in row.records + row.failed]
    newest = max((record["created"] for record in records), default="")
    summary = f"{len(records)} records, {len(rows)} rows" + (f", the newest of {newest}" if newest else "")
    sections = [_section(index, task, by_task[task]) for index, task in enumerate(tasks)]
    sections += [section(index) for index, section in enumerate(further.values(), start=len(tasks))]
    tabs = "".join(
        f'<button type="button" role="tab" id="tab-{index}" aria-controls="task-{index}" '
        f'aria-selected="{"true" if index == 0 else "false"}">{escape(title)}</button>'
        for index, title in enumerate((*tasks, *further))
    )
    template = Template(files("harness.leaderboard").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        summary=escape(summary),
        tabs=tabs,
        sections="".join(sections),
        legend=_legend(rows) if rows else "",
        caveats="".join(f"<li>{escape(caveat)}</li>" for caveat in CAVEATS),
        samples=_embedded([_sample_sets(by_task[task]) for task in tasks]),
    )


def _section(index: int, task: str, rows: Sequence[Row]) -> str:
    return f"""
<section id="task-{index}" class="task" role="tabpanel" aria-labelledby="tab-{index}">
<h2>{escape(task)}</h2>
<p class="tools"><label><input type="checkbox" class="all-columns"> all columns</label>
<label><input type="checkbox" class="controls" checked> controls</label></p>
{overview(rows, f"{task}: the main columns")}
{all_columns(rows, f"{task}: all columns")}
{_curves(rows)}
<h3>Samples</h3>
<div class="browser" data-task="{index}"><noscript>The samples need the script that this page carries.</noscript></div>
<h3>How each row was made</h3>
{"".join(_provenance(row) for row in rows)}
</section>"""


def _curves(rows: Sequence[Row]) -> str:
    """Reward against distance from SFT, for the rows whose records hold curves."""
    figures = []
    for row in rows:
        curves = [(record["seed"], record["curves"]) for record in row.records if record["curves"]]
        if curves:
            seeds = ", ".join(str(seed) for seed, _ in curves)
            name = escape(f"{row.cells['candidate']} (seed{'s' if len(curves) > 1 else ''} {seeds})")
            figures.append(f'<div class="curves"><h4>{name}</h4><div class="panels">{curve_panels(curves)}</div></div>')
    if not figures:
        return ""
    note = (
        "Each panel has its own scale. Solid: the policy. Dashed: best-of-n of the SFT policy, where it was measured. "
        "Over-optimisation is where the proxy goes on rising while judge or gold turn."
    )
    return f'<h3>Scores against distance from SFT</h3><p class="note">{escape(note)}</p>{"".join(figures)}'


def _provenance(row: Row) -> str:
    blocks = "".join(_record_block(record) for record in row.records + row.failed)
    kind = ' <span class="badge control">control</span>' if row.fixed else ""
    status = "" if row.cells["status"] == "ok" else f" {badges([row.cells['status']])}"
    head = f"<summary>{escape(str(row.cells['candidate']))}{kind}{status}</summary>"
    return f'<details class="made{" control" if row.fixed else ""}">{head}{blocks}</details>'


def _record_block(record: Record) -> str:
    facts: dict[str, Any] = {
        "status": record["status"] if record["reason"] is None else f"{record['status']}: {record['reason']}",
        "commit": record["git_commit"] or "not known",
        "created": record["created"],
        "overrides": " ".join(record["overrides"]) or "none",
        "data hash": record["data_hash"],
        "task version": record["task_version"],
        "judge fingerprint": record["judge_fingerprint"],
        "wall seconds": round(record["wall_seconds"], 1),
        "peak memory (MB)": record["peak_memory_mb"],
        "device": record["device"],
        "hardware": record["hardware"],
        "versions": record["versions"],
        "fingerprints": record["fingerprints"],
    }
    gold = {name: value for name, value in record["metrics"].items() if name.startswith("gold_")}
    parts = {name: _short({key: result[key] for key in ("before", "after")}) for name, result in gold.items()}
    signatures = {name: result["signature"] for name, result in record["metrics"].items()}
    tables = [
        ("Run", facts),
        ("Endpoint", record.get("api")),
        ("Parts of gold", parts),
        ("Signatures", signatures),
        ("Reward model’s report card", record["report_card"]),
        ("Data report", record["data_report"]),
        ("Config", record["config"]),
    ]
    blocks = "".join(fact_list(title, content, fold=title != "Run") for title, content in tables if content)
    command = f'<pre class="command"><code>{escape(record["command"])}</code></pre>'
    return f"<article><h4>{escape(record['run_id'])}</h4>{command}{blocks}</article>"


def fact_list(title: str, content: Mapping[str, Any], *, fold: bool) -> str:
    """Nested settings or findings as a list of names and values."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _flat(content, ""))
    body = f"<dl>{items}</dl>"
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if fold else body


def _flat(content: Any, name: str) -> list[tuple[str, str]]:
    """Nested settings as dotted names with their values.

    >>> _flat({"a": {"b": 1.0}, "c": [1, 2]}, "")
    [('a.b', '1'), ('c', '1, 2')]
    """
    if isinstance(content, Mapping) and (content or not name):
        return [pair for key, item in content.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(content, list) and any(isinstance(item, Mapping | list) for item in content):
        return [(name, json.dumps(content, ensure_ascii=False))]
    if isinstance(content, list):
        return [(name, ", ".join(map(_short, content)))]
    return [(name, _short(content))]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    return "–" if value is None else str(value)


def _legend(rows: Sequence[Row]) -> str:
    items = []
    for column in columns_of(rows):
        if about := explain(column):
            items.append(f"<dt><code>{escape(column)}</code></dt><dd>{escape(about)}</dd>")
    return "".join(items)


def _sample_sets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the sample browser shows for one task: one set per record that kept samples, the controls last."""
    sets = []
    for row in sorted(rows, key=lambda row: row.fixed):
        for record in row.records:
            if record["samples"]:
                name = f"{record['candidate']}{' (control)' if row.fixed else ''}"
                label = name if len(row.records) == 1 else f"{name}, seed {record['seed']}"
                league = f" · {', '.join(row.apart)}" if row.apart else ""
                sets.append({"label": label + league, "samples": [_sample(sample) for sample in record["samples"]]})
    return sets


def _sample(sample: Sample) -> dict[str, Any]:
    """A sample, each score beside its text: ``gold_after`` and ``after.gold`` both belong to ``after``."""
    texts = {name: {"text": sample[name], "scores": []} for name in _TEXTS if sample[name] is not None}  # type: ignore[literal-required]
    other = []
    for name, value in _flat_numbers(sample["scores"], ""):
        owner = next(
            (text for text in texts if name.endswith((f"_{text}", f".{text}")) or name.startswith(f"{text}.")), None
        )
        if owner is None:
            other.append([name, value])
        else:
            short = name.removeprefix(f"{owner}.").removesuffix(f"_{owner}").removesuffix(f".{owner}")
            texts[owner]["scores"].append([short, value])
    shown = [{"name": name, **texts[name]} for name in texts]
    identity = {"id": sample["id"], "prompt": sample["prompt"], "references": sample["references"]}
    return {**identity, "texts": shown, "scores": other}


def _flat_numbers(scores: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    found = []
    for key, value in scores.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            found += _flat_numbers(value, full)
        elif isinstance(value, float):
            found.append((full, f"{value:.{decimals(full)}f}"))
        elif value is not None:
            found.append((full, str(value)))
    return found


def _embedded(content: Any) -> str:
    """JSON that cannot end its script element: every character that HTML could read is escaped."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
