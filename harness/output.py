"""The folder that jobs write to: what keeps them from it is found before any work, and said by its key."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.overrides import value_text

FOLDERS = ("hydra.sweep.dir", "hydra.run.dir", "output_dir")
"""Keys of folders that are made before a job begins."""
REMEDY = "give a folder that can be made and written"


def require_output(key: str, value: str, *, written: bool = True) -> None:
    """Make the folder, and find out whether it can be written.

    Raises:
        UserError: naming ``key``.
    """
    if not value.strip():
        raise UserError(key, value, "names no folder", "give one such as runs, or leave it out")
    try:
        folder = Path(value)
        folder.mkdir(parents=True, exist_ok=True)
        if written:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(key, value, f"cannot be used ({reason(error)})", REMEDY) from None


def unusable(error: OSError, arguments: Sequence[str]) -> UserError | None:
    """What to say where Hydra could not read a file of a configuration, or make a folder; None: it was neither."""
    if error.filename is None:
        return None
    path = str(error.filename)
    if path.endswith((".yaml", ".yml")) and not path.endswith("multirun.yaml"):
        return UserError(path, None, f"cannot be read ({reason(error)})", "correct its permissions")
    given = {argument.lstrip("+").partition("=")[0]: value_text(argument).strip("'\"") for argument in arguments}
    for key in FOLDERS:
        value = given.get(key)
        if value and (path.startswith(value) or value.startswith(path)):
            return UserError(key, value, f"cannot be used ({reason(error)})", REMEDY)
    return UserError("output_dir", path, f"cannot be used ({reason(error)})", REMEDY)


def reason(error: OSError) -> str:
    """What the system says, in a few words."""
    return error.strerror or str(error)
