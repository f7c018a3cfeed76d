"""Which rows can be compared, and which of those that can are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.types import Interval


def ranks(values: Sequence[Interval]) -> list[int]:
    """Competition ranks, highest first, where rows that their intervals do not separate share one.

    Rows are clustered from the top: a new rank begins only where all that follow lie, with their intervals, below the
    intervals of all before.

    Source: the clusters of the WMT shared tasks (Bojar et al. 2016), with intervals in place of their pairwise tests.

    >>> ranks([Interval(50, 48, 52), Interval(70, 66, 74), Interval(51, 49, 53), Interval(10, 9, 11)])
    [2, 1, 2, 4]
    """
    order = sorted(range(len(values)), key=lambda index: (-values[index].estimate, index))
    found = [0] * len(values)
    rank, floor = 0, float("inf")
    for place, index in enumerate(order, start=1):
        # Any later row may reach up into the cluster: compare with the highest end of what is still to come.
        reach = max(values[later].high for later in order[place - 1 :])
        if reach < floor:
            rank = place
        floor = min(floor, values[index].low)
        found[index] = rank
    return found


class League(NamedTuple):
    """What rows must share to be ranked together."""

    data_hash: str | None
    task_version: int
    judge_fingerprint: str | None
    signatures: Mapping[str, str]

    def differences(self, other: League) -> list[str]:
        """What sets another league apart from this one, in words; empty where the two can be compared.

        Metrics that only one of them has do not count.
        """
        shared = self.signatures.keys() & other.signatures.keys()
        checks = {
            "another judge": self.judge_fingerprint != other.judge_fingerprint,
            "other data": self.data_hash != other.data_hash,
            "another task version": self.task_version != other.task_version,
            "another metric signature": any(self.signatures[name] != other.signatures[name] for name in shared),
        }
        return [words for words, differs in checks.items() if differs]


def assign(leagues: Sequence[League]) -> list[int]:
    """The number of each row's league, in order of first appearance."""
    merged: list[League] = []
    numbers = []
    for league in leagues:
        number = next((index for index, known in enumerate(merged) if not known.differences(league)), len(merged))
        if number == len(merged):
            merged.append(league)
        else:
            signatures = {**merged[number].signatures, **league.signatures}
            merged[number] = merged[number]._replace(signatures=signatures)
        numbers.append(number)
    return numbers
