from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.training.masks import (
    kept,
    last_index,
    left_pad,
    position_ids,
    right_pad,
)

PAD = 0
sequences = st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=5)
filled_sequences = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=6), min_size=1, max_size=5)
quick = settings(max_examples=60, deadline=None)


def tables(element):
    shape = st.tuples(st.integers(1, 4), st.integers(1, 7))
    return shape.flatmap(
        lambda s: st.lists(st.lists(element, min_size=s[1], max_size=s[1]), min_size=s[0], max_size=s[0])
    )


@quick
@given(mask=tables(st.booleans()), more=st.integers(0, 4))
def test_position_ids(naive, mask, more):
    ours = position_ids(torch.tensor(mask))
    assert ours.dtype == torch.long
    assert ours.tolist() == naive.position_ids(mask)
    for row, keeps in zip(ours.tolist(), mask, strict=True):
        assert [p for p, keep in zip(row, keeps, strict=True) if keep] == list(range(sum(keeps)))
    wider = position_ids(torch.tensor([[False] * more + row for row in mask]))
    assert wider[:, more:].tolist() == ours.tolist()  # more left padding moves nothing


@quick
@given(mask=tables(st.booleans()))
def test_last_index(mask):
    if not all(any(row) for row in mask):
        with pytest.raises(ValueError, match="hold no token"):
            last_index(torch.tensor(mask))
        return
    expected = [max(t for t, keep in enumerate(row) if keep) for row in mask]
    assert last_index(torch.tensor(mask)).tolist() == expected


@quick
@given(rows=sequences, more=st.integers(0, 4))
def test_padding_keeps_every_token_in_order(rows, more):
    width = max((len(row) for row in rows), default=0) + more
    for pad, sign in ((left_pad, -1), (right_pad, 1)):
        ids, mask = pad(rows, PAD, width=width)
        assert ids.shape == mask.shape == (len(rows), width)
        assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)
        assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == rows
        assert (ids[~mask] == PAD).all()
        steps = mask.long().diff(dim=1) * sign
        assert (steps <= 0).all()  # pads on one side only


@quick
@given(rows=filled_sequences)
def test_left_padded_prompts_end_in_the_last_column(rows):
    ids, mask = left_pad(rows, PAD)
    assert last_index(mask).tolist() == [ids.shape[1] - 1] * len(rows)
    assert ids[:, -1].tolist() == [row[-1] for row in rows]
    right = right_pad(rows, PAD)
    assert last_index(right.mask).tolist() == [len(row) - 1 for row in rows]
    # left or right, the tokens have the same positions
    assert [position_ids(mask)[b][mask[b]].tolist() for b in range(len(rows))] == [list(range(len(r))) for r in rows]


def test_nothing_is_cut_to_fit():
    with pytest.raises(ValueError, match="3 tokens does not fit width=2"):
        left_pad([[1], [1, 2, 3]], PAD, width=2)


def test_kept_zeroes_whatever_was_there():
    values = torch.tensor([1.0, float("nan"), float("inf")], dtype=torch.bfloat16)
    result = kept(values, torch.tensor([True, False, False]))
    assert result.tolist() == [1.0, 0.0, 0.0]
    assert result.dtype == torch.float32
