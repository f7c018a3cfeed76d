from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.config import LoraConfig, ModelConfig
from harness.errors import UserError
from harness.models.nano import new_model, new_parameters
from harness.models.shape import measured, measured_adapters, new_adapters, new_shape

SIZES = {"vocab_size": 50, "eos_id": 0, "pad_id": 1}


def config(**changes: object) -> ModelConfig:
    return ModelConfig(
        kind="nano", **{"architecture": "gpt2", "layers": 2, "width": 16, "heads": 2, "context": 32, **changes}
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_seed_decides_the_weights_and_the_global_stream_stays_where_it_was(architecture):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (new_model(config(architecture=architecture), **SIZES, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    for (name, a), (_, b) in zip(one.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_sizes_are_those_asked_for(architecture):
    model = new_model(config(architecture=architecture, layers=3, width=24, heads=4), **SIZES, seed=0)
    assert model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 24
    assert model.config.num_attention_heads == 4
    assert model.config.max_position_embeddings == 32
    assert model.get_input_embeddings().weight.shape == (50, 24)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (0, 1)


def test_gpt2_parameter_count_is_that_of_the_formula():
    """V h + C h + L (12 h^2 + 13 h) + 2 h, the output tied to the input."""
    model = new_model(config(layers=2, width=16), **SIZES, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 50 * 16 + 32 * 16 + 2 * (12 * 256 + 13 * 16) + 2 * 16


COUNTED = [
    {"layers": 2, "width": 128, "heads": 2, "vocab_size": 2048, "context": 256},
    {"layers": 1, "width": 1, "heads": 1, "vocab_size": 258, "context": 1},
    {"layers": 3, "width": 50, "heads": 5, "vocab_size": 301, "context": 64},  # 8/3 of 50 is no whole number
    {"layers": 7, "width": 384, "heads": 6, "vocab_size": 8192, "context": 512},
]
"""Sizes of models, the default's first."""
TARGETS = {
    "gpt2": [None, ["c_proj"], ["c_fc", "c_attn"]],
    "llama": [None, ["down_proj"], ["q_proj", "k_proj", "up_proj"]],
}
"""Layers that adapters are put on; None: all."""


def on_meta(model: ModelConfig, vocab_size: int) -> Any:
    with torch.device("meta"):
        return new_model(model, vocab_size=vocab_size, eos_id=0, pad_id=1, seed=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("sizes", COUNTED)
def test_its_sizes_are_known_without_it(architecture: str, sizes: dict[str, int]) -> None:
    """Each of them, as they are in the model that transformers makes."""
    asked = config(architecture=architecture, **sizes)
    made = on_meta(asked, asked.vocab_size)
    assert new_shape(asked) == measured(made)
    assert new_parameters(asked, vocab_size=97) == sum(p.numel() for p in on_meta(asked, 97).parameters())
    for targets in TARGETS[architecture]:
        asked.lora = LoraConfig(rank=3, dropout=0.1, target_modules=targets)
        assert new_adapters(asked) == measured_adapters(made, asked.lora), targets


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_layer_that_it_has_not_is_refused_as_of_the_model_itself(architecture: str) -> None:
    asked = config(architecture=architecture)
    asked.lora = LoraConfig(rank=3, target_modules=["lm_head"])
    with pytest.raises(UserError) as told:
        new_adapters(asked, key="judge.model")
    with pytest.raises(UserError) as found:
        measured_adapters(on_meta(asked, 300), asked.lora, key="judge.model")
    assert str(told.value) == str(found.value)
    assert str(told.value).startswith(
        "judge.model.lora.target_modules=lm_head is no linear layer of this model; choose"
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_there_is_no_dropout(architecture):
    model = new_model(config(architecture=architecture), **SIZES, seed=0).train()
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_mistakes_name_the_key():
    with pytest.raises(UserError, match=r"model\.width=16 is not a multiple of model\.heads=3"):
        new_model(config(heads=3), **SIZES, seed=0)
    with pytest.raises(UserError, match=r"model\.architecture=mamba is not known"):
        new_model(config(architecture="mamba"), **SIZES, seed=0)
    with pytest.raises(UserError, match=r"model\.width=16 is not a multiple of model\.heads=3"):
        new_parameters(config(heads=3), vocab_size=300)
    with pytest.raises(UserError, match=r"model\.architecture=mamba is not known"):
        new_parameters(config(architecture="mamba"), vocab_size=300)
