"""Where the work runs: device, precision and threads, resolved once per job."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from harness.config import HardwareConfig
from harness.errors import UserError
from harness.fellows import working_elsewhere
from harness.memory import keep_freed_memory

Result = TypeVar("Result")
Item = TypeVar("Item")


@contextmanager
def _setting(stop: Event) -> Iterator[None]:
    """Set ``stop`` where what is inside, or the function that this decorates, fails or is interrupted."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def batches(rows: Sequence[Item], most: int, *, pieces: int, group: int = 1) -> list[Sequence[Item]]:
    """``rows``, in their order, in batches of which ``pieces`` at a time come to at most ``most`` rows.

    Few rows are dealt out evenly, so that no piece has nothing to do.

    >>> batches(range(6), 4, pieces=1), batches(range(6), 4, pieces=2), batches("abc", 100, pieces=2)
    ([range(0, 4), range(4, 6)], [range(0, 2), range(2, 4), range(4, 6)], ['ab', 'c'])

    Args:
        rows: a whole number of groups.
        most: rows at a time; a batch has at least one group.
        pieces: batches at a time: those of ``Hardware.pieces``, or 1.
        group: every so many consecutive rows stay together.
    """
    groups = math.ceil(max(len(rows), 1) / group)
    size = group * min(max(most // pieces // group, 1), math.ceil(groups / pieces))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


AMD_IN_ONE_STEP = 26
"""The family of AMD's processors (Zen 5) from which on servers compute 512 bits in one step; before, in two of 256."""
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""What Linux calls the instructions for products in bf16."""


AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}
"""What torch wants of a processor before it takes it for one with AVX-512, as Linux calls it."""
DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "dxg", "kfd")
"""What a GPU's driver leaves in Linux's ``/dev``: CUDA's, on Jetson and under Windows too, and ROCm's."""


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN's fp32 products are faster: on AMD's CPUs to which AVX-512, which MKL keeps from, gives much."""
    return _amd_family() >= AMD_IN_ONE_STEP and cpu_capability().startswith("AVX512")


@functools.cache
def multiplies_bf16() -> bool:
    """Whether torch has this CPU multiply in bf16 (by AVX512-BF16 or AMX), which takes less time than in fp32."""
    return not BF16_FLAGS.isdisjoint(_processor().split()) and cpu_capability().startswith("AVX512")


def cpu_capability() -> str:
    """The widest instructions that torch uses here, in its words.

    Where Linux tells what the processor has, torch's own rule says so without torch, whose import takes a second: a
    plan and a run whose stages are all cached have no other use for it.
    """
    flags = set(_processor().split())
    if "ATEN_CPU_CAPABILITY" in os.environ or "flags" not in flags:
        import torch

        return str(torch.backends.cpu.get_cpu_capability())
    return "AVX512" if flags >= AVX512 else "AVX2" if flags >= {"avx2", "fma"} else "DEFAULT"


@functools.cache
def sees_gpu() -> bool:
    """Whether torch has a GPU to work on; it is asked only where the system has some driver for one."""
    if platform.system() == "Linux" and not any(any(Path("/dev").glob(name)) for name in DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def _amd_family() -> int:
    """The number of the processor's family where AMD made it, else 0."""
    described = _processor()
    family = re.search(r"family\s*:?\s*(\d+)", described, re.IGNORECASE)
    return int(family[1]) if family and "AuthenticAMD" in described else 0


def _processor() -> str:
    """What the system says of the processor, its maker's name included."""
    described = Path("/proc/cpuinfo")
    return described.read_text() if described.is_file() else platform.processor()


@dataclass(frozen=True)
class Hardware:
    """The device, the precision of the matrix products (weights stay fp32), the CPU threads of a process, its fellows.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32`` or ``bf16``.
        threads: of each process.
        workers: stages at a time, each in a process of its own.
    """

    device: str
    precision: str
    threads: int
    workers: int = 1

    @classmethod
    def resolve(cls, config: HardwareConfig) -> Hardware:
        """Choose what ``auto`` stands for; before work begins, ``prepare`` follows.

        Raises:
            UserError: ``hardware.device`` asks for CUDA where there is none.
        """
        device = config.device
        if device == "auto":
            device = "cuda" if sees_gpu() else "cpu"
        if device.startswith("cuda") and not sees_gpu():
            raise UserError("hardware.device", device, "needs a GPU that torch can see", "set it to cpu or auto")
        on_cpu, precision = device == "cpu", config.precision
        if precision == "auto":
            precision = "bf16" if not on_cpu or multiplies_bf16() else "fp32"
        threads = config.threads or max(cores() // (2 if on_cpu else 1), 1)
        return cls(device, precision, threads, config.workers or min(cores(), 2 if on_cpu else 1))

    def prepare(self) -> Hardware:
        """Give torch this process's threads, and on a CPU keep what memory is freed; returns itself."""
        import torch

        torch.set_num_threads(self.threads)
        if self.device == "cpu":
            keep_freed_memory()
        return self

    def autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "fp32":
            return nullcontext()
        kind = self.device.split(":")[0]
        # Its store of cast weights is one for all threads, and each of a CPU's would empty it under the others.
        return torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=kind != "cpu")

    def beside(self, *works: Callable[[], Result], stop: Event | None = None) -> list[Result]:
        """The results of independent pieces of work, on a CPU at the same time where it has the cores for it.

        Each has half of this process's threads, whether they run at the same time or not, so that no number depends on
        that. What a thread takes from its surroundings (inference mode, autocast) each piece has to say itself.

        Args:
            works: each writes what no other reads, but for gradients, of which two add up to the same in either order.
            stop: set where one of them fails, and on Ctrl-C: the others, which are waited for, should end at once.
        """
        found: dict[int, Result] = {}

        def work(index: int) -> None:
            found[index] = works[index]()

        self.share_out(work, range(len(works)), stop=stop)
        return [found[index] for index in range(len(works))]

    @property
    def pieces(self) -> int:
        """Into how many pieces rows that do not depend on each other are dealt, to be worked on ``beside`` each other.

        Two on a CPU, however many cores it has: numbers must not depend on that. One on a GPU, which wants large
        batches.
        """
        return 2 if self.device == "cpu" else 1

    @property
    def threads_each(self) -> int:
        """The threads of each piece."""
        return max(self.threads // self.pieces, 1)

    @contextmanager
    def piece_by_piece(self) -> Iterator[None]:
        """Torch has the threads of one piece inside, between pieces too.

        A team of more would go on waiting busily for its next work, on the core that the next piece needs.
        """
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads_each)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def share_out(self, work: Callable[[Item], None], items: Sequence[Item], *, stop: Event | None = None) -> None:
        """``work`` on every item, in two threads for as long as a core is free for the second one.

        Whoever is through with one takes the next, so both take about as long; the second begins only beside another.
        After a failure, or Ctrl-C, no other begins.

        Args:
            work: on an item, like the works of ``beside``.
            items: what to work on.
            stop: of ``beside``.
        """
        if len(items) < 2 or self.device != "cpu":
            for item in items:
                work(item)
            return
        import torch

        each, left, failed = self.threads_each, deque(items), stop or Event()

        def is_free() -> bool:
            return len(left) > 0 and self.at_once(self.pieces, elsewhere=working_elsewhere())

        def taken(wanted: Callable[[], bool]) -> Iterator[Item]:
            while wanted() and not failed.is_set():
                try:
                    item = left.popleft()
                except IndexError:  # the other one was faster
                    return
                yield item

        @_setting(failed)
        def help_out() -> None:
            for item in taken(is_free):
                work(item)

        before = torch.get_num_threads()
        torch.set_num_threads(each)
        try:
            if not self.at_once(self.pieces):
                for item in taken(lambda: True):
                    work(item)
                return
            pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(each,))
            with pool as other, _setting(failed):  # Ctrl-C too, while the other one is waited for
                later: Future[None] | None = None
                for item in taken(lambda: True):
                    if is_free() and (later is None or later.done()):
                        if later is not None:
                            later.result()  # it had no core any more, unless it failed
                        later = other.submit(help_out)
                    work(item)
                if later is not None:
                    later.result()
        finally:
            torch.set_num_threads(before)

    def at_once(self, count: int, *, elsewhere: int = 0) -> bool:
        """Whether there are cores for so many pieces of work at the same time, with fellows at work ``elsewhere``."""
        each = max(self.threads // max(count, 1), 1)
        alone = count < 2 or self.device != "cpu"
        return not alone and each * count <= self.threads * (self.workers - elsewhere)

    def environment(self) -> dict[str, Any]:
        """What changes numbers, for the stages' fingerprints."""
        return {
            "precision": self.precision,
            "device_type": self.device.split(":")[0],
            "torch": ".".join(version("torch").split(".")[:2]),
            "threads": self.threads,
            "products": "onednn" if self.device == "cpu" and prefers_onednn() else "torch",
        }

    def caution(self) -> str | None:
        """What the user should know of this choice: bf16 where the processor has to emulate it."""
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        if self.device != "cpu" or self.precision != "bf16" or not x86:
            return None
        if cpu_capability().startswith("AVX512"):
            return None
        return "hardware.precision=bf16: a CPU without AVX-512 emulates it, many times slower than fp32; leave it out"

    def description(self) -> str:
        if self.device.startswith("cuda"):
            import torch

            return str(torch.cuda.get_device_name(self.device))
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        at_once = f", {self.workers} stages at a time" if self.workers > 1 else ""
        return f"{platform.machine()} CPU, {threads}{at_once}"
