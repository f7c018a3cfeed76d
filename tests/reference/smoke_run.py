"""The command ``python -m harness experiment=smoke …``, typed into this process by tests of several files.

In fp32 on every processor, whatever its default: what tests compare must not depend on where they run.
"""

from __future__ import annotations

import os
import sys


def smoke_run(*arguments: str) -> int:
    """Run it on one thread and return its exit status; arguments and environment of the process are put back."""
    from harness import cli

    given, environment = sys.argv, dict(os.environ)
    precision = [] if any(each.startswith("hardware.precision=") for each in arguments) else ["hardware.precision=fp32"]
    sys.argv = ["harness", "experiment=smoke", "hardware.threads=1", *precision, *arguments]
    try:
        return cli.main()
    finally:
        sys.argv = given
        os.environ.clear()
        os.environ.update(environment)
