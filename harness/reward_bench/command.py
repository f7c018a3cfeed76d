"""The command ``python -m harness.reward_bench``: configured, swept and ended as ``python -m harness`` is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import FAILED, MISTAKE, attempt, launch, quieten_libraries, run_as
from harness.config import register_schemas
from harness.errors import UserError
from harness.output import require_output
from harness.reward_bench.config import SCHEMAS, RewardBenchConfig, validate
from harness.usage import group_options, print_help

if TYPE_CHECKING:
    from harness.progress import Progress

USAGE = """Reward models on files of preferences: accuracy, calibration, length, order, best-of-n, in their own table.

python -m harness.reward_bench [group=option] [key=value] [-m for a sweep over values given as a,b,c]

  python -m harness.reward_bench pairs=dailydialog_pp_pairs data.pairs_path=FILE scorer.path=DIR_OR_HUB_ID
  python -m harness.reward_bench -m pairs=dailydialog_pp_pairs data.pairs_path=FILE scorer.path=DIR_A,DIR_B
  python -m harness.reward_bench scorer.kind=judge scorer.base_url=http://127.0.0.1:8000/v1 scorer.name=NAME ...
  python -m harness.leaderboard build runs=runs to=site         the pages again, from the records alone"""

GROUPS = ("task", "hardware", "tracker")
"""Groups that it shares with ``python -m harness``."""


def main() -> int:
    """Run with the arguments of this process; returns the exit status, as `harness.cli.main`."""
    register_schemas()
    register_schemas({"reward_bench": RewardBenchConfig})
    return launch("reward_bench", run_job, SCHEMAS, show_help)


def show_help(arguments: Sequence[str]) -> None:
    """Print the help, with the arguments' overrides applied."""
    shared = {group: options for group, options in group_options().items() if group in GROUPS}
    print_help(arguments, "reward_bench", USAGE, {**group_options(bench=True), **shared})


def run_job(composed: Any) -> None:
    """One job."""
    run_as(RewardBenchConfig, composed, execute, SCHEMAS)


def execute(config: RewardBenchConfig, overrides: list[str], *, sweep: bool = False) -> int:
    """Validate, run, publish; returns the exit status of this job."""
    from harness.progress import Progress

    try:
        validate(config)
        require_output("output_dir", config.output_dir)
        progress = Progress(config.tracker.mode, Path(config.tracker.log_file) if config.tracker.log_file else None)  # type: ignore[arg-type]
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    try:
        return _execute(config, overrides, progress)
    finally:
        progress.close()


def _execute(config: RewardBenchConfig, overrides: Sequence[str], progress: Progress) -> int:
    quieten_libraries()
    from harness.reward_bench.run import examination, run

    command = shlex.join(["python", "-m", "harness.reward_bench", *overrides])
    try:
        job = examination(config, overrides, command)
    except UserError as error:
        progress.error(str(error))
        return MISTAKE
    return publish(config, progress, attempt(lambda: run(job, progress), progress))


def publish(config: RewardBenchConfig, progress: Progress, status: int) -> int:
    """Rebuild the leaderboard and say where it is; where that fails, the status says so."""
    import traceback

    from harness.pipeline import leaderboard_function, rebuild
    from harness.recording import reason
    from harness.reward_bench.records import FOLDER

    output_dir = Path(config.output_dir)
    try:
        rebuild(output_dir, leaderboard_function("leaderboard", config.leaderboard))
    except UserError as error:
        progress.error(str(error))
        return FAILED
    except Exception as error:
        progress.warning(f"the leaderboard could not be rebuilt: {reason(error)}\n{traceback.format_exc()}")
        return FAILED
    folder = output_dir / "leaderboard"
    progress.files(
        {"table": folder / "reward_bench.csv", "page": folder / "index.html", "records": output_dir / FOLDER}
    )
    return status
