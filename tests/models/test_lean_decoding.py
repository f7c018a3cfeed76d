"""Responses whose prompts lie apart and are read once: against a cache that holds a prompt for each of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lean_models import MODELS, OTHERS

from harness.models import lean_decoding as module
from harness.models import one_thread
from harness.models.decoding import CausalDecoding, start_decoding
from harness.models.kernels import use_fast_kernels
from harness.models.lean_decoding import LeanDecoding, Places, lean_decoding

PROMPTS = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14]]
GONE = [[], [1, 5], [0, 2, 3, 6], [], [0, 1, 2]]
"""Which rows, of those that are left, end after each step: one of a prompt, a whole prompt, some and a whole one."""


def repeated(shared: int, prompts: list[list[int]] = PROMPTS) -> list[list[int]]:
    return [prompt for prompt in prompts for _ in range(shared)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("alike", [False, True], ids=["padded", "of one length"])
@pytest.mark.parametrize(("shared", "at_once"), [(1, 5), (3, 3), (3, 128)])
def test_each_step_is_that_of_rows_by_themselves(
    make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    bf16: bool,
    alike: bool,
    shared: int,
    at_once: int,
) -> None:
    model, generator = use_fast_kernels(make_model(architecture)), torch.Generator().manual_seed(0)
    prompts = repeated(shared, [prompt[:1] * 4 for prompt in PROMPTS] if alike else PROMPTS) * (3 // shared)
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", at_once)
    precision = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()
    with torch.inference_mode(), precision:
        ours = start_decoding(model, prompts, 0, tokens=8, shared=shared)
        assert isinstance(ours, LeanDecoding)
        theirs, left = CausalDecoding(model, prompts, 0, 8, shared), len(prompts)
        for gone in GONE:
            found, expected = ours.logits().float(), theirs.logits().float()
            assert found.shape == expected.shape == (left, model.config.vocab_size)
            close = {"rtol": 0.0, "atol": 0.03 * float(expected.abs().max())} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(found, expected, **close)
            tokens = torch.randint(3, 90, (left,), generator=generator)
            if gone:
                keep = torch.tensor([row for row in range(left) if row not in gone])
                tokens, left = tokens[keep], len(keep)
                for each in (ours, theirs):
                    each.keep(keep)
            for each in (ours, theirs):
                each.append(tokens)


def test_a_prompt_that_nobody_answers_any_more_is_dropped(make_model: Callable[..., Any]) -> None:
    with torch.inference_mode():
        decoding = lean_decoding(make_model("gpt2"), repeated(2), 0, tokens=8, shared=2)
        assert decoding is not None
        decoding.logits()
        decoding.keep(torch.tensor([0, 1, 3, 6, 7]))  # of the third prompt both, of the second one
        assert {len(layer.keys) for layer in decoding.layers} == {3}
        decoding.keep(torch.tensor([2]))
        assert {len(layer.keys) for layer in decoding.layers} == {1}
        assert {len(layer.own.keys) for layer in decoding.layers} == {1}


def test_rows_of_one_response_each_go_on_in_any_order(make_model: Callable[..., Any]) -> None:
    with torch.inference_mode():
        pair = [
            start_decoding(make_model("gpt2"), PROMPTS, 0, tokens=8),
            CausalDecoding(make_model("gpt2"), PROMPTS, 0, 8, 1),
        ]
        assert isinstance(pair[0], LeanDecoding)
        for each in pair:
            each.logits()
            each.keep(torch.tensor([3, 0, 2]))
            each.append(torch.tensor([5, 6, 7]))
        torch.testing.assert_close(pair[0].logits(), pair[1].logits(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [1, 2])
def test_rows_that_fill_all_places_in_their_order_are_not_copied(shared: int) -> None:
    places, rows = Places(3, shared), torch.arange(6.0).view(3, 2).repeat_interleave(shared, 0)
    kept = places.keep(torch.arange(shared, 3 * shared))
    assert kept is not None
    assert kept.tolist() == [1, 2]
    assert places.spread(rows[shared:]).data_ptr() == rows[shared:].data_ptr()


def test_places_come_back_as_they_went() -> None:
    places, rows = Places(3, 2), torch.arange(12.0).view(6, 2)
    assert places.spread(rows).shape == (3, 2, 2)
    assert torch.equal(places.taken(places.spread(rows)), rows)
    assert places.keep(torch.tensor([1, 4, 5])).tolist() == [0, 2]
    assert places.spread(rows[:3]).tolist() == [[[0, 0], [0, 1]], [[2, 3], [4, 5]]]
    assert torch.equal(places.taken(places.spread(rows[:3])), rows[:3])
    assert places.keep(torch.tensor([0, 2])) is None
    assert places.spread(rows[:2]).tolist() == [[[0, 0], [0, 1]], [[0, 0], [2, 3]]]


@pytest.mark.parametrize(
    "reason",
    [
        *("fewer heads of keys", "prompts of one token", "an empty prompt", "another model", "long responses"),
        *("many numbers", "learning", "weights in bf16"),
    ],
)
@pytest.mark.parametrize("shared", [1, 2])
def test_what_it_is_not_for_goes_by_a_cache_of_rows_and_is_not_read_twice(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, reason: str, shared: int
) -> None:
    prompts, model = repeated(shared), make_model("gpt2")
    if reason == "fewer heads of keys":
        model = MODELS["llama, fewer keys than queries"]()
    elif reason == "prompts of one token":
        prompts = repeated(shared, [[5], [6]])
    elif reason == "an empty prompt":
        prompts = repeated(shared, [[], [5, 6, 7]])
    elif reason == "another model":
        model = next(iter(OTHERS.values()))().eval()
    elif reason == "weights in bf16":
        model.to(torch.bfloat16)
    elif reason == "long responses":
        monkeypatch.setattr(one_thread, "MOST_NUMBERS", 8)
    elif reason == "many numbers":
        monkeypatch.setattr(one_thread, "MOST_NUMBERS" if shared == 1 else "MOST_PRODUCTS", 8)
    monkeypatch.setattr(module, "prompt_cache", None)  # nothing is read before that is known
    with torch.inference_mode(reason != "learning"):
        assert lean_decoding(model, prompts, 0, tokens=8, shared=shared) is None
        assert isinstance(start_decoding(model, prompts, 0, tokens=8, shared=shared), CausalDecoding)
