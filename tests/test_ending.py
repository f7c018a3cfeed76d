"""The end of a process: its status, what was said, and what others registered for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import atexit, threading, time
from harness.cli import end
atexit.register(print, "registered")
{before}
print("said", end=" ")
end({status})
print("never")
"""
LATE = "threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()"


@pytest.mark.parametrize(("before", "said"), [("", "said registered"), (LATE, "said late registered")])
@pytest.mark.parametrize("status", [0, 2, 130])
def test_all_that_was_said_arrives_and_threads_are_waited_for(status: int, before: str, said: str) -> None:
    code = CODE.format(status=status, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (status, said.split(), "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "import os; from harness.cli import end; r, w = os.pipe(); os.dup2(w, 1); os.close(r); print(1); end(1)"
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=buffered)
    assert (done.returncode, done.stderr) == (1, "")
