"""One pass over a pair gives the scores of two separate passes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, LlamaConfig, Qwen3NextConfig

from harness.models.forward import make_batch, sequence_scores
from harness.models.pair_forward import pair_scores

PAD = 1
SIZES = {"vocab_size": 50, "pad_token_id": PAD, "eos_token_id": 0, "bos_token_id": 0, "num_labels": 1}
CONFIGS = {
    "gpt2": GPT2Config(
        n_layer=2,
        n_embd=16,
        n_head=2,
        n_positions=64,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        initializer_range=0.2,
        **SIZES,
    ),
    "llama": LlamaConfig(
        num_hidden_layers=2, hidden_size=16, intermediate_size=32, num_attention_heads=2, initializer_range=0.2, **SIZES
    ),
}
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
CHOSEN = [[20, 21, 0], [22, 0], [23, 24, 25, 26, 0]]
REJECTED = [[30, 0], [31, 32, 33, 34, 35, 0], [36]]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pair_scores_equal_separate_scores_and_gradients(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name], attn_implementation=attention).eval()
    model.config.reward_shift = 0.25
    separate = [sequence_scores(model, make_batch(PROMPTS, side, PAD)) for side in (CHOSEN, REJECTED)]
    (separate[0] - 2 * separate[1]).sum().backward()
    expected = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    chosen, rejected = pair_scores(model, PROMPTS, CHOSEN, REJECTED, PAD)
    (chosen - 2 * rejected).sum().backward()
    torch.testing.assert_close(chosen, separate[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(rejected, separate[1], rtol=0, atol=1e-5)
    for key, value in model.named_parameters():
        if key in expected:
            torch.testing.assert_close(value.grad, expected[key], rtol=1e-4, atol=1e-5)


def test_a_layer_whose_states_cannot_be_repeated_computes_each_prompt_anew() -> None:
    config = Qwen3NextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        initializer_range=0.2,
        **SIZES,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.inference_mode():
        together = pair_scores(model, PROMPTS, CHOSEN, REJECTED, PAD)
        for scores, side in zip(together, (CHOSEN, REJECTED), strict=True):
            torch.testing.assert_close(scores, sequence_scores(model, make_batch(PROMPTS, side, PAD)))
