"""The memory of this process: its peak, per stage where the system lets the mark be reset, and what becomes of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KEPT = {-3: 2**25, -1: 2**28}
"""glibc's numbers for mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, and bytes: the first may be no larger."""


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB, and 256 MiB in all, for the next request.

    It would give them back to the system at once, and the tensors of every step are of such sizes: each of their pages
    has to be found anew, 16,000 in a training step of nano (docs/performance.md). A setting of the user's own stands.
    """
    if any(name in os.environ for name in ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        return
    for number, size in _KEPT.items():
        _glibc("mallopt", number, size)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function of the C library, where that is glibc."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), name)(*arguments)


def reset_peak_memory() -> None:
    """Set the high-water marks back to the present size: CUDA's, and resident memory's where the system allows it.

    On Linux it does (proc(5), clear_refs 5); elsewhere the mark of resident memory keeps rising. What was freed
    and kept goes back to the system first: it belongs to no stage that is to come.
    """
    _glibc("malloc_trim", 0)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    for cuda, device in _cuda_devices():
        cuda.reset_peak_memory_stats(device)


def peak_memory_mb() -> float:
    """The high-water mark of memory in MB (10^6 bytes): the larger of resident memory and CUDA's, where it is used."""
    on_cuda: list[float] = [cuda.max_memory_allocated(device) for cuda, device in _cuda_devices()]
    return round(max([_resident_peak_bytes(), *on_cuda]) / 1e6, 1)


def _cuda_devices() -> list[tuple[Any, int]]:
    """torch.cuda with each device's index, where this process has begun to use CUDA; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    return [(torch.cuda, device) for device in range(torch.cuda.device_count())]


def _resident_peak_bytes() -> float:
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * scale
