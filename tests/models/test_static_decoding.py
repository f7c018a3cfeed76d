"""Steps in static shapes choose what our own loop chooses, whatever happens to rows and cache; compiled once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import LoraConfig
from harness.hardware import Hardware
from harness.models import static_decoding
from harness.models.adapters import Base, add_adapter, trainable
from harness.models.forward import make_batch, response_logits
from harness.models.loading import load_language_model
from harness.models.static_cache import memory_of
from harness.rollouts.sampler import Sampling, sample
from harness.training.token_logprobs import sequence_logprobs

PROMPTS = ["the red fox", "a bird sings about the big house and the old one .", "number 7 runs", "it"]


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as Python runs them, in batches and caches small enough to change size within a response."""
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    monkeypatch.setattr(static_decoding, "COLUMNS", 8)
    monkeypatch.setattr(static_decoding, "FEWEST_ROWS", 2)


def ending(lm: Any) -> Any:
    """The model with a bias towards EOS, so that a row ends about every fifth time."""
    output, eos = lm.model.get_output_embeddings(), lm.codec.eos_id
    output.bias = torch.nn.Parameter(torch.zeros(output.out_features))
    prompts = lm.codec.encode_prompts(PROMPTS)
    with torch.no_grad():
        logits = response_logits(lm.model, make_batch(prompts, [[eos]] * len(prompts), lm.codec.pad_id))[:, 0]
        output.bias[eos] = (logits.logsumexp(-1) - logits[:, eos]).median() - 1.4
    return lm


def draw(lm: Any, prompts: list[list[int]], engine: str, **settings: Any) -> Any:
    options = {"max_new_tokens": 12, "engine": engine} | settings
    ids = {"eos_id": lm.codec.eos_id, "pad_id": lm.codec.pad_id}
    return sample(lm.model, prompts, Sampling(**options), **ids, seed=5)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_rows_are_those_of_our_own_loop(
    family: str, batch_size: int, family_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lm = ending(load_language_model(family_folder(family)))
    prompts = lm.codec.encode_prompts(PROMPTS * 6)
    for temperature in (1.0, 0.0):
        native = draw(lm, prompts, "native", temperature=temperature)
        static = draw(lm, prompts, "compiled", temperature=temperature, batch_size=batch_size)
        assert static.tokens == native.tokens
        assert static.ended == native.ended
        torch.testing.assert_close(static.logprobs, native.logprobs, atol=1e-4, rtol=0)
    sampled = draw(lm, prompts, "compiled")
    assert sum(sampled.ended) > 3
    assert len({len(tokens) for tokens in sampled.tokens}) > 3


@pytest.mark.usefixtures("as_written")
@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen3"])
def test_in_bf16_rotary_keys_in_fp32_go_with_values_in_bf16(
    family: str, family_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lm, hardware = load_language_model(family_folder(family, peaked=False)), Hardware("cpu", "bf16", 1)
    prompts, settings = lm.codec.encode_prompts(PROMPTS), Sampling(6, temperature=0.7, engine="compiled")
    rollout = sample(lm.model, prompts, settings, eos_id=-1, pad_id=lm.codec.pad_id, seed=1, hardware=hardware)
    batch = make_batch(prompts, rollout.tokens, lm.codec.pad_id)
    with torch.inference_mode(), hardware.autocast():
        scored = sequence_logprobs(response_logits(lm.model, batch), batch.response, 0.7)
    assert float((scored - rollout.logprobs).abs().max()) < 0.05


def test_samples_of_one_prompt_and_prompts_of_one_token(make_lm: Callable[..., Any]) -> None:
    lm = make_lm("llama")
    for prompts, shared in (([[7]] * 5, 1), ([[7, 8]] * 3 + [[9, 10, 11]] * 3, 3)):
        native, static = (
            sample(lm.model, prompts, Sampling(9, engine=engine), eos_id=-1, pad_id=0, seed=1, shared=shared)
            for engine in ("native", "compiled")
        )
        assert static.tokens == native.tokens


@pytest.mark.usefixtures("as_written")
def test_memory_stays_where_it_is_until_a_larger_batch_comes(make_lm: Callable[..., Any]) -> None:
    lm = make_lm("gpt2")

    def keys(rows: int, tokens: int) -> torch.Tensor:
        prompts = [[7, 8, 9 + row] for row in range(rows)]
        sample(lm.model, prompts, Sampling(tokens, engine="compiled"), eos_id=-1, pad_id=0, seed=1)
        held: torch.Tensor = memory_of(lm.model).cache(static_decoding.bucket(rows), 16, 8).layers[0].keys
        return held

    first = keys(8, 12)  # held until the end: nothing else can come to lie there
    assert keys(4, 12).data_ptr() == keys(8, 12).data_ptr() == first.data_ptr()
    assert keys(16, 12).data_ptr() != first.data_ptr()
    assert memory_of(make_lm("gpt2").model) is not memory_of(lm.model)


@pytest.mark.usefixtures("as_written")
def test_the_largest_batch_of_a_call_is_allocated_for_at_once(
    make_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short prompts come first, and what is made for them lies where that of the long ones does."""
    lm, places = make_lm("llama"), []
    prompts = [[7, 8 + row] for row in range(8)] + [list(range(10, 40))] * 8

    def step(*given: Any) -> torch.Tensor:
        places.append(given[-1].layers[0].keys.data_ptr())
        return static_decoding.step(*given)

    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: step)
    sample(lm.model, prompts, Sampling(5, engine="compiled", batch_size=8), eos_id=-1, pad_id=0, seed=1)
    assert len(places) == 10
    assert len(set(places)) == 1


@pytest.mark.extended
def test_a_compiled_step_is_compiled_once_for_all_sizes_and_models(make_lm: Callable[..., Any]) -> None:
    """Two models of one architecture, batches of several sizes, and weights that change meanwhile."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    static_decoding.compiled_step.cache_clear()
    before = counters["stats"]["unique_graphs"]
    one, other = make_lm("gpt2", seed=1), make_lm("gpt2", seed=2)
    prompts = [[7 + row % 5, *range(30, 33 + row % 4)] for row in range(40)]

    def both(lm: Any, rows: int) -> None:
        settings = {"max_new_tokens": 10, "batch_size": 64}
        native, compiled = (
            sample(lm.model, prompts[:rows], Sampling(engine=name, **settings), eos_id=3, pad_id=0, seed=1)
            for name in ("native", "compiled")
        )
        assert compiled.tokens == native.tokens
        torch.testing.assert_close(compiled.logprobs, native.logprobs, atol=1e-4, rtol=0)

    both(one, 40)
    both(one, 20)
    assert counters["stats"]["unique_graphs"] == before + 1
    with torch.no_grad():
        for weight in one.model.parameters():
            weight.mul_(1.1)
    for lm, rows in ((one, 40), (other, 30), (other, 10), (one, 5)):
        both(lm, rows)
    assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.extended
def test_more_kinds_of_models_than_torch_compiles_by_default(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep's models differ in their sizes; traced as they are compiled, but without making kernels."""
    torch._dynamo.reset()
    static_decoding.compiled_step.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    for width in range(8, 88, 8):
        model = make_model("gpt2", width=width, layers=1)
        found = sample(model, [[7, 8, 9]] * 9, Sampling(2, engine="compiled"), eos_id=-1, pad_id=0, seed=1)
        assert {len(tokens) for tokens in found.tokens} == {2}
    static_decoding.compiled_step.cache_clear()


@pytest.mark.extended
def test_adapters_in_bf16_are_compiled(make_lm: Callable[..., Any]) -> None:
    """Their weights learn, the base's are frozen, and both are cast for the steps: what a scoring pass says."""
    pytest.importorskip("peft")
    lm = make_lm("llama", width=32, layers=1)
    add_adapter(lm.model, LoraConfig(rank=2, alpha=8), Base("/base"), seed=0)
    with torch.no_grad():
        for parameter in trainable(lm.model).values():
            parameter.add_(0.1)
    prompts = [[7, 8, 9], [10, 11], *[[12, 13 + row] for row in range(8)]]
    hardware = Hardware("cpu", "bf16", 1)
    for _ in range(2):  # the second time into the copies of the first
        settings = Sampling(6, temperature=0.7, engine="compiled")
        rollout = sample(lm.model, prompts, settings, eos_id=-1, pad_id=0, seed=1, hardware=hardware)
        batch = make_batch(prompts, rollout.tokens, 0)
        with torch.inference_mode(), hardware.autocast():
            scored = sequence_logprobs(response_logits(lm.model, batch), batch.response, 0.7)
        assert float((scored - rollout.logprobs).abs().max()) < 0.05
        assert {weight.dtype for weight in lm.model.parameters()} == {torch.float32}
        with torch.no_grad():
            for parameter in trainable(lm.model).values():
                parameter.mul_(-2)
