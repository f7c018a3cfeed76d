"""What a benchmark found: figures side by side with their ratios, as a table and as JSON, and where they come from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import Summary, ratios

MOST_COMPANY = 0.15
"""Cores that other processes may keep busy before a figure is doubted."""


class Figure(NamedTuple):
    """One quantity, measured on each side in the same rounds.

    Args:
        name: what was measured.
        unit: e.g. ``episodes/s``.
        values: side -> one value per round; the first side is what the ratio is of.
        of: sides whose ratio is shown, the first over the second; None: no ratio.
    """

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    of: tuple[str, str] | None = None

    @property
    def ratio(self) -> Summary | None:
        return None if self.of is None else ratios(self.values[self.of[0]], self.values[self.of[1]])

    def row(self) -> dict[str, Any]:
        """As it stands in the JSON: the values themselves, and what they come to."""
        ratio = self.ratio
        return {
            "name": self.name,
            "unit": self.unit,
            "values": {side: list(values) for side, values in self.values.items()},
            "summaries": {side: asdict(Summary.of(values)) for side, values in self.values.items()},
            "ratio_of": self.of,
            "ratio": None if ratio is None else asdict(ratio),
        }


@dataclass
class Report:
    """All that one command leaves.

    Args:
        benchmark: its name.
        settings: what was asked for, in full.
        threads: that each side computed on.
        figures: what was measured.
        checks: what must hold for the figures to mean anything: a sentence -> whether it does.
        details: everything else that was measured or counted, by name.
        notes: what a reader must know before believing a figure.
    """

    benchmark: str
    settings: Mapping[str, Any]
    threads: int
    figures: list[Figure] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(self.checks.values())

    def text(self) -> str:
        """A table for people: median [lowest, highest] of each side, and of the ratio round by round."""
        rows = [self._cells(figure) for figure in self.figures]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{'holds' if held else 'DOES NOT HOLD'}: {sentence}" for sentence, held in self.checks.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _cells(self, figure: Figure) -> list[str]:
        most = max(len(each.values) for each in self.figures)
        sides = [f"{side} {shown(Summary.of(values))}" for side, values in figure.values.items()]
        ratio, of = figure.ratio, figure.of
        last = "" if ratio is None or of is None else f"{of[0]} / {of[1]} = {shown(ratio)}"
        return [f"{figure.name}, {figure.unit}", *sides, *[""] * (most - len(sides)), last]

    def as_json(self) -> dict[str, Any]:
        from harness.hardware import cores
        from harness.provenance import git_commit, versions

        return {
            "benchmark": self.benchmark,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "settings": dict(self.settings),
            "commit": git_commit(),
            "versions": versions(),
            "machine": {"processor": processor(), "cores": cores(), "threads": self.threads},
            "figures": [figure.row() for figure in self.figures],
            "checks": self.checks,
            "notes": self.notes,
            "details": self.details,
        }

    def note_company(self, others: Sequence[float | None]) -> None:
        """Say so where other processes kept the machine busy: the figures are then theirs as well."""
        known = [cores for cores in others if cores is not None]
        if known and max(known) > MOST_COMPANY:
            most = f"{max(known):.1f}"
            self.notes.append(f"other processes kept up to {most} cores busy: measure again on a quiet machine")

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")


def shown(summary: Summary) -> str:
    """
    >>> shown(Summary(1.0, 15.4321, 1234.5, 3))
    '15.4 [1.00, 1234]'
    """
    low, median, high = (_digits(value) for value in (summary.low, summary.median, summary.high))
    return f"{median} [{low}, {high}]" if summary.count > 1 else median


def _digits(value: float) -> str:
    """Three digits that mean something."""
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def processor() -> str:
    """What the system calls its processor."""
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
