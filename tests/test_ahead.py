"""Work in a second process: what it shows arrives, its failures stay its own, and it ends with the context."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import work_apart as work

from harness.ahead import working_ahead
from harness.errors import UserError
from harness.fellows import at_work, working_elsewhere
from harness.progress import Progress
from harness.stages import Stage, StageRunner

REFERENCE = Path(__file__).parent / "reference"
DEADLINE_SECONDS = 60.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def test_what_it_says_is_shown_here(tmp_path: Path) -> None:
    log, screen = tmp_path / "log", io.StringIO()
    with working_ahead(partial(work.shows, tmp_path), Progress("plain", log, stream=screen)):
        work.until(tmp_path / "done")
        time.sleep(0.2)  # the pipe is read by a thread
    assert int((tmp_path / "done").read_text()) != os.getpid()
    said = screen.getvalue()
    assert "a message" in said
    assert "0123abcd" in said
    assert "warning: a warning" in said
    assert "+ sft-1234" in said
    assert "data-5678" not in said  # this process tells of a stage that is there, or being made, when it comes to it
    assert "sft begins (10 steps)" in log.read_text()


def test_a_failure_over_there_is_none_here(tmp_path: Path) -> None:
    screen = io.StringIO()
    with working_ahead(partial(work.fails, tmp_path), Progress("plain", stream=screen)):
        work.until(tmp_path / "tried")
    assert screen.getvalue() == ""


def test_a_failure_that_would_come_again_is_not_computed_twice(tmp_path: Path) -> None:
    tried, progress = [], Progress("quiet")
    stage = Stage("sft", 1, {}, {}, None, {}, lambda _: tried.append("here") or {})
    with working_ahead(partial(work.refuses, tmp_path), progress):
        work.until(tmp_path / "told")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while stage.fingerprint not in progress.failures:  # it comes through a pipe
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"sft\.epochs=3 is what this test refuses; leave it out"):
            StageRunner(tmp_path, progress).run(stage)
    assert (tmp_path / "tried").exists()
    assert tried == []


def test_it_ends_with_the_context(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), working_ahead(partial(work.never_ends, tmp_path), Progress("quiet")):
        work.until(tmp_path / "pid")
        raise KeyboardInterrupt
    assert not alive(int((tmp_path / "pid").read_text()))


def test_each_process_knows_whether_the_other_is_at_work(tmp_path: Path) -> None:
    with working_ahead(partial(work.works, tmp_path), Progress("quiet")):
        work.until(tmp_path / "begun")
        with at_work():
            assert working_elsewhere() == 1, "its own work is not elsewhere"
        work.sign(tmp_path / "enough")
        work.until(tmp_path / "idle")
        assert working_elsewhere() == 0
    assert working_elsewhere() == 0


def test_who_dies_at_work_is_at_work_no_longer(tmp_path: Path) -> None:
    with working_ahead(partial(work.dies_at_work, tmp_path), Progress("quiet")):
        work.until(tmp_path / "begun")
        assert working_elsewhere() == 1
        work.sign(tmp_path / "enough")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while working_elsewhere():
            assert time.monotonic() < deadline
            time.sleep(0.01)


ENDS_AT_ONCE = """
import os, sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from harness.ahead import working_ahead
from harness.progress import Progress
from work_apart import never_ends, until

if __name__ == "__main__":
    with working_ahead(partial(never_ends, Path(sys.argv[1])), Progress("quiet")):
        until(Path(sys.argv[1]) / "pid")
        os._exit(1)  # as when it is killed: nothing is cleaned up
"""


def test_it_does_not_outlive_a_process_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(ENDS_AT_ONCE)
    subprocess.run([sys.executable, script, tmp_path, REFERENCE], check=False, timeout=DEADLINE_SECONDS)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + DEADLINE_SECONDS
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


STARTS_SLOWLY = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
if __name__ != "__main__":
    Path(sys.argv[1], "importing").touch()
    time.sleep(2)
from harness.ahead import working_ahead
from harness.progress import Progress
from work_apart import never_ends, until

if __name__ == "__main__":
    try:
        with working_ahead(partial(never_ends, Path(sys.argv[1])), Progress("quiet")):
            until(Path(sys.argv[1]) / "importing")
            os.killpg(0, signal.SIGINT)  # as a terminal does: to both processes
            time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(7)
"""


def test_ctrl_c_while_it_starts_is_left_to_this_process(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(STARTS_SLOWLY)
    done = subprocess.run(
        [sys.executable, script, tmp_path, REFERENCE],
        check=False,
        timeout=DEADLINE_SECONDS,
        capture_output=True,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 7
    assert done.stderr == ""
    assert not (tmp_path / "pid").exists()


def test_nothing_to_do_starts_nothing() -> None:
    before = multiprocessing.active_children()
    with working_ahead(None, Progress("quiet")):
        assert multiprocessing.active_children() == before
