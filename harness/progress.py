"""What a person sees while it runs: the plan, a bar per stage, a line per finished stage, the table, the files.

Nothing here may end a run: text that a terminal cannot show is shown with question marks, and a stream that breaks is
left alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from harness.errors import UserError
from harness.footprint import ROLES
from harness.result_table import result_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Mode = Literal["rich", "plain", "quiet"]

_EVERY_SECONDS = 10.0


class PlanRow(NamedTuple):
    """One stage of the plan; None where a number does not apply or is not known.

    ``memory_mb`` is the peak; ``roles`` holds the most that each role has of it, at one time or another. ``adapters``
    are those of the ``parameters`` that are in an adapter.
    """

    stage: str
    fingerprint: str
    cached: bool
    parameters: int | None
    memory_mb: float | None
    tokens: int | None
    roles: Mapping[str, float] = {}
    adapters: int | None = None


class Stage:
    """A running stage. ``update`` moves its bar.

    Args:
        total: how many units it takes; None where that is not known.
        show: what is called with the stage after each update.
        clock: seconds, from any origin.
    """

    def __init__(
        self, name: str, total: int | None, unit: str, show: Callable[[Stage], None], clock: Callable[[], float]
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.tokens = 0, 0
        self.metrics: dict[str, float | str] = {}
        self._show, self._clock, self._start = show, clock, clock()

    def update(self, advance: int = 1, **metrics: float | str) -> None:
        """Advance by some units and show metrics (``loss=…, score=…, kl=…``); one not given keeps its last value.

        ``tokens`` counts those worked on since the last update; what is shown is tokens per second since the stage
        began.
        """
        self.done += advance
        self.tokens += int(float(metrics.pop("tokens", 0)))
        self.metrics.update(metrics)
        self._show(self)

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace so far; None where the total or the pace is not known yet."""
        if not self.total or not self.done:
            return None
        return self.seconds / self.done * max(self.total - self.done, 0)

    def describe(self) -> str:
        """The metrics in one line: ``loss 1.23  kl 0.45  tokens/s 1,234``."""
        parts = [f"{name} {_number(value)}" for name, value in self.metrics.items()]
        if self.tokens and self.seconds > 0:
            parts.append(f"tokens/s {self.tokens / self.seconds:,.0f}")
        return "  ".join(parts)

    def line(self) -> str:
        share = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        left = "" if self.seconds_left is None else f"  {_clock_time(self.seconds_left)} left"
        metrics = self.describe()
        return f"{self.name} {share} {self.unit}{'  ' if metrics else ''}{metrics}{left}"


class Progress:
    """Shows a run in one of three modes, and writes the same into a log file with timestamps.

    Args:
        mode: ``rich``: bars and tables, plain lines where the stream is no terminal. ``plain``: lines, one every 10
            seconds in a stage. ``quiet``: warnings alone, on ``error_stream``.
        log_file: appended to, in every mode; its folder is made.
        stream: stdout where None. ``error_stream``: stderr where None.
        clock: seconds, from any origin.

    Raises: UserError where the log file cannot be written.
    """

    def __init__(
        self,
        mode: Mode = "rich",
        log_file: Path | None = None,
        *,
        stream: TextIO | None = None,
        error_stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._error_stream, self._clock = stream, error_stream, clock
        self._log = _open_log(log_file)
        self._console: Console | None = None
        self._bars: Bars | None = None
        self._lock = threading.RLock()  # stages of another process are shown by a thread of this one
        self.failures: dict[str, Exception] = {}
        self.mode: Mode = mode
        if mode == "rich" and not _shows_rich(self._out):
            self.mode = "plain"

    @property
    def _out(self) -> TextIO | None:
        # Looked up each time: whoever replaces sys.stdout (pytest, a notebook) is followed.
        return self._stream or sys.stdout

    def plan(self, rows: Sequence[PlanRow]) -> None:
        """What will be done: each stage, whether it is cached, and what it is expected to take."""
        heads = ["stage", "fingerprint", "cached", "parameters", "memory (MB)", "tokens"]
        cells = [
            [
                row.stage,
                row.fingerprint[:8],
                "yes" if row.cached else "no",
                *map(_count, (row.parameters, row.memory_mb, row.tokens)),
            ]
            for row in rows
        ]
        if any(row.adapters for row in rows):
            heads.insert(4, "in adapters")
            for row, line in zip(rows, cells, strict=True):
                line.insert(4, _count(row.adapters))
        self._grid("Plan", heads, cells, right=range(3, len(heads)))

    def memory(self, rows: Sequence[PlanRow]) -> None:
        """By stage and role, what memory is expected to be for; roles that no stage has are left out."""
        roles = list(dict.fromkeys(role for role in ROLES if any(role in row.roles for row in rows)))
        shown = [row for row in rows if row.roles]
        cells = [(row.stage, *(_count(row.roles.get(role)) for role in roles)) for row in shown]
        if cells:
            self._grid("Memory by role (MB)", ("stage", *roles), cells, right=range(1, len(roles) + 1))

    def stage(self, name: str, total: int | None, unit: str = "steps") -> AbstractContextManager[Stage]:
        """A bar while the context is open; the stages of a run may nest and overlap."""
        return self._stage_bar(name, total, unit)

    @contextmanager
    def _stage_bar(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        said = self._clock()
        bar: TaskID | None = None

        def show(stage: Stage) -> None:
            nonlocal said
            if bar is not None and self._bars is not None:
                with suppress(Exception):
                    self._bars.update(bar, completed=stage.done, metrics=stage.describe())
            now = self._clock()
            if now - said >= _EVERY_SECONDS:
                said = now
                self._say(stage.line(), to_screen=self.mode == "plain")

        self._log_line(f"{name} begins ({total if total else 'unknown number of'} {unit})")
        if self.mode == "rich":
            with suppress(Exception):
                bar = self._start_bar(name, total, unit)
        try:
            yield Stage(name, total, unit, show, self._clock)
        finally:
            if bar is not None:
                self._end_bar(bar)

    def finished(self, name: str, seconds: float, summary: str = "", cached: bool = False) -> None:
        """One line for a finished stage: its time, or that it was cached, and what came of it.

        Args:
            name: the stage's.
            seconds: wall time that it took; not shown of a cached one.
            summary: what came of it, in a few words.
            cached: whether an earlier run had made it.
        """
        took = "cached" if cached else _clock_time(seconds)
        self._say(
            f"{'=' if cached else '+'} {name:<14} {took:>8}  {summary}".rstrip(), style="dim" if cached else "green"
        )

    def message(self, text: str) -> None:
        self._say(text)

    def waiting(self, name: str) -> None:
        """Tell that a stage is being made by another process."""
        self.message(f"{name}: waiting for the process that makes it")

    def failed(self, fingerprint: str, error: Exception) -> None:
        """Take note of a stage that cannot be made, here or in another process, however often it is tried."""
        self.failures[fingerprint] = error

    def warning(self, text: str) -> None:
        """Shown in every mode; quiet keeps stdout clean and takes stderr."""
        line = f"warning: {text}"
        if self.mode == "quiet":
            self._log_line(line)
            self._write(self._error_stream or sys.stderr, line)
        else:
            self._say(line, style="yellow")

    def error(self, text: str) -> None:
        """A user's mistake: on ``error_stream`` in every mode, and in the log file."""
        self._log_line(text)
        self._write(self._error_stream or sys.stderr, text)

    def table(self, rows: Sequence[Mapping[str, Any]], main_metrics: Mapping[str, str | None] | None = None) -> None:
        """The result: for each row its main metric, gold and win rates, with intervals.

        Args:
            rows: the leaderboard's, as mappings from its column names (``frame.to_dict("records")``).
            main_metrics: task -> main metric (``frame.attrs["main_metrics"]``); where a task has none, the first metric
                that its row holds.
        """
        title, heads, cells = result_table(rows, main_metrics or {})
        self._grid(title, heads, cells)

    def files(self, mapping: Mapping[str, Path | str]) -> None:
        """Where things are: what -> path."""
        width = max((len(name) for name in mapping), default=0)
        for name, path in mapping.items():
            self._say(f"{name:<{width}}  {path}")

    def close(self) -> None:
        """Stop the bars and close the log; what is said afterwards still goes to the screen."""
        self._stop_bars()
        if self._log is not None:
            with suppress(OSError, ValueError):
                self._log.close()
            self._log = None

    def _start_bar(self, name: str, total: int | None, unit: str) -> TaskID:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        with self._lock:
            if self._bars is None:
                text = (
                    TextColumn("{task.fields[unit]}", markup=False),
                    TextColumn("{task.fields[metrics]}", markup=False),
                )
                columns = (
                    BarColumn(bar_width=24),
                    MofNCompleteColumn(),
                    *text,
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                )
                title = TextColumn("{task.description}", markup=False)
                self._bars = Bars(title, *columns, console=self._rich(), transient=True, refresh_per_second=4)
                self._bars.start()
            return self._bars.add_task(f"{name:<14}", total=total, unit=unit, metrics="")

    def _end_bar(self, bar: TaskID) -> None:
        """Take a bar away, and with the last one the display: stages may overlap."""
        with self._lock:
            if self._bars is None:
                return
            with suppress(Exception):
                self._bars.remove_task(bar)
            if not self._bars.tasks:
                self._stop_bars()

    def _stop_bars(self) -> None:
        with self._lock:
            bars, self._bars = self._bars, None
        if bars is not None:
            with suppress(Exception):
                bars.stop()

    def _rich(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._out, highlight=False)
        return self._console

    def _grid(
        self, title: str, heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int] = ()
    ) -> None:
        lines = [title, *_aligned(heads, cells, right)]
        if self.mode == "rich":
            with suppress(Exception):
                self._rich_grid(title, heads, cells, right)
                for line in lines:
                    self._log_line(line)
                return
        for line in lines:
            self._say(line)

    def _rich_grid(
        self, title: str, heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]
    ) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left", header_style="bold")
        for index, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if index in right else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        self._rich().print(table)

    def _say(self, line: str, *, style: str = "", to_screen: bool = True) -> None:
        self._log_line(line)
        if not to_screen or self.mode == "quiet":
            return
        if self.mode == "rich":
            with suppress(Exception):
                self._rich().print(line, style=style or None, markup=False, soft_wrap=True)
                return
        self._write(self._out, line)

    def _write(self, stream: TextIO | None, line: str) -> None:
        if stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        # Broken pipes, closed streams and full disks are no reason to lose a run.
        with suppress(OSError, ValueError, LookupError):
            stream.write(line.encode(encoding, "replace").decode(encoding, "replace") + "\n")
            stream.flush()

    def _log_line(self, line: str) -> None:
        if self._log is not None:
            stamp = datetime.now().astimezone().isoformat(timespec="seconds")
            self._write(self._log, f"{stamp} {line}")


def _open_log(path: Path | None) -> TextIO | None:
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        rule = f"cannot be written ({error.strerror})"
        raise UserError("tracker.log_file", path, rule, "give another file") from error


def _shows_rich(stream: TextIO | None) -> bool:
    """True for a terminal that can show what rich draws."""
    with suppress(Exception):
        encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
        return stream is not None and stream.isatty() and encoding.startswith("utf")
    return False


def _aligned(heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    # A cell may be two lines in a drawn table; here it is one.
    rows = [[cell.replace("\n", " ") for cell in row] for row in (heads, *cells)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        padded = (
            f"{cell:>{width}}" if index in right else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _clock_time(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> _clock_time(4.21), _clock_time(75), _clock_time(3725)
    ('4.2 s', '1:15', '1:02:05')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
