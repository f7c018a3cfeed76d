"""``python -m harness.leaderboard build runs=runs to=site``: rebuild the leaderboard from records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError

USAGE = """python -m harness.leaderboard build [runs=runs] [to=<runs>/leaderboard]

Rebuilds leaderboard.csv, leaderboard.md and index.html from the records in <runs>/records, and reward_bench.csv and
its part of the pages from those in <runs>/reward_bench.

  runs   the output folder of the runs (default: runs)
  to     where to write (default: the folder leaderboard in runs)"""

_KEYS = ("runs", "to")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns: the exit status: 0, or 2 for a user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help", "help") for argument in given):
        print(USAGE)
        return 0
    try:
        runs, to = _parse(given)
        from harness.leaderboard.build import build

        table = build(runs, to)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tasks = table["task"].nunique()
    models = table.attrs["reward_models"]
    print(
        f"{len(table)} rows, {tasks} task{'' if tasks == 1 else 's'}"
        + (f", {models} reward model{'' if models == 1 else 's'}" if models else "")
    )
    for name in table.attrs["files"]:
        print(to / name)
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Path, Path]:
    if not arguments or arguments[0] != "build":
        raise UserError("command", arguments[0] if arguments else None, "is not known", "say: build runs=DIR to=DIR")
    values: dict[str, str] = {}
    for argument in arguments[1:]:
        key, equals, value = argument.partition("=")
        if not equals or key not in _KEYS:
            raise UserError(
                key, value if equals else None, "is not a setting", f"use {' or '.join(f'{k}=DIR' for k in _KEYS)}"
            )
        if key in values:
            raise UserError(key, value, f"was given before as {values[key]}", "give it once")
        if not value:
            raise UserError(key, None, "is empty", f"give a folder ({key}=DIR)")
        values[key] = value
    runs = Path(values.get("runs", "runs"))
    return runs, Path(values["to"]) if "to" in values else runs / "leaderboard"


if __name__ == "__main__":
    sys.exit(main())
