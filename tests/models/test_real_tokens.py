"""Tokens of padded columns as rows, and back: values and gradients."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.models.real_tokens import cells, gathered, spread

MASK = torch.tensor([[False, True, True], [True, False, False]])


def test_each_token_is_in_its_cell_and_comes_back() -> None:
    found, rows = cells(MASK), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    filled = spread(rows, found)
    assert found.size == 3
    assert filled.shape == (6, 2)
    assert filled[[1, 2, 3]].tolist() == rows.tolist()
    assert torch.equal(gathered(filled, found), rows)


def test_no_gradient_comes_from_a_pad() -> None:
    rows = torch.ones(3, 1, requires_grad=True)
    (spread(rows, cells(MASK)).squeeze(1) * torch.tensor([100.0, 1, 2, 3, 100, 100])).sum().backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [[1], [2], [3]]


def test_none_goes_to_a_pad() -> None:
    filled = torch.ones(6, 1, requires_grad=True)
    (gathered(filled, cells(MASK)).squeeze(1) * torch.tensor([1.0, 2, 3])).sum().backward()
    assert filled.grad is not None
    assert filled.grad.squeeze(1).tolist() == [0, 1, 2, 3, 0, 0]


def test_nothing_is_copied_where_there_is_no_pad() -> None:
    rows = torch.ones(6, 2)
    found = cells(torch.ones(2, 3, dtype=torch.bool))
    assert spread(rows, found) is rows
    assert gathered(rows, found) is rows


@given(st.lists(st.booleans(), min_size=12, max_size=12).filter(any))
def test_any_mask(flat: list[bool]) -> None:
    mask = torch.tensor(flat).view(3, 4)
    found = cells(mask)
    rows = torch.arange(2.0 * found.size, dtype=torch.float64).view(-1, 2).requires_grad_()
    assert torch.equal(spread(rows, found)[mask.flatten()], rows)
    assert torch.autograd.gradcheck(lambda each: spread(each, found)[mask.flatten()] ** 2, rows)
    filled = torch.arange(24.0, dtype=torch.float64).view(12, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: gathered(each, found) ** 2, filled)


def test_columns_that_hold_numbers_are_gathered_too() -> None:
    assert gathered(torch.arange(6), cells(MASK)).tolist() == [1, 2, 3]
