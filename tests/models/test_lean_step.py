"""A lean step's logits are those of transformers' own forward pass, but for rounding in attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lean_models import MODELS, OTHERS, gpt2, llama

from harness.config import LoraConfig
from harness.models.adapters import Base, add_adapter, trainable
from harness.models.decoding import CausalDecoding
from harness.models.lean_step import lean_step
from harness.models.roomy_cache import roomy

PADDED = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14]]
EQUAL = [[5, 9, 20], [12, 13, 14], [70, 71, 72], [9, 9, 14]]


def answer(model: Any, prompts: list[list[int]], *, lean: bool) -> list[torch.Tensor]:
    """Logits of nine steps; after the fifth a row leaves, after the seventh the longest goes on alone."""
    decoding = CausalDecoding(model, prompts, 0, 9, 1)
    assert decoding.lean is not None
    if not lean:
        decoding.lean = None
    seen = []
    for step in range(9):
        seen.append(decoding.logits())
        rows = torch.arange(len(seen[-1]))
        if step in (4, 6):
            rows = rows[:-1].flip(0) if step == 4 else rows[-1:]
            decoding.keep(rows)
        decoding.append(7 + 3 * rows + step)
    return seen


def assert_same(model: Any, prompts: list[list[int]]) -> None:
    with torch.inference_mode():
        ours, theirs = (answer(model, prompts, lean=lean) for lean in (True, False))
    assert len(ours) == len(theirs) == 9
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompts", [PADDED, EQUAL], ids=["padded", "equal"])
def test_logits_are_those_of_the_model(name: str, prompts: list[list[int]]) -> None:
    torch.manual_seed(0)
    assert_same(MODELS[name](), prompts)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_take_part_in_either_precision(make: Callable[[], Any], bf16: bool) -> None:
    """In bf16 a lean step is as near to what fp32 has as the model's own."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = make()
    add_adapter(model, LoraConfig(rank=2, alpha=8), Base("/base"), seed=0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1)
    if not bf16:
        assert_same(model, PADDED)
        return
    with torch.inference_mode():
        full = torch.cat(answer(model, PADDED, lean=False))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = (torch.cat(answer(model, PADDED, lean=lean)) - full for lean in (True, False))
    assert 0 < float(ours.norm()) < 1.1 * float(theirs.norm())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_no_step_asks_the_model_itself(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    decoding = CausalDecoding(model, PADDED, 0, 3, 1)
    monkeypatch.setattr(model, "forward", None)
    with torch.inference_mode():
        for _ in range(3):
            logits = decoding.logits()
            assert logits.shape == (4, 96)
            decoding.append(logits.argmax(-1))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_goes_through_the_model(name: str) -> None:
    model = OTHERS[name]()
    with torch.inference_mode():
        decoding = CausalDecoding(model, PADDED, 0, 3, 1)
        assert decoding.lean is None
        assert decoding.logits().shape == (4, 96)


def test_a_decoder_that_reads_an_encoder_goes_through_the_model() -> None:
    cache = roomy(gpt2()(torch.tensor([[5, 6]])).past_key_values.layers, tokens=2)
    assert lean_step(gpt2(), cache) is not None
    assert lean_step(gpt2(add_cross_attention=True), cache) is None


def test_a_cache_without_room_goes_through_the_model() -> None:
    model = llama()
    cache = model(torch.tensor([[5, 6]])).past_key_values
    assert lean_step(model, cache.layers) is None
    assert lean_step(model, roomy(cache.layers, tokens=2)) is not None
