"""What all commands share: their options, where their files go, and how they end."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from benchmarks.picture import Bar, draw, ratio_bars
from benchmarks.report import Report
from benchmarks.sizes import SIZES
from harness.errors import RunFailed, UserError
from harness.hardware import cores


def parser(name: str, about: str | None, *, rounds: int, sizes: Iterable[str] = SIZES) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark.

    Args:
        name: of the module.
        about: its docstring.
        rounds: how often each side is measured by default.
        sizes: of the model, to choose from.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    made.add_argument("--size", choices=sorted(sizes), default="tiny", help="of the model (default: tiny)")
    made.add_argument("--rounds", type=_positive, default=rounds, help=f"measurements of each side (default: {rounds})")
    made.add_argument("--threads", type=_positive, default=cores(), help="of each side (default: all cores)")
    made.add_argument("--work", type=Path, default=None, help="folder for models and texts (default: in /tmp, kept)")
    made.add_argument("--to", type=Path, default=None, help="write all that was measured to this JSON file")
    made.add_argument("--picture", type=Path, default=None, help="draw the ratios into this SVG file")
    return made


def _positive(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def some_of(names: Collection[str], kind: str) -> Callable[[str], list[str]]:
    """An option's type: names separated by commas, each one of these."""

    def chosen(given: str) -> list[str]:
        unknown = [name for name in given.split(",") if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is no {kind}; choose from {', '.join(names)}")
        return given.split(",")

    return chosen


def work_folder(given: Path | None, *parts: str) -> Path:
    """A folder for what is made once and used again."""
    folder = (given or Path(tempfile.gettempdir()) / "rlhf-harness-benchmarks").joinpath(*parts).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(
    options: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace], Report],
    arguments: Sequence[str] | None,
    *,
    bars: Callable[[Report], Sequence[Bar]] = lambda report: ratio_bars(report.figures),
) -> int:
    """Run a benchmark, print what it found, write what was asked for.

    Returns: the exit status: 0; 1 where it failed or something that must hold does not; 2 for a user's mistake.
    """
    given = options.parse_args(arguments)
    if given.picture is not None and given.picture.suffix != ".svg":
        options.error(f"--picture {given.picture}: the drawing is an SVG; name it .svg")
    try:
        report = benchmark(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(report.text())
    if given.to is not None:
        report.write(given.to)
    if given.picture is not None:
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        given.picture.write_text(draw(f"{report.benchmark}, {given.size}", bars(report)), encoding="utf-8")
    return 0 if report.holds else 1
