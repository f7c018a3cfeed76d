from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.progress import PlanRow, Progress
from harness.result_table import result_table

NAN = float("nan")
PLAN = [
    PlanRow("sft", "0123456789abcdef", True, 437_000, 850.4, 1_200_000),
    PlanRow("ppo", "fedcba9876543210", False, None, None, None),
]
ROW = {
    "rank": 1,
    "task": "qa",
    "candidate": "default",
    "f1_before": 30.0,
    "f1_after": 41.0,
    "f1_delta": 11.0,
    "f1_delta_low": 9.5,
    "f1_delta_high": 12.5,
    "exact_match_after": 3.0,
    "win_rate": 70.0,
    "win_rate_low": 68.0,
    "win_rate_high": 72.0,
    "win_rate_reference": NAN,
    "kl": None,
    "flags": "",
    "status": "ok",
}


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what it is given."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")

    def isatty(self) -> bool:
        return True

    def said(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def _everything(progress: Progress) -> None:
    progress.plan(PLAN)
    with progress.stage("sft", 10, "batches") as stage:
        for _ in range(10):
            stage.update(loss=1.25, tokens=100)
    progress.finished("sft", 75.0, "loss 1.25", cached=False)
    progress.finished("judge", 0.0, "accuracy 81.0", cached=True)
    progress.message("two [bold]words[/bold]")
    progress.warning("cut 3 % of the prompts")
    progress.table([ROW], {"qa": "f1"})
    progress.files({"table": Path("runs/leaderboard/leaderboard.csv")})
    progress.close()


def test_plain_lines() -> None:
    out = io.StringIO()
    _everything(Progress("plain", stream=out))
    lines = out.getvalue().splitlines()
    assert lines[1].split() == ["stage", "fingerprint", "cached", "parameters", "memory", "(MB)", "tokens"]
    assert lines[3].split() == ["sft", "01234567", "yes", "437,000", "850", "1,200,000"]
    assert lines[4].split() == ["ppo", "fedcba98", "no", "-", "-", "-"]
    assert "+ sft                1:15  loss 1.25" in lines
    assert "= judge            cached  accuracy 81.0" in lines
    assert "two [bold]words[/bold]" in lines
    assert "warning: cut 3 % of the prompts" in lines
    assert any("30.0 → 41.0 +11.0 [9.5, 12.5]" in line and "70.0 [68.0, 72.0]" in line for line in lines)
    assert lines[-1] == "table  runs/leaderboard/leaderboard.csv"
    assert "nan" not in out.getvalue()


def test_a_line_every_ten_seconds() -> None:
    now, out = [0.0], io.StringIO()
    progress = Progress("plain", stream=out, clock=lambda: now[0])
    with progress.stage("ppo", 100, "steps") as stage:
        for _ in range(25):
            now[0] += 1.0
            stage.update(score=1.5, kl=0.25, tokens=50)
    # After 10 of 100 steps in 10 s, 90 s are left; after 20, 80.
    assert out.getvalue().splitlines() == [
        "ppo 10/100 steps  score 1.5  kl 0.25  tokens/s 50  1:30 left",
        "ppo 20/100 steps  score 1.5  kl 0.25  tokens/s 50  1:20 left",
    ]


def test_an_unknown_total_has_no_time_left() -> None:
    now, out = [0.0], io.StringIO()
    with Progress("plain", stream=out, clock=lambda: now[0]).stage("sft", None, "pairs") as stage:
        now[0] += 60.0
        stage.update(7)
    assert out.getvalue() == "sft 7 pairs\n"


def test_quiet_says_warnings_alone_and_logs_all(tmp_path: Path) -> None:
    out, error, log = io.StringIO(), io.StringIO(), tmp_path / "new" / "run.log"
    _everything(Progress("quiet", log, stream=out, error_stream=error))
    assert out.getvalue() == ""
    assert error.getvalue() == "warning: cut 3 % of the prompts\n"
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(line[:2] == "20" and line[10] == "T" for line in lines)
    for words in ("sft begins (10 batches)", "+ sft", "= judge", "30.0 → 41.0", "leaderboard.csv", "01234567"):
        assert any(words in line for line in lines)
    _everything(Progress("quiet", log, stream=out, error_stream=error))
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2 * len(lines)


def test_a_log_file_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tracker\.log_file="):
        Progress("quiet", tmp_path)


def test_rich_draws_bars_and_tables_on_a_terminal(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    progress = Progress("rich", tmp_path / "log", stream=out)
    assert progress.mode == "rich"
    _everything(progress)
    said = out.said()
    assert "\x1b[" in said
    for words in ("Plan", "437,000", "loss 1.25", "[bold]words[/bold]", "30.0 → 41.0", "leaderboard.csv"):
        assert words in said
    assert "\x1b" not in (tmp_path / "log").read_text(encoding="utf-8")
    # The cursor comes back.
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l")


def test_the_bar_goes_when_a_stage_fails(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    progress = Progress("rich", stream=out)

    def interrupted() -> None:
        with progress.stage("ppo", 5), progress.stage("rollout", 3) as inner:
            inner.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    said = out.said()
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l")
    progress.message("still here")
    assert "still here" in out.said()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal("ascii"), None])
def test_rich_needs_a_terminal_that_shows_unicode(stream: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    progress = Progress("rich", stream=stream)
    assert progress.mode == "plain"
    _everything(progress)


def test_text_that_a_stream_cannot_hold() -> None:
    out = Terminal("ascii")
    progress = Progress("plain", stream=out)
    progress.message("Zürich → \ud800")
    assert out.said() == "Z?rich ? ?\n"
    rich = Progress("rich", stream=Terminal())
    rich.message("lone \ud800 surrogate")
    rich.table([{**ROW, "candidate": "\ud800"}])


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("mode", ["plain", "rich", "quiet"])
def test_a_broken_stream_does_not_end_a_run(mode: Any, tmp_path: Path) -> None:
    """The log, too, has what it has beside a stream that is whole."""
    closed = io.StringIO()
    closed.close()
    logs = []
    for number, stream in enumerate((io.StringIO(), Broken(), closed)):
        log = tmp_path / str(number)
        _everything(Progress(mode, log, stream=stream, error_stream=stream, clock=lambda: 0.0))
        logs.append([line.split(" ", 1)[1] for line in log.read_text().splitlines()])  # after the time of day
    assert len(logs[0]) > 2
    assert logs[1] == logs[2] == logs[0]


def test_a_terminal_that_breaks_later_does_not_end_a_run(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    progress = Progress("rich", tmp_path / "log", stream=out)
    with progress.stage("sft", 3) as stage:
        out.close()
        stage.update(loss=1.0)
    progress.message("said afterwards")
    progress.table([ROW])
    assert "said afterwards" in (tmp_path / "log").read_text()


def test_a_c_locale(tmp_path: Path) -> None:
    code = "from harness.progress import Progress; Progress('rich').message('Z\\xfcrich \\u2192 done')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"Z?rich ? done\n"


def test_rich_is_imported_when_it_is_needed() -> None:
    code = "import sys, harness.progress; sys.exit('rich' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_table_without_a_main_metric_takes_the_first_that_the_row_holds() -> None:
    out = io.StringIO()
    Progress("plain", stream=out).table([ROW, {**ROW, "candidate": "sft", "f1_before": NAN, "rank": NAN}])
    assert "30.0 → 41.0 +11.0 [9.5, 12.5]" in out.getvalue()
    line = next(line for line in out.getvalue().splitlines() if "sft" in line)
    assert "→" not in line
    assert "41.0" in line
    Progress("plain", stream=out).table([])


def test_what_all_rows_share_is_said_once() -> None:
    title, heads, cells = result_table([{**ROW, "flags": "prompt-level intervals"}], {"qa": "f1"})
    assert title == "Result of qa, with 95 % intervals over prompts (one seed)"
    assert heads == ["rank", "candidate", "f1", "win rate"]
    assert cells == [["1", "default", "30.0 → 41.0\n+11.0 [9.5, 12.5]", "70.0\n[68.0, 72.0]"]]
    failed = {"task": "mt", "candidate": "x", "status": "failed: r", "flags": "no judge"}
    title, heads, cells = result_table([ROW, failed], {})
    assert (title, heads[1], heads[-1]) == ("Result, with 95 % intervals", "task", "notes")
    assert cells[1] == ["", "mt", "x", "", "", "failed: r, no judge"]
