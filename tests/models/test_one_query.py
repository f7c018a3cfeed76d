"""Attention of one query by vectors, against sums in double precision and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from harness.models.one_query import attend_to, has_one


def made(*, heads: int = 3, tokens: int = 11, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values that are the used part of larger tensors, and queries."""
    torch.manual_seed(0)
    keys, values = (torch.randn(4, heads, tokens + 5, size)[:, :, :tokens] for _ in range(2))
    return keys, values, torch.randn(4, heads, 1, size)


@pytest.mark.parametrize("scaling", [None, 1.0])
def test_it_is_a_mean_of_values_weighted_by_the_softmax_of_scores(scaling: float | None) -> None:
    keys, values, queries = made()
    mask = torch.ones(4, 1, 1, 11, dtype=torch.bool)
    mask[1, ..., :7], mask[3, ..., :10] = False, False
    with torch.no_grad():
        found = attend_to(keys, values, queries, mask=mask, scaling=scaling)
    assert found.shape == (4, 3, 1, 8)
    assert found.dtype == torch.float32
    factor = 1 / math.sqrt(8) if scaling is None else scaling
    for row in range(4):
        for head in range(3):
            weights = [
                math.exp(factor * float(queries[row, head, 0].double() @ keys[row, head, token].double()))
                * float(mask[row, 0, 0, token])
                for token in range(11)
            ]
            for feature in range(8):
                mean = sum(w * float(values[row, head, token, feature]) for token, w in enumerate(weights))
                assert float(found[row, head, 0, feature]) == pytest.approx(mean / sum(weights), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_own_attention_in_the_precision_of_the_queries(dtype: torch.dtype) -> None:
    keys, values, queries = made()
    with torch.no_grad():
        found = attend_to(keys, values, queries.to(dtype))
        own = torch.nn.functional.scaled_dot_product_attention(queries.to(dtype).float(), keys, values)
    assert found.dtype == dtype
    torch.testing.assert_close(found, own.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_it_is_for_one_query_that_learns_nothing_of_as_many_heads_and_few_numbers() -> None:
    keys, values, queries = made()
    assert not has_one(queries, keys, values), "gradients may be wanted"
    with torch.no_grad():
        assert has_one(queries, keys, values)
        assert has_one(queries.bfloat16(), keys, values)
        assert not has_one(queries.repeat(1, 1, 2, 1), keys, values)
        assert not has_one(queries.repeat(1, 2, 1, 1), keys, values), "several queries share a head's keys"
        assert not has_one(queries, keys.bfloat16(), values)
        assert not has_one(queries, keys, values.bfloat16()), "a Llama's under autocast: rotations are in fp32"
        many = torch.empty(4, 3, 1152, 8)
        assert not has_one(queries, many, many), "OpenBLAS would start threads"
