"""Rebuild ``leaderboard.csv``, ``leaderboard.md`` and ``index.html`` from records alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.leaderboard.markdown import markdown
from harness.leaderboard.page import page
from harness.leaderboard.table import frame, ranked_rows
from harness.records import read_records

if TYPE_CHECKING:
    import pandas as pd


def build(runs: Path, to: Path) -> pd.DataFrame:
    """Read ``runs/records/*.json``, write the three files into ``to`` and return the table.

    The same records give the same bytes. Each file is replaced by rename, so that a reader never sees half of one.

    Raises: UserError where there is no record to build from, or ``to`` cannot be written.
    """
    folder = runs / "records"
    records = read_records(folder) if folder.is_dir() else []
    if not records:
        raise UserError("runs", runs, "holds no readable records/*.json", "give the output folder of a run (runs=DIR)")
    rows = ranked_rows(records)
    table = frame(rows)
    contents = {
        "leaderboard.csv": table.to_csv(index=False, lineterminator="\n", float_format="%.6g"),
        "leaderboard.md": markdown(rows),
        "index.html": page(rows),
    }
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            scratch = to / f".{name}.{os.getpid()}.tmp"
            scratch.write_text(content, encoding="utf-8", errors="replace", newline="\n")
            scratch.replace(to / name)
    except OSError as error:
        raise UserError("to", to, f"cannot be written ({error.strerror})", "give another folder (to=DIR)") from error
    return table
