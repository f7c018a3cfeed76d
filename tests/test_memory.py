"""Peak memory: of CUDA too, for every device and anew for every stage."""

from __future__ import annotations

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
