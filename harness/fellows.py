"""Which of a job's processes are at work: while one waits, its cores are free for the second threads of the others."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any


class _Board:
    """The processes of this job, as this one sees them.

    Args:
        marks: one of each process, 1 while it is at work; in memory that they share.
        own: the index of this process.
    """

    def __init__(self, marks: MutableSequence[int], own: int) -> None:
        self.marks, self.own = marks, own


_board = _Board([0], 0)


def join(marks: Any, own: int) -> None:
    """Take part as the process of index ``own`` in those that share ``marks``."""
    global _board
    marks[own] = _board.marks[_board.own]
    _board = _Board(marks, own)


def leave() -> None:
    """Be alone again."""
    join([0], 0)


@contextmanager
def at_work() -> Iterator[None]:
    """This process is at work inside."""
    _board.marks[_board.own] = 1
    try:
        yield
    finally:
        _board.marks[_board.own] = 0


def working_elsewhere() -> int:
    """How many of the other processes are at work now."""
    return sum(_board.marks) - _board.marks[_board.own]
