"""Examples laid end to end: the logits and gradients that each has alone, in every family that takes positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.models.loading import LanguageModel, load_language_model
from harness.models.packed_forward import make_packed, pack, packed_logits, require_packable

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2", "qwen3"])
PROMPTS = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14], [100, 3], [50]]
RESPONSES = [[30, 31, 0], [44, 45, 46, 47, 48, 0], [90, 91, 92, 93, 94, 95], [0], [17, 18, 0], [61]]
MOST = 13


def alone(model: Any, prompt: list[int], response: list[int], with_prompts: bool) -> torch.Tensor:
    """The logits of one example's tokens that count: transformers' own, of one row without pads or masks."""
    start = 0 if with_prompts else len(prompt) - 1
    logits: torch.Tensor = model(torch.tensor([prompt + response])).logits[0, start:-1]
    return logits


@FAMILIES
@pytest.mark.parametrize("with_prompts", [False, True])
def test_a_packed_row_has_the_logits_and_gradients_of_single_examples(
    family_folder: Callable[..., Path], family: str, with_prompts: bool
) -> None:
    model = load_language_model(family_folder(family, peaked=False)).model
    packed = make_packed(PROMPTS, RESPONSES, 1, most=MOST, with_prompts=with_prompts)
    found = packed_logits(model, packed)
    losses = torch.nn.functional.cross_entropy(found, packed.labels, reduction="none")
    losses.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    rows = pack([len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True)], MOST)
    assert len(rows) < len(PROMPTS), "nothing would be packed"
    order = [example for row in rows for example in row]
    single = [alone(model, PROMPTS[example], RESPONSES[example], with_prompts) for example in order]
    counted = [(PROMPTS[e][1:] if with_prompts else []) + RESPONSES[e] for e in order]
    expected = [
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
        for logits, labels in zip(single, counted, strict=True)
    ]
    torch.cat(expected).sum().backward()
    assert packed.labels.tolist() == [token for labels in counted for token in labels]
    torch.testing.assert_close(found, torch.cat(single), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert gradients
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-5)


@FAMILIES
def test_a_row_may_be_longer_than_the_models_context(family_folder: Callable[..., Path], family: str) -> None:
    model = load_language_model(family_folder(family)).model
    prompts, responses = [[5 + row] * 30 for row in range(5)], [[40 + row] * 10 for row in range(5)]
    packed = make_packed(prompts, responses, 1, most=200)
    assert packed.ids.shape == (1, 200)
    assert packed.ids.shape[1] > model.config.max_position_embeddings
    with torch.no_grad():
        single = [alone(model, p, r, False) for p, r in zip(prompts, responses, strict=True)]
        torch.testing.assert_close(packed_logits(model, packed), torch.cat(single), atol=1e-4, rtol=1e-4)


def test_no_logits_but_those_that_count_are_computed(make_model: Callable[..., Any]) -> None:
    model, seen = make_model("llama"), list[torch.Size]()
    handle = model.lm_head.register_forward_hook(lambda _module, _given, out: seen.append(out.shape))
    packed_logits(model, make_packed(PROMPTS, RESPONSES, 1, most=MOST))
    handle.remove()
    assert seen == [(1, sum(map(len, RESPONSES)), model.config.vocab_size)]
    assert not model.lm_head._forward_pre_hooks


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(0, 60))
@hypothesis_settings(max_examples=100, deadline=None)
def test_every_example_is_in_one_row_and_no_row_is_too_full(lengths: list[int], room: int) -> None:
    most = max(lengths) + room
    rows = pack(lengths, most)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    filled = [sum(lengths[example] for example in row) for row in rows]
    assert min(filled) > 0
    assert max(filled) <= most
    assert max(filled) - min(filled) <= max(lengths), "rows are equally full, but for an example"


def test_what_cannot_be_packed_is_no_silent_loss() -> None:
    with pytest.raises(ValueError, match="an example of 10 tokens does not fit a row of 9"):
        make_packed(PROMPTS, RESPONSES, 1, most=9)
    with pytest.raises(ValueError, match="without a prompt"):
        make_packed([[]], [[5, 0]], 1, most=9)


@FAMILIES
def test_every_known_family_can_be_packed(family_folder: Callable[..., Path], family: str) -> None:
    require_packable(load_language_model(family_folder(family)))


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_encoder_decoder_models_cannot(family_folder: Callable[..., Path], family: str) -> None:
    with pytest.raises(UserError, match=r"^sft.packing=True is not for .*: an encoder–decoder model's .*; leave it"):
        require_packable(load_language_model(family_folder(family)))


def other_kind(kind: str, **sizes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=300, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
    return model


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
        (
            "opt",
            {
                "hidden_size": 16,
                "ffn_dim": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "word_embed_proj_dim": 16,
            },
        ),
        ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
        (
            "recurrent_gemma",
            {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48},
        ),
    ],
)
def test_a_model_in_which_examples_see_each_other_is_refused(codec: Any, kind: str, sizes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^sft.packing=True is not for .*; leave it out"):
        require_packable(LanguageModel(other_kind(kind, **sizes), codec))
