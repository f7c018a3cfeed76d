"""Faster kernels compute the same functions: against torch's own layers, transformers' activations and plain models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.pytorch_utils import Conv1D

from harness.config import LoraConfig, OptimizerConfig
from harness.hardware import Hardware
from harness.models import kernels
from harness.models.adapters import Base, add_adapter
from harness.models.gelu import TanhGELU
from harness.models.kernels import FastConv1D, FastLinear, more_rows, use_fast_kernels
from harness.training.updates import Updates, accumulate

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 40),
    "without bias": lambda: nn.Linear(24, 40, bias=False),
    "to fewer": lambda: nn.Linear(24, 8),
    "conv1d": lambda: Conv1D(40, 24),
    "conv1d to fewer": lambda: Conv1D(8, 24),
}
INPUTS: dict[str, Callable[[], torch.Tensor]] = {
    "rows": lambda: torch.randn(50, 24),
    "rows that torch has some of": lambda: torch.randn(3, 37, 24),
    "batch": lambda: torch.randn(4, 9, 24),
    "slice": lambda: torch.randn(4, 12, 24)[:, 2:],
    "one row": lambda: torch.randn(1, 24),
}


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Fills with the shapes that went through oneDNN."""
    seen: list[tuple[int, ...]] = []
    product = kernels._by_onednn

    def counted(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(tuple(left.shape))
        return product(left, right, bias)

    monkeypatch.setattr(kernels, "_by_onednn", counted)
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: True)  # whatever the processor
    return seen


def pair(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = make()
    return plain, use_fast_kernels(nn.Sequential(copy.deepcopy(plain)))[0]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("given", INPUTS)
def test_a_layer_and_its_gradients_are_the_same(products: list[tuple[int, ...]], layer: str, given: str) -> None:
    plain, fast = pair(LAYERS[layer])
    ours = INPUTS[given]().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    expected, found = plain(theirs), fast(ours)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    assert bool(products) == (given != "one row"), "few rows stay with torch"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    for mine, other in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_gradients_that_are_one_number_or_not_needed(products: list[tuple[int, ...]]) -> None:
    plain, fast = pair(LAYERS["linear"])
    data = torch.randn(50, 24)
    plain(data).sum().backward()
    fast(data).sum().backward()  # a gradient without strides of its own
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-5)
    assert len(products) == 2, "nobody asked for the input's gradient"
    fast.requires_grad_(False)
    ours = data.clone().requires_grad_()
    fast(ours).sum().backward()
    torch.testing.assert_close(ours.grad, plain.weight.detach().sum(0).expand(50, 24), rtol=1e-5, atol=1e-5)
    assert len(products) == 4, "nobody asked for the weight's gradient"


def test_without_onednn_and_in_bf16_torch_is_asked(
    products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fast = pair(LAYERS["linear"])
    data = torch.randn(50, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(data), plain(data))
    assert torch.equal(fast.double()(data.double()), plain.double()(data.double()))
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: False)
    assert torch.equal(fast.float()(data), plain.float()(data))
    assert not products


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_the_approximation_of_gelu_is_the_same_function(name: str) -> None:
    model = nn.Module()
    model.act = ACT2FN[name]
    values = torch.linspace(-8, 8, 1001)
    expected = model.act(values)
    found = use_fast_kernels(model).act(values)
    assert type(model.act) is TanhGELU
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_model_says_the_same_and_is_saved_and_copied_as_before(
    make_model: Callable[..., Any], architecture: str, tmp_path: Any
) -> None:
    from transformers import AutoModelForCausalLM

    plain = make_model(architecture)
    fast = use_fast_kernels(copy.deepcopy(plain))
    ids = torch.randint(2, 50, (4, 20))
    kinds = {type(module) for module in copy.deepcopy(fast).modules()}
    assert kinds & {FastLinear, FastConv1D}
    assert not kinds & {nn.Linear, Conv1D}
    fast.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(plain)
    with torch.inference_mode():
        expected = plain(ids).logits
        torch.testing.assert_close(fast(ids).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=0)


def test_layers_of_other_classes_are_left_alone() -> None:
    class Quantised(nn.Linear):
        """Stands for a subclass that computes in its own way."""

    model = nn.Sequential(Quantised(4, 4), nn.Linear(4, 4))
    use_fast_kernels(model)
    assert [type(layer) for layer in model] == [Quantised, FastLinear]


@pytest.mark.parametrize("layer", ["linear", "conv1d"])
def test_in_bf16_torch_too_gets_few_numbers_of_rows(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair(LAYERS[layer])
    seen: set[int] = set()
    own = type(fast).__bases__[0].forward
    monkeypatch.setattr(type(fast).__bases__[0], "forward", lambda self, x: (seen.add(len(x)), own(self, x))[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in range(1000, 2000):
            assert fast(torch.randn(rows, 24)).shape == (rows, 40)
    assert seen == {more_rows(rows) for rows in range(1000, 2000)}
    assert len(seen) <= 20


def test_shapes_are_few_whatever_the_lengths(products: list[tuple[int, ...]]) -> None:
    _, fast = pair(LAYERS["linear"])
    for rows in range(1000, 2000):
        fast(torch.randn(rows, 24)).sum().backward()
    assert len(set(products)) <= 2 * 10, "one for the layer, one for its weight's gradient, of each number of rows"


HALVES = {"linear": LAYERS["linear"], "without bias": LAYERS["without bias"], "conv1d": LAYERS["conv1d"]}


@pytest.mark.parametrize("layer", HALVES)
@pytest.mark.parametrize("given", INPUTS)
def test_in_bf16_a_layer_and_its_gradients_are_autocasts(layer: str, given: str) -> None:
    plain, fast = pair(HALVES[layer])
    ours = INPUTS[given]().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = plain(theirs), fast(ours)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    assert ours.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    for mine, other in zip(fast.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == torch.float32
        assert torch.equal(mine.grad, other.grad)


@pytest.mark.parametrize("pieces", [1, 2])
def test_two_threads_on_one_model_change_no_number(make_model: Callable[..., Any], pieces: int) -> None:
    """Gradients of twenty batches, each in halves: one after the other, or at the same time."""
    hardware, found = Hardware("cpu", "bf16", 1, pieces), []
    for workers in (1, pieces):
        model, texts = use_fast_kernels(make_model("gpt2", width=32)), torch.Generator().manual_seed(0)
        updates = Updates(model, config=OptimizerConfig(kind="muon", lr=1e-2), total=20)
        for _ in range(20):
            ids = torch.randint(2, 50, (6, 20), generator=texts)

            def learn(rows: Any, model: Any = model, ids: torch.Tensor = ids) -> None:
                with hardware.autocast():
                    logits = model(ids[list(rows)]).logits
                logits.float().logsumexp(-1).mean().backward()

            accumulate(range(6), None, learn, model=model, hardware=replace(hardware, workers=workers))
            updates.step()
        found.append([parameter.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_adapters_leave_attention_as_it_is(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    model, asked = use_fast_kernels(make_model("llama", width=32)), []
    add_adapter(model, LoraConfig(rank=2), Base("base"), seed=0)

    def attention(module: Any, query: torch.Tensor, *more: Any, **given: Any) -> Any:
        asked.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return sdpa_attention_forward(module, query, *more, **given)

    monkeypatch.setattr(kernels, "sdpa_attention_forward", attention)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        model(torch.randint(2, 50, (4, 20)))
    assert set(asked) == {(torch.float32, False)}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_attention_in_bf16_is_as_near_to_fp32_as_torchs(
    make_model: Callable[..., Any], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_model(architecture, width=32, spread=4.0)
    fast, ids = use_fast_kernels(copy.deepcopy(plain)), torch.randint(2, 50, (4, 20))
    mask = torch.ones_like(ids)
    mask[:2, :5] = 0
    found, asked = [], []

    def attention(module: Any, query: torch.Tensor, *more: Any, **given: Any) -> Any:
        asked.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return sdpa_attention_forward(module, query, *more, **given)

    monkeypatch.setattr(kernels, "sdpa_attention_forward", attention)
    for model in (plain, fast):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            logits = model(ids, attention_mask=mask).logits[:, 5:].float()
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), model.get_input_embeddings().weight.grad))
    assert asked[-1] == (torch.float32, False), "ours, which came last"
    plain.zero_grad()
    exact = plain(ids, attention_mask=mask).logits[:, 5:]
    exact.logsumexp(-1).sum().backward()
    for ours, theirs, right in zip(
        found[1], found[0], (exact.detach(), plain.get_input_embeddings().weight.grad), strict=True
    ):
        assert float((ours - right).norm()) <= 1.2 * float((theirs - right).norm()) + 1e-6


def test_what_is_no_model_of_ours_has_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        kernels, "sdpa_attention_forward", lambda module, query, *_a, **_k: seen.append(query.dtype) or (query, None)
    )
    query = torch.randn(2, 2, 5, 4, dtype=torch.bfloat16)
    plain, ours = nn.Sequential(nn.Linear(2, 2)), use_fast_kernels(nn.Sequential(nn.Linear(2, 2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for layer, rows in ((plain, 5), (ours, 5), (ours, 1)):
            out, _ = kernels.attend(layer, query[:, :, :rows], query, query, None)
            assert out.dtype == torch.bfloat16
    kernels.attend(ours, query, query, query, None)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
