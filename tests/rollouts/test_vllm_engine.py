"""Rollouts by vLLM: what goes to it and what comes back, with a stand-in; ``tests/elsewhere`` asks vLLM itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from smoke_run import smoke_run
from stand_in_vllm import LLM, stand_in, stand_in_platforms

from harness.errors import RunFailed, UserError
from harness.hardware import Hardware
from harness.records import read_records
from harness.rollouts import scored, vllm_engine
from harness.rollouts.engines import require_engine
from harness.rollouts.sampler import Sampling, sample

ENGINE_KEYS = ("rollout.engine=vllm", "evaluation.engine=vllm")


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "vllm", stand_in())
    monkeypatch.setitem(sys.modules, "vllm.platforms", stand_in_platforms())
    for name in vllm_engine.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    yield
    vllm_engine.close()


def by(engine: str, model: Any, codec: Any, prompts: list[list[int]], seed: int = 3, **settings: Any) -> Any:
    asked = Sampling(**{"max_new_tokens": 8, "temperature": 0.7, **settings}, engine=engine)
    hardware = Hardware("cpu", "fp32", 1)
    return sample(model, prompts, asked, eos_id=codec.eos_id, pad_id=codec.pad_id, seed=seed, hardware=hardware)


@pytest.fixture
def prompts(ragged: Any) -> list[list[int]]:
    found: list[list[int]] = [*ragged[0], *ragged[1]]
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_greedy_answers_and_logprobs_are_the_native_engines(make_model, codec, prompts, architecture):
    model = make_model(architecture)
    native, other = by("native", model, codec, prompts, temperature=0), by("vllm", model, codec, prompts, temperature=0)
    assert other.tokens == native.tokens
    assert other.ended == native.ended
    torch.testing.assert_close(other.logprobs, native.logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 40, 2**28])
def test_logprobs_are_those_of_the_tokens_at_the_sampling_temperature(make_model, codec, prompts, monkeypatch, at_once):
    model = make_model()
    monkeypatch.setattr(scored, "LOGITS_AT_ONCE", at_once * model.config.vocab_size)
    found = by("vllm", model, codec, prompts)
    assert found.logprobs.shape == (len(prompts), 8)
    for prompt, tokens, logprobs in zip(prompts, found.tokens, found.logprobs, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
        torch.testing.assert_close(logprobs[: len(tokens)], expected, rtol=0, atol=1e-4)
        assert (logprobs[len(tokens) :] == 0).all()


def test_all_settings_reach_it(make_model, codec):
    by("vllm", make_model(), codec, [[50]] * 10, temperature=0.6, top_k=5, top_p=0.9)
    first, last = LLM.asked[0], LLM.asked[-1]
    assert (first.temperature, first.top_k, first.top_p, first.max_tokens) == (0.6, 5, 0.9, 8)
    assert (first.stop_token_ids, first.ignore_eos) == ([codec.eos_id], True)
    assert (first.logprobs, last.logprobs) == (0, None)
    assert len({asked.seed for asked in LLM.asked}) == 10


def test_bf16_weights_are_rounded_once(make_model, codec, prompts):
    model = make_model()
    asked = Sampling(4, temperature=0.0, engine="vllm")
    hardware = Hardware("cpu", "bf16", 1)
    ids = {"eos_id": codec.eos_id, "pad_id": codec.pad_id}
    found = sample(model, prompts, asked, **ids, seed=0, hardware=hardware)
    assert LLM.running[0].settings["dtype"] == "bfloat16"
    assert next(LLM.running[0].model.parameters()).dtype == torch.bfloat16
    assert found.logprobs.dtype == torch.float32


def test_each_row_has_a_stream_of_its_own_that_the_seed_decides(make_model, codec):
    model, prompt = make_model(spread=2.0), [50, 51, 52]
    found = by("vllm", model, codec, [prompt] * 6).tokens
    assert len({tuple(tokens) for tokens in found}) > 3
    assert by("vllm", model, codec, [prompt] * 2).tokens == found[:2]
    assert by("vllm", model, codec, [prompt] * 6, seed=4).tokens != found


def test_answers_follow_the_weights_and_one_engine_serves(make_model, codec, prompts):
    model = make_model()
    by("vllm", model, codec, prompts, temperature=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    native, other = by("native", model, codec, prompts, temperature=0), by("vllm", model, codec, prompts, temperature=0)
    assert other.tokens == native.tokens
    assert len(LLM.running) == 1


def test_an_engine_that_keeps_other_weights_is_found_out(make_model, codec, prompts, monkeypatch):
    model = make_model()
    by("vllm", model, codec, prompts)
    monkeypatch.setattr(LLM, "collective_rpc", lambda *_, **__: None)
    by("vllm", model, codec, prompts)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(1.2)
    with pytest.raises(RunFailed, match=r"vLLM's logprobs are [\d.]+ nats per token off the policy's"):
        by("vllm", model, codec, prompts)
    assert LLM.running[0].ended


@pytest.mark.parametrize("method", ["collective_rpc", "reset_prefix_cache", "generate"])
def test_an_engine_that_fails_is_given_to_nobody_again(make_model, codec, prompts, monkeypatch, method):
    model = make_model()
    by("vllm", model, codec, prompts)
    with monkeypatch.context() as changed:
        if method == "reset_prefix_cache":
            changed.setattr(LLM, method, lambda _: False)
        else:
            changed.setattr(LLM, method, lambda *_, **__: 1 / 0)
        with pytest.raises(RunFailed, match=r"vLLM failed: (division by zero|it keeps keys and values)"):
            by("vllm", model, codec, prompts)
    assert LLM.running[0].ended
    by("vllm", model, codec, prompts)
    assert len(LLM.running) == 2


def test_longer_texts_and_another_architecture_start_it_anew(make_model, codec):
    model = make_model(context=300)
    for size in (3, 120, 121, 250, 5):
        by("vllm", model, codec, [[50] * size])
    assert [llm.settings["max_model_len"] for llm in LLM.running] == [128, 256, 300]
    by("vllm", make_model("llama", context=50), codec, [[50] * 5])
    assert [llm.settings["max_model_len"] for llm in LLM.running] == [128, 256, 300, 50]
    assert [llm.ended for llm in LLM.running] == [True, True, True, False]
    assert [Path(llm.folder).exists() for llm in LLM.running] == [False, False, False, True]


def test_an_adapter_is_handed_over_with_its_base(make_lm, codec, prompts, tmp_path):
    pytest.importorskip("peft")
    from harness.config import LoraConfig
    from harness.models.adapters import Base, add_adapter, bare

    lm = make_lm()
    add_adapter(lm.model, LoraConfig(rank=2), Base(str(tmp_path)), seed=0)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "lora" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    native = by("native", lm.model, codec, prompts, temperature=0)
    other = by("vllm", lm.model, codec, prompts, temperature=0)
    assert other.tokens == native.tokens
    assert by("vllm", bare(lm.model), codec, prompts, temperature=0).tokens != native.tokens


def test_what_cannot_be_sampled_by_it_says_so(make_model, codec):
    model = make_model()
    model.config.is_encoder_decoder = True
    with pytest.raises(RunFailed, match="engine=vllm takes causal models; a GPT2LMHeadModel needs engine=native"):
        by("vllm", model, codec, [[50]])


def test_an_engine_that_does_not_start_is_a_failed_run(make_model, codec, monkeypatch):
    folders = []

    def fail(_: Any, model: str, **settings: Any) -> None:
        folders.append(Path(model))
        raise ValueError("no such architecture")

    monkeypatch.setattr(LLM, "__init__", fail)
    with pytest.raises(RunFailed, match="vLLM does not start with a GPT2LMHeadModel: no such architecture"):
        by("vllm", make_model(), codec, [[50]])
    assert folders
    assert not folders[0].exists()


@pytest.mark.extended
def test_the_whole_loop_runs_on_it_and_says_so(tmp_path: Path) -> None:
    rows = "evaluation.fixed_rows=[references,sft,best-of-n]"
    assert smoke_run("task=qa", f"output_dir={tmp_path}", *ENGINE_KEYS, rows) == 0
    (record,) = (found for found in read_records(tmp_path / "records") if not found["fixed"])
    assert record["status"] == "ok"
    assert record["config"]["rollout"]["engine"] == "vllm"
    assert LLM.running, "who answered was the stand-in"


@pytest.mark.parametrize(
    ("device", "quantization", "message"),
    [
        ("cuda:1", None, "hardware.device=cuda:1 is not where vLLM works"),
        ("cuda", "nf4", "model.quantization=nf4 cannot be handed to the engine that rollout.engine=vllm names"),
    ],
)
def test_devices_and_models_that_it_cannot_take_are_named(device: str, quantization: str | None, message: str) -> None:
    config: Any = SimpleNamespace(
        rollout=SimpleNamespace(engine="vllm", temperature=0.7),
        evaluation=SimpleNamespace(engine="native", temperature=0.0),
        feedback=SimpleNamespace(sampling_temperature=0.7),
        model=SimpleNamespace(kind="hf", quantization=quantization),
    )
    with pytest.raises(UserError, match=message):
        require_engine(config, Hardware(device, "bf16", 1))
    config.model.quantization = None
    require_engine(config, Hardware("cuda", "bf16", 1))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["rollout.engine=vllm", "rollout.temperature=0.001"],
            "rollout.temperature=0.001 is below 0.01, which vLLM would take in its place",
        ),
        (["rollout.engine=sglang"], "rollout.engine=sglang is not a choice; choose native, compiled, vllm"),
        (["rollout.engine_memory=1.5"], "rollout.engine_memory=1.5 must lie between 0 and 1; give 0.4"),
        (["rollout.engine_memory=0.5"], "rollout.engine_memory=0.5 decides nothing without rollout.engine=vllm"),
        (["evaluation.engine=vllm"], "evaluation.engine=vllm needs the package vllm, which is not installed"),
    ],
)
def test_bad_settings_are_refused(tmp_path, capfd, monkeypatch, typed, message):
    monkeypatch.delitem(sys.modules, "vllm")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *given: None if name == "vllm" else find(name, *given)
    )
    assert smoke_run("task=qa", f"output_dir={tmp_path}", *typed) == 2
    assert message in "".join(capfd.readouterr())
