"""What a figure is: several measurements in turn with those it is compared to, and how busy the machine was meanwhile.

Nothing here imports more than Python's own library: the other system's environment runs it too.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

_CPU = Path("/proc/stat")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Summary:
    """Of several measurements of one thing."""

    low: float
    median: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """
        >>> Summary.of([3.0, 1.0, 2.0])
        Summary(low=1.0, median=2.0, high=3.0, count=3)
        """
        return cls(min(values), statistics.median(values), max(values), len(values))


class Measured(NamedTuple):
    """One measurement.

    Args:
        seconds: on the wall.
        others: cores that other processes kept busy meanwhile; None where the system does not tell. Above a tenth or
            so, the seconds are worth little.
    """

    seconds: float
    others: float | None


def measure(work: Callable[[], Result]) -> tuple[Result, Measured]:
    """Do the work once; its result and what it took."""
    busy, own, started = _machine_seconds(), _own_seconds(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    after = _machine_seconds()
    if busy is None or after is None:
        return result, Measured(seconds, None)
    # The kernel counts in ticks of 10 ms: what is left of a short measurement may come out a little below 0.
    return result, Measured(seconds, max(after - busy - (_own_seconds() - own), 0.0) / max(seconds, 1e-9))


def alternate(sides: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """Run every side once per round, each round beginning with another, so that what drifts meets all of them.

    >>> order = []
    >>> _ = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    >>> order
    ['a', 'b', 'b', 'a']
    """
    names = list(sides)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(sides[name]())
    return results


def ratios(of: Sequence[float], to: Sequence[float]) -> Summary:
    """Of measurements of the same rounds, round by round.

    >>> ratios([4.0, 9.0, 4.0], [2.0, 3.0, 4.0])
    Summary(low=1.0, median=2.0, high=3.0, count=3)
    """
    return Summary.of([one / other for one, other in zip(of, to, strict=True)])


def _machine_seconds() -> float | None:
    """CPU seconds that all processes together have used; None off Linux. Source: proc(5), /proc/stat."""
    if not _CPU.is_file():
        return None
    user, nice, system, _idle, _wait, irq, softirq = map(int, _CPU.read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
