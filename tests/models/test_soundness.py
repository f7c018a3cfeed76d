from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.models import lean_pass
from harness.models.loading import LanguageModel, load_language_model
from harness.models.soundness import require_sound

FAMILIES = ("gpt2", "neox", "llama", "qwen2", "qwen3", "t5", "bart", "marian")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_is_sound(family_folder: Callable[..., Path], family: str) -> None:
    require_sound(load_language_model(family_folder(family)))


def test_a_model_whose_positions_do_not_follow_the_mask_is_refused(codec: Any) -> None:
    """BART's decoder alone is a causal model that counts positions from the first column, pads included."""
    from transformers import BartConfig, BartForCausalLM

    torch.manual_seed(0)
    sizes = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    config = BartConfig(vocab_size=len(codec), **sizes, max_position_embeddings=64, init_std=0.3)
    model = BartForCausalLM(config).eval()
    assert not model.config.is_encoder_decoder
    with pytest.raises(UserError, match=r"BartForCausalLM, whose logprobs move by .* when a prompt is padded"):
        require_sound(LanguageModel(model, codec), key="sft.path")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_model_whose_layers_alone_say_something_else_is_refused(
    codec: Any, make_model: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is done in a model's own pass, the one by its layers alone would leave out, everywhere alike."""
    model, states_from = make_model(architecture), lean_pass.states_from
    require_sound(LanguageModel(model, codec))
    monkeypatch.setattr(lean_pass, "states_from", lambda *given, **at: 1.5 * states_from(*given, **at))
    with pytest.raises(UserError, match="whose logprobs move"):
        require_sound(LanguageModel(model, codec))


def test_a_model_that_cannot_be_run_so_is_refused_with_the_reason(codec: Any, make_model: Any) -> None:
    class Stateful(type(make_model("gpt2"))):  # type: ignore[misc]
        def forward(self, *_: Any, **inputs: Any) -> Any:
            raise TypeError("takes no past_key_values")

    model = make_model("gpt2")
    model.__class__ = Stateful
    with pytest.raises(UserError, match=r"cannot be run as every stage does \(takes no past_key_values\)"):
        require_sound(LanguageModel(model, codec))
