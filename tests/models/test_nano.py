from __future__ import annotations

import pytest
import torch

from harness.config import ModelConfig
from harness.errors import UserError
from harness.models.nano import new_model

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
