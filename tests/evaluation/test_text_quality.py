"""Length, repetition and EOS share by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.text_quality import repeated_share, text_quality
from harness.types import Outputs


@pytest.mark.parametrize(
    ("tokens", "order", "share"),
    [
        ([], 4, 0.0),
        ([7], 4, 0.0),
        ([7, 7, 7], 4, 0.0),  # shorter than one 4-gram
        ([7, 7, 7, 7, 7], 4, 0.5),  # 7777 twice
        ([1, 2, 3, 4, 5], 4, 0.0),
        ([1, 2, 1, 2, 1], 2, 0.5),  # 12 21 12 21
        ([1, 1, 1, 2], 1, 0.5),
    ],
)
def test_repeated_share_by_hand(tokens: list[int], order: int, share: float) -> None:
    assert repeated_share(tokens, order=order) == pytest.approx(share)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_repeated_share_is_a_share_and_ignores_names(tokens: list[int], order: int) -> None:
    share = repeated_share(tokens, order=order)
    assert 0 <= share < 1
    assert share == repeated_share([token + 100 for token in tokens], order=order)


def test_text_quality_per_response() -> None:
    outputs = Outputs(responses=["a b", "", "c"], tokens=[[1, 2, 9], [9], [3] * 5], ended=[True, True, False])
    quality = text_quality(outputs)
    np.testing.assert_array_equal(quality.length, [3, 1, 5])
    np.testing.assert_array_equal(quality.repetition, [0, 0, 0.5])
    np.testing.assert_array_equal(quality.eos, [1, 1, 0])
