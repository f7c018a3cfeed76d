"""The loop where the model is on a GPU, which is pretended: see tests/reference/pretended_gpu.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_gpu import pretended_gpu
from smoke_run import smoke_run

from harness import hardware as hardware_module
from harness.hardware import Hardware
from harness.models import static_decoding
from harness.models.codec import Codec
from harness.rollouts import engines
from harness.rollouts.native_engine import LOOKS, choose
from harness.rollouts.sampler import Sampling, sample

PROMPTS = [[5, 6], [7], [8, 9, 10], [11]] * 8
TOKENS = 24
CPU, GPU = Hardware("cpu", "fp32", 1), Hardware("cuda:0", "fp32", 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(hardware_module, "sees_gpu", lambda: True)
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    with pretended_gpu() as pretended:
        yield pretended


# -- what stands in for a GPU ----------------------------------------------------------------------------------------


def test_tensors_of_two_devices_are_refused(gpu: Any) -> None:
    there = torch.ones(3, device="cuda:0")
    assert there.device == torch.device("cuda", 0)
    assert (there + 1).sum().item() == 6
    with pytest.raises(RuntimeError, match=r"two devices: GPU \(3,\), CPU \(3,\)"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="copy it to the CPU"):
        there.numpy()
    with pytest.raises(RuntimeError, match="two devices"):
        choose(torch.zeros(4, 9, device="cuda:0"), torch.zeros(4, dtype=torch.float64), Sampling(1))


def test_waiting_is_counted_and_numbers_are_those_of_the_cpu(gpu: Any) -> None:
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(4, 5), torch.randn(3, 4)
    expected = torch.autograd.grad(layer(rows).square().mean(), layer.weight)[0]
    layer.to("cuda:0")
    found = torch.autograd.grad(layer(rows.to("cuda:0")).square().mean(), layer.weight)[0]
    assert gpu.waits == {}
    torch.testing.assert_close(found.cpu(), expected)
    assert gpu.waits == {"_to_copy": 1}
    assert float(found.sum()) == pytest.approx(float(expected.sum()), abs=1e-6)
    assert found[found > 0].tolist() == pytest.approx(expected[expected > 0].tolist(), abs=1e-6)
    assert gpu.waits == {"_to_copy": 2, "_local_scalar_dense": 1, "index": 1}
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(rows.to("cuda:0")).dtype == torch.bfloat16


# -- rollouts --------------------------------------------------------------------------------------------------------


def sampled(model: Any, codec: Codec, where: Hardware, **settings: Any) -> Any:
    asked = Sampling(TOKENS, batch_size=len(PROMPTS), **settings)
    stops = range(0, len(codec), 16)  # so that rows end at different times
    return sample(model, PROMPTS, asked, eos_id=stops, pad_id=codec.pad_id, seed=3, hardware=where)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("engine", ["native", "compiled"])
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_rollouts_are_those_of_the_cpu(
    make_model: Any, codec: Codec, gpu: Any, architecture: str, engine: str, temperature: float
) -> None:
    model = make_model(architecture)
    settings = {"engine": engine, "temperature": temperature, "top_k": 20, "top_p": 0.9}
    expected = sampled(copy.deepcopy(model), codec, CPU, **settings)
    found = sampled(model.to("cuda:0"), codec, GPU, **settings)
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=1e-4)
    lengths = [len(tokens) for tokens in found.tokens]
    assert temperature == 0 or len(set(lengths)) > 2


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("engine", ["native", "compiled"])
def test_keys_and_values_are_kept_in_the_precision_in_which_they_are_read(
    make_model: Any, codec: Codec, gpu: Any, monkeypatch: pytest.MonkeyPatch, architecture: str, engine: str
) -> None:
    """Rotary positions leave keys in fp32 under autocast, whose attention would cast all of them for every token."""
    read: set[torch.dtype] = set()
    attend = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, **given: Any) -> Any:
        read.update({key.dtype, value.dtype} if query.shape[2] == 1 else ())
        return attend(query, key, value, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    found = sampled(make_model(architecture).to("cuda:0"), codec, Hardware("cuda:0", "bf16", 1), engine=engine)
    assert read == {torch.bfloat16}
    assert found.logprobs.isfinite().all()


def test_compiled_steps_wait_for_the_gpu_once_in_several(make_model: Any, codec: Codec, gpu: Any) -> None:
    """Whether rows have ended is asked every so often, and nothing else until the responses are copied at the end."""
    model = make_model().to("cuda:0")
    never = {"eos_id": len(codec) + 1, "pad_id": codec.pad_id, "seed": 3, "hardware": GPU}
    waits = {}
    for tokens in (2 * LOOKS, 6 * LOOKS):
        gpu.waits.clear()
        sample(model, PROMPTS, Sampling(tokens, batch_size=len(PROMPTS), engine="compiled"), **never)
        waits[tokens] = gpu.waits.total()
    assert waits[6 * LOOKS] - waits[2 * LOOKS] == 4
    assert waits[2 * LOOKS] < 2 + 12


# -- the whole loop --------------------------------------------------------------------------------------------------


def test_the_whole_loop_runs_there(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, a GPU's default: no stage mixes devices, and PPO's first rollout is its reference's."""
    monkeypatch.setattr(engines, "_require_compiler", lambda *_: None)
    typed = ["task=summarize", f"output_dir={tmp_path}", "hardware.device=cuda:0", "hardware.precision=bf16"]
    typed += ["rollout.engine=compiled", "data.sizes.sft=192", "task.max_response_tokens=24"]
    assert smoke_run(*typed) == 0
    assert gpu.calls > 10_000
    (log,) = tmp_path.glob("stages/ppo-*/metrics.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert abs(rows[0]["kl"]) < 0.1
    assert rows[0]["response_length"] > 1
    log = max(tmp_path.glob("stages/sft-*/metrics.jsonl"), key=lambda path: path.stat().st_size)
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
