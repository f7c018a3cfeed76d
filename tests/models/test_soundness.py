from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.models import lean_pass, soundness
from harness.models.forward import logits_and_states, make_batch
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


def opt(codec: Any) -> Any:
    """A random OPT that projects its hidden states before the output layer, as opt-350m; its logits use no trunk."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "init_std": 0.3}
    ids = {"pad_token_id": codec.pad_id, "bos_token_id": codec.eos_id, "eos_token_id": codec.eos_id}
    config = OPTConfig(vocab_size=len(codec), word_embed_proj_dim=16, max_position_embeddings=64, **sizes, **ids)
    return OPTForCausalLM(config).eval()


def test_the_states_of_a_model_that_passes_its_trunk_by_are_those_of_the_trunk(codec: Any) -> None:
    model = opt(codec)
    require_sound(LanguageModel(model, codec))
    with torch.inference_mode():
        _, states = logits_and_states(model, make_batch([[5, 9, 20], [12]], [[30, 31], [7, 8]], codec.pad_id))
        expected = model.model(input_ids=torch.tensor([[5, 9, 20, 30, 31]])).last_hidden_state[0, 2:4]
    torch.testing.assert_close(states[0], expected, rtol=1e-4, atol=1e-4)


def test_a_model_whose_states_beside_the_logits_are_others_is_refused(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(model: Any, batch: Any) -> Any:
        logits, states = logits_and_states(model, batch)
        return logits, 2 * states

    monkeypatch.setattr(soundness, "logits_and_states", doubled)
    with pytest.raises(UserError, match="whose states move by 1 when logits are computed beside them"):
        require_sound(LanguageModel(opt(codec), codec))
