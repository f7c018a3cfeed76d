"""A sweep: k candidates that share their stages against k runs that share nothing, as a user would start them.

The candidates differ in PPO's KL coefficient, so that data, SFT, feedback, reward model and judge are common to them.
Both ways must give the same records: what is shared changes no number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import parser, run
from benchmarks.picture import Bar
from benchmarks.report import Figure, Report
from benchmarks.sides import ROOT
from benchmarks.timing import Measured, Summary, alternate, measure
from harness.errors import RunFailed

KL_COEFFICIENTS = (0.02, 0.05, 0.1, 0.2, 0.01, 0.5, 0.005, 1.0)


class Ran(NamedTuple):
    """One way through all candidates.

    Args:
        measured: what it took, imports of the command included.
        metrics: candidate -> all numbers in its record that another run must repeat.
    """

    measured: Measured
    metrics: dict[str, Any]


def together(candidates: Sequence[str], options: argparse.Namespace) -> Ran:
    """One sweep, in a folder that is empty at the start."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        swept = f"algorithm.kl_coef={','.join(candidates)}"
        _, measured = measure(lambda: harness(["-m", swept, *_common(Path(folder), options)]))
        return Ran(measured, _metrics(Path(folder)))


def apart(candidates: Sequence[str], options: argparse.Namespace) -> Ran:
    """One run after the other, each in an empty folder of its own."""
    with tempfile.TemporaryDirectory(prefix="apart-") as folder:
        places = {candidate: Path(folder) / str(number) for number, candidate in enumerate(candidates)}

        def all_of_them() -> None:
            for candidate, place in places.items():
                harness([f"algorithm.kl_coef={candidate}", *_common(place, options)])

        _, measured = measure(all_of_them)
        metrics: dict[str, Any] = {}
        for place in places.values():
            metrics |= _metrics(place)
        return Ran(measured, metrics)


def _common(folder: Path, options: argparse.Namespace) -> list[str]:
    given = [f"task={options.task}", "tracker=quiet", f"output_dir={folder}", f"hardware.threads={options.threads}"]
    return [*given, *options.override]


def harness(typed: Sequence[str]) -> None:
    """``python -m harness`` in a process of its own, as a user would type it.

    Raises:
        RunFailed: it ended with another status than 0.
    """
    done = subprocess.run(
        [sys.executable, "-m", "harness", *typed],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"harness {' '.join(typed)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")


def _metrics(folder: Path) -> dict[str, Any]:
    """Record by record, the candidate's metrics: everything but times, memory and paths."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "records").glob("*.json"))]
    return {str(row["config"]["algorithm"]["kl_coef"]): row["metrics"] for row in rows if not row["fixed"]}


def compare(options: argparse.Namespace) -> Report:
    """All rounds."""
    candidates = [str(value) for value in KL_COEFFICIENTS[: options.candidates]]
    sides = {"shared": lambda: together(candidates, options), "separate": lambda: apart(candidates, options)}
    if len(candidates) > 1:
        sides["one run"] = lambda: apart(candidates[:1], options)
    ran = alternate(sides, options.rounds)
    seconds = {side: [each.measured.seconds for each in rounds] for side, rounds in ran.items()}
    report = Report("sweep", _asked(options), options.threads)
    report.figures.append(Figure(f"{len(candidates)} candidates", "s", seconds, ("separate", "shared")))
    if len(candidates) > 1:
        more = len(candidates) - 1
        extra = [(whole - one) / more for whole, one in zip(seconds["shared"], seconds["one run"], strict=True)]
        added = {"one more": extra, "one run": seconds["one run"]}
        report.figures.append(Figure("one candidate more", "s", added, ("one more", "one run")))
    for number, (shared, separate) in enumerate(zip(ran["shared"], ran["separate"], strict=True), start=1):
        complete = len(shared.metrics) == len(candidates)
        report.checks[f"round {number}: the same metrics both ways"] = complete and shared.metrics == separate.metrics
    report.note_company([each.measured.others for rounds in ran.values() for each in rounds])
    return report


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("rounds", "candidates", "task", "override")}


def bars(report: Report) -> list[Bar]:
    """Seconds of each way, shared, separate, and one run alone."""
    return [Bar(f"{side}, seconds", Summary.of(values)) for side, values in report.figures[0].values.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("sweep", __doc__, rounds=3, sizes=None)
    options.add_argument(
        "--candidates",
        type=int,
        choices=range(1, len(KL_COEFFICIENTS) + 1),
        default=3,
        help="number of KL coefficients to compare (default: 3)",
    )
    options.add_argument("--task", default="qa", help="task of every run (default: qa)")
    options.add_argument(
        "override",
        nargs="*",
        default=["experiment=smoke"],
        help="what every run changes of its configuration, as python -m harness reads it (default: experiment=smoke)",
    )
    return run(options, compare, arguments, bars=bars)


if __name__ == "__main__":
    sys.exit(main())
