"""The command ``python -m harness experiment=smoke …``, typed into this process by tests of several files."""

from __future__ import annotations

import os
import sys


def smoke_run(*arguments: str) -> int:
    """Run it on one thread and return its exit status; arguments and environment of the process are put back."""
    from harness import cli

    given, environment = sys.argv, dict(os.environ)
    sys.argv = ["harness", "experiment=smoke", "hardware.threads=1", *arguments]
    try:
        return cli.main()
    finally:
        sys.argv = given
        os.environ.clear()
        os.environ.update(environment)
