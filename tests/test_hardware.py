"""What follows from the hardware: which library multiplies, what the user is told, how work is shared out."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import fellows
from harness import hardware as module
from harness.config import HardwareConfig
from harness.hardware import Hardware, batches, multiplies_bf16, prefers_onednn, sees_gpu

AMD, INTEL = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\n", "vendor_id\t: GenuineIntel\ncpu family\t: 6\n"
ZEN_4 = AMD.replace("26", "25")
ON_WINDOWS = "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    """Stands in for the processor: its instructions as torch names them, its maker, its architecture."""

    def be(capability: str, maker: str = AMD, machine: str = "x86_64") -> None:
        monkeypatch.setattr(module, "cpu_capability", lambda: capability)
        monkeypatch.setattr(module, "_processor", lambda: maker)
        monkeypatch.setattr(module.platform, "machine", lambda: machine)
        forget()

    def forget() -> None:
        prefers_onednn.cache_clear()
        multiplies_bf16.cache_clear()

    yield be
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [
        ("AVX512", AMD, True),
        ("AVX512", ON_WINDOWS, True),
        ("AVX512", ZEN_4, False),
        ("AVX512", INTEL, False),
        ("AVX2", AMD, False),
        ("DEFAULT", "", False),
    ],
)
def test_onednn_multiplies_where_mkl_leaves_much_aside(processor, capability, maker, expected):
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


@pytest.mark.parametrize(
    ("capability", "flags", "expected"),
    [
        ("AVX512", "fma avx2 avx512f avx512_bf16 avx512_vbmi2", "bf16"),
        ("AVX512", "avx512f amx_bf16 amx_tile", "bf16"),
        ("AVX512", "fma avx2 avx512f avx512_vnni", "fp32"),
        ("AVX2", "fma avx2", "fp32"),
        ("AVX2", "fma avx2 avx512f avx512_bf16", "fp32"),  # torch was told to leave it aside
    ],
)
def test_precision_is_half_by_default_where_the_processor_has_products_in_it(processor, capability, flags, expected):
    processor(capability, f"{ZEN_4}flags\t\t: {flags}\n")
    assert Hardware.resolve(HardwareConfig(device="cpu")).precision == expected
    assert Hardware.resolve(HardwareConfig(device="cpu", precision="fp32")).precision == "fp32"
    assert Hardware.resolve(HardwareConfig(device="cpu", precision="bf16")).precision == "bf16"


def test_the_processors_maker_is_read_from_the_system():
    assert module._processor()


def test_torch_need_not_be_asked_for_the_instructions_that_it_uses(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert module.cpu_capability() == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16", "AVX512"),
        ("fma avx avx2 avx512f avx512cd avx512er avx512pf", "AVX2"),  # Xeon Phi
        ("fma avx avx2", "AVX2"),
        ("avx sse4_2", "DEFAULT"),
    ],
)
def test_instructions_go_by_torchs_rule(monkeypatch, flags, expected):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(module, "_processor", lambda: f"vendor_id : GenuineIntel\nflags\t\t: {flags}\nbugs : spectre\n")
    assert module.cpu_capability() == expected


@pytest.mark.parametrize("told", [True, False])
def test_torch_is_asked_where_it_was_told_otherwise_and_where_the_system_tells_nothing(monkeypatch, told):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "asked")
    if told:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    else:
        monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
        monkeypatch.setattr(module, "_processor", lambda: ON_WINDOWS)
    assert module.cpu_capability() == "asked"


@pytest.mark.parametrize(("driver", "asked", "expected"), [(None, [], "cpu"), ("nvidiactl", [1], "cuda")])
def test_torch_is_asked_for_a_gpu_where_there_is_a_driver(monkeypatch, tmp_path, driver, asked, expected):
    seen = []
    (tmp_path / "nvme0n1").touch()  # a disk
    if driver is not None:
        (tmp_path / driver).touch()
    monkeypatch.setattr(module, "Path", lambda _: tmp_path)
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.append(1) or True)
    sees_gpu.cache_clear()
    try:
        assert Hardware.resolve(HardwareConfig(precision="fp32")).device == expected
        assert seen == asked
    finally:
        sees_gpu.cache_clear()


def test_torch_has_the_threads_of_a_process_once_it_is_prepared():
    before = torch.get_num_threads()
    try:
        hardware = Hardware.resolve(HardwareConfig(device="cpu", threads=3))
        assert torch.get_num_threads() == before
        assert hardware.prepare() is hardware
        assert torch.get_num_threads() == hardware.threads == 3
    finally:
        torch.set_num_threads(before)


@given(groups=st.integers(0, 30), group=st.integers(1, 4), most=st.integers(1, 40), pieces=st.integers(1, 2))
def test_batches_hold_every_row_once_in_order_and_at_a_time_no_more_than_asked(groups, group, most, pieces):
    rows = list(range(groups * group))
    found = batches(rows, most, pieces=pieces, group=group)
    assert [row for batch in found for row in batch] == rows
    assert all(len(batch) % group == 0 for batch in found)
    assert all(len(batch) * pieces <= most or len(batch) == group for batch in found)
    if groups >= pieces:
        assert len(found) >= pieces


@pytest.mark.parametrize(
    ("hardware", "threads"),
    [
        (Hardware("cpu", "fp32", 1, 2), 2),
        (Hardware("cpu", "fp32", 2, 1), 2),
        (Hardware("cpu", "fp32", 1, 1), 1),
        (Hardware("cpu", "bf16", 1, 2), 2),
        (Hardware("cuda", "fp32", 1, 2), 1),
    ],
)
def test_work_is_shared_out_over_as_many_threads_as_there_are(hardware, threads):
    seen, together = {}, threading.Barrier(threads, timeout=120)

    def work(item):
        together.wait()  # nobody gets past it alone where there should be two
        seen[item] = threading.current_thread()

    hardware.share_out(work, range(6))
    assert sorted(seen) == list(range(6))
    assert len(set(seen.values())) == threads


def test_one_item_has_all_threads_to_itself():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        Hardware("cpu", "fp32", 2, 1).share_out(lambda item: seen.append(torch.get_num_threads()), [0])
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


@pytest.mark.parametrize("failing", [0, 1], ids=["first", "other"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_after_a_failure_no_other_item_begins(workers, stop, failing):
    begun, failed = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == failing:
            failed.set()
            raise stop
        if workers == 2:
            failed.wait(120)
            time.sleep(0.01)

    with pytest.raises(stop):
        Hardware("cpu", "fp32", 1, workers).share_out(work, range(1000))
    if workers == 2:
        assert len(begun) < 500
    else:
        assert len(begun) == failing + 1


def test_ctrl_c_while_another_work_is_waited_for_stops_that_one():
    begun, stop, ended = threading.Event(), threading.Event(), []

    def work():
        if threading.current_thread() is threading.main_thread():
            begun.wait(120)
            return
        begun.set()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        ended.append(stop.wait(120))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Hardware("cpu", "fp32", 1, 2).beside(work, work, stop=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]


@pytest.fixture
def marks():
    """Two processes of one job, of which this is the first."""
    shared = [0, 0]
    fellows.join(shared, 0)
    yield shared
    fellows.leave()


def test_a_second_thread_begins_when_the_other_process_has_no_work_any_more(marks):
    marks[1], done = 1, []

    def work(item):
        done.append((item, threading.current_thread()))
        if item == 9:
            marks[1] = 0
        if item > 9:
            time.sleep(0.05)

    with fellows.at_work():
        Hardware("cpu", "fp32", 1, 2).share_out(work, range(20))
    assert sorted(item for item, _ in done) == list(range(20))
    assert {thread for item, thread in done if item < 10} == {threading.main_thread()}
    assert len({thread for item, thread in done if item >= 10}) == 2


def test_while_the_other_process_works_threads_beyond_its_own_still_count(marks):
    """Eight cores are four threads for each of two processes: two for each piece."""
    marks[1], together, seen = 1, threading.Barrier(2, timeout=120), []

    def work(item):
        together.wait()
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        Hardware("cpu", "fp32", 4, 2).share_out(work, range(2))
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_results_come_in_the_order_of_the_works_whoever_made_them(marks):
    hardware = Hardware("cpu", "fp32", 1, 2)
    for busy in (0, 1):
        marks[1] = busy
        assert hardware.beside(*(partial(int, number) for number in range(50))) == list(range(50))
