"""Linear layers hold bf16 inside and fp32 again afterwards; the numbers are autocast's own, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from harness.models.cast_once import cast_once
from harness.models.heads import read_head, score_head

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        result: torch.Tensor = model(IDS).logits
    return result


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("keep", [False, True])
def test_logits_are_those_of_autocast(make_model: Callable[..., Any], architecture: str, keep: bool) -> None:
    model = make_model(architecture, width=32)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    expected = logits(model)
    for factor in (1.0, 1.5):
        with torch.no_grad():
            model.lm_head.weight.mul_(factor)
        expected = logits(model)
        with cast_once(model, "bf16", keep=keep):
            kinds = {str(weight.dtype) for weight in model.state_dict().values()}
            assert model.lm_head.weight.dtype == torch.bfloat16
            assert model.get_input_embeddings().weight.dtype == torch.float32
            assert torch.equal(logits(model), expected)
        assert kinds == {"torch.float32", "torch.bfloat16"}
    assert [name for name, _ in model.named_parameters()] == list(weights)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    tied = model.config.tie_word_embeddings
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_head_is_read_in_full_precision(make_scorer: Callable[..., Any], architecture: str) -> None:
    """Nearly equal scores stay apart: bf16 would have 1/128 between numbers above 1."""
    model = make_scorer(architecture, width=32)[0]
    head, states = score_head(model), 1 + torch.rand(64, 32)
    expected = (states.double() @ head.weight[0].double()).float()
    for inside in (nullcontext(), cast_once(model, "bf16")):
        with inside, torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            found = read_head(head, states)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grown = states.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        read_head(head, grown).sum().backward()
    torch.testing.assert_close(grown.grad, head.weight.detach().bfloat16().expand_as(grown))


def test_kept_copies_stay_where_they_are(make_model: Callable[..., Any]) -> None:
    model, places = make_model("gpt2"), []
    for _ in range(2):
        with cast_once(model, "bf16", keep=True):
            places.append(model.lm_head.weight.data_ptr())
    assert places[0] == places[1]


def test_weights_come_back_after_a_failure_and_fp32_changes_nothing(make_model: Callable[..., Any]) -> None:
    model = make_model("gpt2")
    weight = model.lm_head.weight

    def fail() -> None:
        with cast_once(model, "bf16"):
            assert model.lm_head.weight is not weight
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert model.lm_head.weight is weight
    with cast_once(model, "fp32"):
        assert model.lm_head.weight is weight
