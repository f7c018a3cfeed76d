"""Faster kernels compute the same functions: against torch's own layers, transformers' activations and plain models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from harness.models import kernels
from harness.models.kernels import FastConv1D, FastLinear, use_fast_kernels

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


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_the_approximation_of_gelu_is_the_same_function(name: str) -> None:
    model = nn.Module()
    model.act = ACT2FN[name]
    values = torch.linspace(-8, 8, 1001)
    expected = model.act(values)
    found = use_fast_kernels(model).act(values)
    assert type(model.act) is not type(ACT2FN[name])
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


def test_shapes_are_few_whatever_the_lengths(products: list[tuple[int, ...]]) -> None:
    _, fast = pair(LAYERS["linear"])
    for rows in range(1000, 2000):
        fast(torch.randn(rows, 24)).sum().backward()
    assert len(set(products)) <= 2 * 10, "one for the layer, one for its weight's gradient, of each number of rows"
