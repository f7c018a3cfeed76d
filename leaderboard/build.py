"""Rebuild ``leaderboard.csv``, ``reward_bench.csv``, ``leaderboard.md`` and ``index.html`` from records alone."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.leaderboard.markdown import markdown
from harness.leaderboard.page import page
from harness.leaderboard.reward_models import bench_frame, bench_rows
from harness.leaderboard.reward_models_page import TITLE, bench_markdown, bench_section
from harness.leaderboard.table import frame, ranked_rows
from harness.records import read_records
from harness.reward_bench.records import read_bench_records

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@")
"""What spreadsheets take for the start of a formula."""


def build(runs: Path, to: Path) -> pd.DataFrame:
    """Read ``runs/records/*.json`` and the reward bench's, write the files into ``to`` and return the first table.

    ``leaderboard.csv`` and ``reward_bench.csv`` are written where there are records for them; ``attrs["files"]`` of the
    table names what was written, ``attrs["reward_models"]`` counts the second table's rows.

    The same records give the same bytes. Each file is replaced by rename, so that a reader never sees half of one.

    Raises: UserError where there is no record to build from, or ``to`` cannot be written.
    """
    folder = runs / "records"
    records = read_records(folder) if folder.is_dir() else []
    bench = bench_rows(read_bench_records(runs))
    if not records and not bench:
        raise UserError("runs", runs, "holds no readable records/*.json", "give the output folder of a run (runs=DIR)")
    rows = ranked_rows(records)
    table = frame(rows)
    tables = {"leaderboard.csv": table if rows else None, "reward_bench.csv": bench_frame(bench) if bench else None}
    contents = {name: _csv(found) for name, found in tables.items() if found is not None}
    contents |= {
        "leaderboard.md": markdown(rows, bench_markdown(bench) if bench else ()),
        "index.html": page(rows, {TITLE: partial(bench_section, rows=bench)} if bench else {}),
    }
    table.attrs |= {"files": list(contents), "reward_models": len(bench)}
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            scratch = to / f".{name}.{os.getpid()}.tmp"
            scratch.write_text(content, encoding="utf-8", errors="replace", newline="\n")
            scratch.replace(to / name)
    except OSError as error:
        raise UserError("to", to, f"cannot be written ({error.strerror})", "give another folder (to=DIR)") from error
    return table


def _csv(table: pd.DataFrame) -> str:
    plain = table.map(_plain_text).rename(columns=_plain_text)
    return plain.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def _plain_text(value: object) -> object:
    """A text that breaks no line of a CSV file by a lone CR, and that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", " ")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
