"""Rows into the table: who is ranked with whom, in which order, under which columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.leaderboard.ranking import assign, ranks
from harness.leaderboard.rows import LABELS, METRIC_CELLS, SCALARS, Row, league_of, metric_names, rows_of
from harness.records import Record
from harness.types import Interval

if TYPE_CHECKING:
    import pandas as pd

FIRST_COLUMNS = ("rank", "task", "candidate", *LABELS, "seeds", "status", "flags", "n_examples")
WIN_RATE_COLUMNS = (
    *("win_rate", "win_rate_low", "win_rate_high"),
    *("win_rate_reference", "win_rate_reference_low", "win_rate_reference_high"),
    *("win_rate_lc", "win_rate_proxy", "win_rate_gold"),
)
PROVENANCE_COLUMNS = ("wall_seconds", "device", "peak_memory_mb", "signatures", "fingerprint", "git_commit", "run_ids")
LAST_COLUMNS = (*WIN_RATE_COLUMNS, *SCALARS, *PROVENANCE_COLUMNS)


def ranked_rows(records: Sequence[Record]) -> list[Row]:
    """All rows, task by task: the ranked ones best first, those without a rank, those that cannot be compared."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows_of(records):
        by_task[row.first["task"]].append(row)
    return [row for task in sorted(by_task) for row in _rank(by_task[task])]


def main_metric(rows: Sequence[Row]) -> str | None:
    """The metric that stands for a task: the newest record's word, else the first it reports; None if all failed."""
    records = sorted((record for row in rows for record in row.records), key=lambda record: record["created"])
    named = [record["main_metric"] for record in records if "main_metric" in record]
    first = [next(iter(record["metrics"])) for record in records if record["metrics"]]
    found = named or first
    return found[-1] if found else None


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The table's columns in its order; a metric that no row has does not apply."""
    metrics = metric_names(record for row in rows for record in row.records)
    cells = [f"{name}_{cell}" for name in metrics if not name.startswith("gold_") for cell in METRIC_CELLS]
    return [*FIRST_COLUMNS, *cells, *LAST_COLUMNS]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The table as in ``leaderboard.csv``; ``attrs["main_metrics"]`` maps each task to its main metric."""
    import pandas as pd

    columns = columns_of(rows)
    table = pd.DataFrame([[_value(row, column) for column in columns] for row in rows], columns=columns)
    table = table.astype({"rank": "Int64", "n_examples": "Int64"})
    tasks = dict.fromkeys(row.first["task"] for row in rows)
    table.attrs["main_metrics"] = {
        task: main_metric([row for row in rows if row.first["task"] == task]) for task in tasks
    }
    return table


def _value(row: Row, column: str) -> object:
    value = row.cells.get(column)
    return ", ".join(value) if isinstance(value, list) else value


def _rank(rows: list[Row]) -> list[Row]:
    """Rank the rows of one task in place, league by league, and put them in the table's order."""
    can_rank = [row for row in rows if "win_rate_reference" in row.cells]
    can_rank.sort(key=lambda row: max(record["created"] for record in row.records), reverse=True)
    leagues: dict[int, list[Row]] = defaultdict(list)
    for row, number in zip(can_rank, assign([league_of(row.first) for row in can_rank]), strict=True):
        leagues[number].append(row)
    # The largest league comes first, the newer one among equals.
    for number, members in enumerate(sorted(leagues.values(), key=len, reverse=True)):
        names = ("win_rate_reference", "win_rate_reference_low", "win_rate_reference_high")
        found = ranks([Interval(*(row.cells[name] for name in names)) for row in members])
        for row, rank in zip(members, found, strict=True):
            row.league, row.cells["rank"] = number, rank
        if number:
            main = next(row for row in can_rank if row.league == 0)
            for row in members:
                # Where this pair shares no metric that differs, a third row's signature parted them.
                row.apart = league_of(main.first).differences(league_of(row.first)) or ["another metric signature"]
                row.cells["flags"].append(f"ranked apart: {', '.join(row.apart)}")
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[object, ...]:
    rate = row.cells.get("win_rate_reference")
    name = (row.cells["candidate"], row.cells["run_ids"])
    return (row.league, not row.records, rate is None, 0.0 if rate is None else -rate, *name)
