"""Models that go by their layers alone, and models that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from harness.models.kernels import use_fast_kernels


def gpt2(**settings: Any) -> Any:
    given = {"vocab_size": 96, "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, **settings}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **given)).eval()


def llama(**settings: Any) -> Any:
    given = {"vocab_size": 96, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    given |= {"max_position_embeddings": 64, **settings}
    return LlamaForCausalLM(LlamaConfig(intermediate_size=48, **given)).eval()


LONGER = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "gpt2, fast kernels": lambda: use_fast_kernels(gpt2()),
    "gpt2, layers scaled": lambda: gpt2(scale_attn_by_inverse_layer_idx=True),
    "gpt2, nothing scaled": lambda: gpt2(scale_attn_weights=False),
    "gpt2, of which eager attention alone is another": lambda: gpt2(reorder_and_upcast_attn=True),
    "llama": llama,
    "llama, fewer keys than queries": lambda: llama(num_key_value_heads=2),
    "llama, biases and heads of another size": lambda: llama(attention_bias=True, mlp_bias=True, head_dim=16),
    "llama, more positions than it has": lambda: llama(rope_parameters=LONGER, max_position_embeddings=8),
}


def neox() -> Any:
    sizes: dict[str, Any] = {"vocab_size": 96, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    return GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=48, max_position_embeddings=64, **sizes)).eval()


def eager() -> Any:
    model = gpt2()
    model.set_attn_implementation("eager")
    return model


def hooked(*, before: bool) -> Any:
    model = llama()
    if before:
        model.model.layers[1].register_forward_pre_hook(lambda _module, _given: None)
    else:
        model.model.layers[1].register_forward_hook(lambda _module, _given, out: out)
    return model


def patched() -> Any:
    model = gpt2()
    block = model.transformer.h[1]
    block.forward = block.forward
    return model


OTHERS: dict[str, Callable[[], Any]] = {
    "another architecture": neox,
    "eager attention": eager,
    "a hook": lambda: hooked(before=False),
    "a hook before": lambda: hooked(before=True),
    "a forward of its own": patched,
    "dropout": lambda: gpt2().train(),
}
