"""Where tensors lie when the model is elsewhere than on the CPU: torch's device without memory stands in for a GPU.

It refuses to compute with tensors of another device, and to say what a number is.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.models import static_decoding
from harness.rollouts import native_engine
from harness.rollouts.sampler import Sampling


@pytest.fixture(autouse=True)
def _nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows have ended, say; what comes back to the CPU is made up."""
    monkeypatch.setattr(native_engine, "LOOKS", 1000)
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.ones(tensor.shape, dtype=tensor.dtype))


def model(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50}
    config = AutoConfig.for_model(kind, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().to("meta")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_sampling_mixes_no_devices(kind: str, temperature: float) -> None:
    settings = Sampling(6, temperature=temperature, top_k=5, top_p=0.9, engine="compiled")
    uniforms = torch.zeros(4, 6, dtype=torch.float64)
    with torch.inference_mode():
        found = native_engine._sample_batch(model(kind), [[5, 6], [7], [8, 9, 10], [11]], uniforms, settings, [3], 0, 1)
    assert [tuple(each.shape) for each in found] == [(4, 6), (4, 6), (4,)]


def test_rows_leave_a_batch_in_static_shapes_there() -> None:
    with torch.inference_mode():
        decoding = static_decoding.StaticDecoding(model("llama"), [[5, 6, 7]] * 30, 0, 200, 1)
        for rows in (29, 12, 3):
            decoding.keep(torch.arange(rows, device="meta"))
            decoding.append(torch.zeros(rows, dtype=torch.long, device="meta"))
            logits = decoding.logits()
            assert logits.shape == (rows, 50)
            assert logits.device.type == "meta"


def test_a_tensor_of_another_device_would_be_refused() -> None:
    with pytest.raises(RuntimeError, match="device"):
        native_engine.choose(torch.zeros(4, 9, device="meta"), torch.zeros(4, dtype=torch.float64), Sampling(1))
