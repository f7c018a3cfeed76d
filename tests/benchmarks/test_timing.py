from __future__ import annotations

import time

import pytest

from benchmarks.timing import Summary, alternate, measure, ratios


def test_a_summary_of_an_even_count_lies_between_the_middle_two() -> None:
    assert Summary.of([4.0, 1.0, 3.0, 2.0]) == Summary(1.0, 2.5, 4.0, 4)


def test_ratios_are_of_the_same_round() -> None:
    """A machine that halves its speed for one round moves both sides, and no ratio."""
    assert ratios([10.0, 5.0, 10.0], [5.0, 2.5, 5.0]) == Summary(2.0, 2.0, 2.0, 3)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_every_side_is_first_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    found = alternate({name: lambda name=name: side(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_measure_returns_the_result_and_the_wall_seconds() -> None:
    result, measured = measure(lambda: (time.sleep(0.05), "done")[1])
    assert result == "done"
    assert 0.05 <= measured.seconds < 5
    assert measured.others is None or measured.others >= 0
