"""TRL's environment: python -m benchmarks.trl_environment DIR makes one, with the last release that had PPO."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import RunFailed

TRL = "1.12.0"
REQUIREMENTS = ("torch==2.13.0",), (f"trl=={TRL}", "transformers==5.23.0", "datasets==5.2.0", "accelerate==1.15.0")
"""Installed one tuple after the other: torch first, so that nothing brings another."""


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(folder: Path) -> Path:
    """A virtual environment with TRL in ``folder``; what is there already is kept.

    Returns: its Python.

    Raises:
        RunFailed: pip could not install it.
    """
    python, finished = python_of(folder), folder / "finished"
    if finished.is_file():
        return python
    print(f"TRL's environment goes to {folder}: a few minutes and about 2 GB", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder)])
    for packages in REQUIREMENTS:
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    finished.touch()
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_environment", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the environment goes; one that is there already is kept")
    try:
        print(make(parser.parse_args(arguments).folder.resolve()))
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
