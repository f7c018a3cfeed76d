"""What the tests of a second process let it do: a module of its own, which that process can import."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.fellows import at_work
from harness.progress import PlanRow, Progress
from harness.stages import Stage, StageRunner, Workspace

DEADLINE_SECONDS = 60.0


def until(path: Path) -> None:
    """Wait for a file that the other process writes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.01)


def sign(path: Path, text: str = "") -> None:
    """Write a file that another process waits for: it is there with all that it holds, or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.rename(path)


def shows(folder: Path, progress: Progress) -> None:
    with progress.stage("sft", 10, "steps") as bar:
        bar.update(3, loss=1.5)
        time.sleep(0.3)
        bar.update(7, loss=0.5)
    progress.plan([PlanRow("reward_model", "0123abcd", False, 1000, 2.0, None)])
    progress.message("a message")
    progress.warning("a warning")
    progress.finished("sft-1234", 2.0, "loss 0.5")
    progress.waiting("data-5678")
    progress.finished("data-5678", 2.0, "rows", cached=True)
    sign(folder / "done", str(os.getpid()))


def works(folder: Path, progress: Progress) -> None:
    with at_work():
        sign(folder / "begun")
        until(folder / "enough")
    sign(folder / "idle")
    until(folder / "never")


def dies_at_work(folder: Path, progress: Progress) -> None:
    with at_work():
        sign(folder / "begun")
        until(folder / "enough")
        os._exit(9)


def fails(folder: Path, progress: Progress) -> None:
    sign(folder / "tried")
    raise RuntimeError("out of luck")


def refuses(folder: Path, progress: Progress) -> None:
    """A stage that fails in the same way however often it is tried."""

    def run(_: Workspace) -> dict[str, Any]:
        sign(folder / "tried")
        raise UserError("sft.epochs", 3, "is what this test refuses", "leave it out")

    with suppress(UserError):
        StageRunner(folder, progress).run(Stage("sft", 1, {}, {}, None, {}, run))
    sign(folder / "told")


def never_ends(folder: Path, progress: Progress) -> None:
    sign(folder / "pid", str(os.getpid()))
    time.sleep(10 * DEADLINE_SECONDS)
