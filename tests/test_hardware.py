"""What follows from the processor: which library multiplies, and what the user is told."""

from __future__ import annotations

import pytest
import torch

from harness import hardware as module
from harness.hardware import Hardware, prefers_onednn

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    """Stands in for the processor: its instructions as torch names them, its maker, its architecture."""

    def be(capability: str, maker: str = AMD, machine: str = "x86_64") -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(module, "_processor", lambda: maker)
        monkeypatch.setattr(module.platform, "machine", lambda: machine)
        prefers_onednn.cache_clear()

    yield be
    monkeypatch.undo()
    prefers_onednn.cache_clear()


@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [("AVX512", AMD, True), ("AVX512", INTEL, False), ("AVX2", AMD, False), ("DEFAULT", "", False)],
)
def test_onednn_multiplies_where_mkl_leaves_avx512_aside(processor, capability, maker, expected):
    processor(capability, maker)
    assert prefers_onednn() is expected
    assert Hardware("cpu", "fp32", 1).environment()["products"] == ("onednn" if expected else "torch")


@pytest.mark.parametrize(
    ("hardware", "capability", "machine", "cautioned"),
    [
        (Hardware("cpu", "bf16", 1), "AVX2", "x86_64", True),
        (Hardware("cpu", "bf16", 1), "AVX2", "AMD64", True),
        (Hardware("cpu", "bf16", 1), "AVX512", "x86_64", False),
        (Hardware("cpu", "bf16", 1), "DEFAULT", "arm64", False),
        (Hardware("cpu", "fp32", 1), "AVX2", "x86_64", False),
        (Hardware("cuda", "bf16", 1), "AVX2", "x86_64", False),
    ],
)
def test_bf16_that_would_be_emulated_is_cautioned_against(processor, hardware, capability, machine, cautioned):
    processor(capability, machine=machine)
    found = hardware.caution()
    assert (found is not None) == cautioned
    assert found is None or found.startswith("hardware.precision=bf16: ")


def test_the_processors_maker_is_read_from_the_system():
    assert module._processor()
