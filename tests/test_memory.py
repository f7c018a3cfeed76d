"""Peak memory: of CUDA too, for every device and anew for every stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.memory import peak_memory_mb, reset_peak_memory


def test_the_peak_on_cuda_is_the_stage_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [3e12, 5e12]  # more than any machine's resident memory

    def reset(device: int) -> None:
        peaks[device] = 0

    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: len(peaks),
        max_memory_allocated=lambda device: peaks[device],
        reset_peak_memory_stats=reset,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert peak_memory_mb() == 5e6
    reset_peak_memory()
    assert 0 < peak_memory_mb() < 5e6


FAULTS = """
import resource
from harness.memory import keep_freed_memory, reset_peak_memory, peak_memory_mb
if {kept}:
    keep_freed_memory()
size = 20_000_000
def used():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
used()
again = used()
reset_peak_memory()
print(again, peak_memory_mb())
"""


def _faults(kept: bool, **environment: str) -> tuple[int, float]:
    """Page faults of the second of two blocks of 20 MB, and the resident memory in MB when both are gone."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(kept=kept)],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    faults, peak = done.stdout.split()
    return int(faults), float(peak)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_and_given_back_between_stages() -> None:
    pages = 20_000_000 // os.sysconf("SC_PAGE_SIZE")
    given_back, kept = _faults(False), _faults(True)
    assert given_back[0] > pages / 2 > 100 > kept[0]
    assert kept[1] < given_back[1] + 10, "a stage's mark starts without what an earlier one freed"
    assert _faults(True, MALLOC_TRIM_THRESHOLD_="131072")[0] > pages / 2, "the user's own setting stands"
