from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.leaderboard.ranking import League, assign, ranks
from harness.types import Interval


def test_overlapping_intervals_share_a_rank() -> None:
    rows = [Interval(80, 78, 82), Interval(79, 77, 81), Interval(70, 69, 71), Interval(60, 50, 70), Interval(10, 9, 11)]
    assert ranks(rows) == [1, 1, 3, 3, 5]


def test_a_wide_interval_joins_what_it_covers() -> None:
    # The lowest estimate reaches over all others: nothing is separated from it, so nothing is from the rest.
    assert ranks([Interval(60, 59, 61), Interval(50, 49, 51), Interval(40, 10, 90)]) == [1, 1, 1]


def test_touching_is_not_separated_and_empty_is_empty() -> None:
    assert ranks([Interval(5, 4, 6), Interval(7, 6, 8)]) == [1, 1]
    assert ranks([Interval(5, 4, 5.9), Interval(7, 6, 8)]) == [2, 1]
    assert ranks([]) == []


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6), st.integers(0, 6)), max_size=9))
def test_ranks_are_the_components_of_the_overlap_graph(rows: list[tuple[int, int, int]]) -> None:
    """Against a naive transitive closure."""
    values = [Interval(middle, middle - below, middle + above) for middle, below, above in rows]
    joined = [{index} for index in range(len(values))]
    for _ in values:
        for one, a in enumerate(values):
            for other, b in enumerate(values):
                if a.low <= b.high and b.low <= a.high:
                    joined[one] |= joined[other]
    above = [
        sum(values[other].estimate > max(values[index].estimate for index in group) for other in range(len(values)))
        for group in joined
    ]
    assert ranks(values) == [1 + count for count in above]


def test_leagues() -> None:
    one = League("d", 1, "j", {"bleu": "13a"})
    assert one.differences(one._replace(judge_fingerprint="k", data_hash="e")) == ["another judge", "other data"]
    assert one.differences(one._replace(signatures={"bleu": "char"})) == ["another metric signature"]
    assert one.differences(one._replace(task_version=2)) == ["another task version"]
    # A row with one more metric can still be compared.
    more = one._replace(signatures={"bleu": "13a", "chrf": "2"})
    assert assign([one, more, one._replace(data_hash="e"), one._replace(signatures={"chrf": "3"})]) == [0, 0, 1, 2]
