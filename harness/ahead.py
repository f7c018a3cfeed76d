"""Work ahead: stages made in a second process while this one makes others. Locks and manifests are what they share.

Nothing depends on it: a stage that the other process did not finish is made by whoever needs it, so its failures need
no word of their own, unless they would come again. What it shows goes through a pipe into the progress of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pickle import PicklingError
from typing import Any

from harness.fellows import join, leave
from harness.progress import PlanRow, Progress, Stage

SAID_EVERY_SECONDS = 0.25
"""How often a stage in the other process tells of its progress at most."""


@contextmanager
def working_ahead(work: Callable[[Progress], None] | None, progress: Progress) -> Iterator[None]:
    """While the context is open, ``work`` runs in a process of its own, and is stopped when the context closes.

    Args:
        work: takes the progress to show itself by; can be pickled. None: nothing is done ahead.
        progress: of this process.
    """
    if work is None:
        yield
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    here, there = context.Pipe(duplex=False)
    marks = context.RawArray("b", 2)
    process = context.Process(target=_work_apart, args=(work, there, marks), daemon=True)
    with _deaf_to_ctrl_c():
        process.start()
    there.close()  # so that the end of the other process is the end of the pipe
    relay = threading.Thread(target=_show, args=(here, progress, marks), daemon=True)
    relay.start()
    join(marks, 0)
    try:
        yield
    finally:
        process.terminate()
        process.join()
        leave()
        relay.join()
        here.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process that is started in here leaves Ctrl-C to this one from its first moment on, imports included."""
    if threading.current_thread() is not threading.main_thread():  # which cannot choose
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work_apart(work: Callable[[Progress], None], there: Connection, marks: Any) -> None:
    """The other process: it leaves Ctrl-C to the one that started it, and does not outlive that one."""
    join(marks, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):  # what failed will be explained where it is needed
        work(_Relayed(there))
    there.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Relayed(Progress):
    """Progress that is shown by another process."""

    def __init__(self, there: Connection) -> None:
        super().__init__("quiet")
        self._there, self._bars_made = there, 0

    def finished(self, name: str, seconds: float, summary: str = "", cached: bool = False) -> None:
        if not cached:  # the other process says so when it comes there
            self._send("finished", name, seconds, summary)

    def plan(self, rows: Sequence[PlanRow]) -> None:
        self._send("plan", rows)

    def message(self, text: str) -> None:
        self._send("message", text)

    def waiting(self, name: str) -> None:
        """Nothing: it waits for its fellow, or for what that one will wait for too and tell."""

    def failed(self, fingerprint: str, error: Exception) -> None:
        super().failed(fingerprint, error)
        self._send("failed", fingerprint, error)

    def warning(self, text: str) -> None:
        self._send("warning", text)

    @contextmanager
    def _stage_bar(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        self._bars_made += 1
        number, told, said = self._bars_made, 0, self._clock()

        def show(stage: Stage) -> None:
            nonlocal told, said
            if self._clock() - said >= SAID_EVERY_SECONDS:
                self._send("update", number, stage.done - told, stage.metrics)
                told, said = stage.done, self._clock()

        self._send("begin", number, name, total, unit)
        try:
            yield Stage(name, total, unit, show, self._clock)
        finally:
            self._send("end", number)

    def _send(self, *event: Any) -> None:
        # Nobody listens any more; or an error holds what cannot be sent, and is met again where its stage is needed.
        with suppress(OSError, PicklingError, TypeError, AttributeError):
            self._there.send(event)


def _show(here: Connection, progress: Progress, marks: Any) -> None:
    """Show what the other process tells, until it ends, however it does."""
    bars: dict[int, tuple[Any, Stage]] = {}
    with suppress(EOFError, OSError):
        while True:
            kind, *told = here.recv()
            if kind == "begin":
                number, name, total, unit = told
                context = progress.stage(name, total, unit)
                bars[number] = (context, context.__enter__())
            elif kind == "update":
                number, advance, metrics = told
                bars[number][1].update(advance, **metrics)
            elif kind == "end":
                bars.pop(told[0])[0].__exit__(None, None, None)
            else:
                getattr(progress, kind)(*told)
    marks[1] = 0
    for context, _ in bars.values():
        context.__exit__(None, None, None)
