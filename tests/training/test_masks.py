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
    response_mask,
    right_pad,
    without_response_pads,
)

PAD, EOS = 0, (2, 3)
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
@given(tokens=tables(st.integers(0, 5)), more=st.integers(0, 4))
def test_response_mask(naive, tokens, more):
    ours = response_mask(torch.tensor(tokens), EOS, PAD)
    assert ours.dtype == torch.bool
    assert ours.tolist() == naive.response_mask(tokens, list(EOS), PAD)
    wider = response_mask(torch.tensor([row + [PAD] * more for row in tokens]), EOS, PAD)
    assert wider[:, : ours.shape[1]].tolist() == ours.tolist()
    assert not wider[:, ours.shape[1] :].any()
    for row, keeps in zip(tokens, ours.tolist(), strict=True):
        assert keeps == sorted(keeps, reverse=True)  # one run of True, from the start
        chosen = row[: sum(keeps)]
        assert not any(token in EOS for token in chosen[:-1])


def test_response_mask_by_hand():
    tokens = torch.tensor(
        [
            [5, 6, 2, 0, 0],  # ended, padded
            [5, 6, 7, 4, 5],  # never ended, full
            [5, 6, 0, 0, 0],  # never ended, padded to its neighbours' width
            [3, 0, 0, 0, 0],  # an empty answer: EOS at once (the other EOS)
            [5, 2, 6, 2, 0],  # what follows the first EOS was not chosen
            [0, 5, 2, 0, 0],  # a pad that the policy itself chose before it ended
            [0, 0, 0, 0, 0],  # nothing
        ]
    )
    lengths = [3, 5, 2, 1, 2, 3, 0]
    assert response_mask(tokens, EOS, PAD).tolist() == [[t < n for t in range(5)] for n in lengths]
    assert response_mask(torch.tensor([[5, 6]]), [], PAD).tolist() == [[True, True]]


def test_pad_may_not_be_eos():
    with pytest.raises(ValueError, match="pad_id=2 is also an EOS"):
        response_mask(torch.tensor([[5]]), EOS, 2)


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
def test_padding_and_its_inverse(rows, more):
    width = max((len(row) for row in rows), default=0) + more
    for pad, sign in ((left_pad, -1), (right_pad, 1)):
        ids, mask = pad(rows, PAD, width=width)
        assert ids.shape == mask.shape == (len(rows), width)
        assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)
        assert without_response_pads(ids, mask) == rows
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
