"""Peak resident memory of this process, per stage where the system lets the mark be reset."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Set the high-water mark back to the present size (Linux: proc(5), clear_refs 5); elsewhere it keeps rising."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_memory_mb() -> float:
    """The high-water mark of memory in MB (10^6 bytes): the larger of resident memory and CUDA's, where it is used."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda.max_memory_allocated() / 1e6 if torch is not None and torch.cuda.is_available() else 0.0
    return round(max(_resident_peak_bytes() / 1e6, cuda), 1)


def _resident_peak_bytes() -> float:
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * scale
