"""What all commands share: their options, where their files go, and how they end."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from benchmarks.picture import Bar, draw, ratio_bars
from benchmarks.report import Report
from benchmarks.sizes import SIZES
from harness.errors import RunFailed, UserError
from harness.hardware import cores


def parser(
    name: str, about: str | None, *, rounds: int, sizes: Iterable[str] | None = SIZES, threads: int | None = None
) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark.

    Args:
        name: of the module.
        about: its docstring.
        rounds: how often each side is measured by default.
        sizes: of the model, to choose from; None: the benchmark has no such choice, and makes nothing that it keeps.
        threads: by default; None: all cores.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if sizes is not None:
        made.add_argument("--size", choices=sorted(sizes), default="tiny", help="size of the model (default: tiny)")
        made.add_argument(
            "--work", type=Path, default=None, help="folder that keeps models and texts (default: one in /tmp)"
        )
    made.add_argument(
        "--rounds", type=positive, default=rounds, help=f"number of measurements of each side (default: {rounds})"
    )
    made.add_argument(
        "--threads",
        type=positive,
        default=threads or cores(),
        help=f"threads that each side computes on (default: {threads or 'all cores'})",
    )
    made.add_argument(
        "--to", type=Path, default=None, help="JSON file to write all that was measured to (default: none)"
    )
    made.add_argument("--picture", type=Path, default=None, help="SVG file to draw the ratios into (default: none)")
    return made


def positive(given: str) -> int:
    """An option's type: 1, 2, 3 …"""
    try:
        number = int(given)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{given} is no whole number from 1 on")
    return number


def factor(given: str) -> float:
    """An option's type: a number above 0 and below infinity."""
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{given} is no number above 0")
    return number


def some_of(names: Collection[str], kind: str) -> Callable[[str], list[str]]:
    """An option's type: names separated by commas, each one of these."""

    def chosen(given: str) -> list[str]:
        unknown = [name for name in given.split(",") if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is no {kind}; choose from {', '.join(names)}")
        return given.split(",")

    return chosen


def add_names(made: argparse.ArgumentParser, option: str, names: Collection[str], kind: str, about: str) -> None:
    """Add an option of names of one kind, separated by commas, by default all.

    Args:
        made: the parser that gets it.
        option: as it is written, with its hyphens.
        names: those that may be given; another one is an error of the parser.
        kind: what one of them is, for that error.
        about: what the option is for, for ``--help``.
    """
    text = f"{about}, separated by commas (default: {','.join(names)})"
    made.add_argument(option, type=some_of(names, kind), default=list(names), help=text)


def work_folder(given: Path | None, *parts: str) -> Path:
    """A folder for what is made once and used again."""
    folder = (given or Path(tempfile.gettempdir()) / "rlhf-harness-benchmarks").joinpath(*parts).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made_folder(given: Path | None, *parts: str) -> Path:
    """A folder, under ``work_folder``, for models and texts that only the same code and versions would make again."""
    *above, last = parts
    return work_folder(given, *above, f"{last}-{_making()}")


@cache
def _making() -> str:
    """A digest of all that decides what is made: the benchmarks' and the harness's code, torch and transformers."""
    digest = hashlib.sha256()
    for package in ("torch", "transformers"):
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    root = Path(__file__).resolve().parents[1]
    for path in sorted(path for folder in ("benchmarks", "harness") for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run(
    options: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace], Report],
    arguments: Sequence[str] | None,
    *,
    bars: Callable[[Report], Sequence[Bar]] = lambda report: ratio_bars(report.figures),
) -> int:
    """Run a benchmark, print what it found, write what was asked for.

    Args:
        options: the benchmark's parser, with ``--to`` and ``--picture``.
        benchmark: the work; its UserError and RunFailed become a message and an exit status.
        arguments: the command line; None: the process's own.
        bars: what the picture shows of a report.

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
        title = ", ".join(filter(None, (report.benchmark, getattr(given, "size", None))))
        given.picture.write_text(draw(title, bars(report)), encoding="utf-8")
    return 0 if report.holds else 1
