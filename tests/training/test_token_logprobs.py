"""Logprobs and entropies a piece at a time are those of the formulas, with their gradients, whatever the pieces."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.training import token_logprobs
from harness.training.token_logprobs import logprobs_and_entropies, sequence_logprobs


def near(value: float, **kwargs: float) -> Any:
    return pytest.approx(value, **{"rel": 1e-12, "abs": 1e-13, **kwargs})


def entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.long)
    return logprobs_and_entropies(logits, tokens, temperature)[1]


@pytest.fixture(autouse=True, params=[2**18, 40])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, and a row or two at a time."""
    monkeypatch.setattr(token_logprobs, "CPU_PIECE", request.param)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_logprobs_and_entropy_equal_the_naive_loop(naive, batch, temperature):
    logits, tokens = batch.normal(4, 6, 5, scale=3.0), batch.tokens(5)
    logprobs, entropies = sequence_logprobs(logits, tokens, temperature), entropy(logits, temperature)
    assert logprobs.shape == entropies.shape == (4, 6)
    for b in range(4):
        for t in range(6):
            row = logits[b, t].tolist()
            assert logprobs[b, t].item() == near(naive.logprob(row, int(tokens[b, t]), temperature))
            assert entropies[b, t].item() == near(naive.entropy(row, temperature))


def test_logprobs_equal_torch_categorical_and_are_a_distribution(batch):
    logits = batch.normal(4, 6, 5)
    distribution = torch.distributions.Categorical(logits=logits / 0.7)
    tokens = batch.tokens(5)
    torch.testing.assert_close(sequence_logprobs(logits, tokens, 0.7), distribution.log_prob(tokens))
    torch.testing.assert_close(entropy(logits, 0.7), distribution.entropy())
    total = sum(sequence_logprobs(logits, torch.full((4, 6), v), 0.7).exp() for v in range(5))
    torch.testing.assert_close(total, torch.ones(4, 6, dtype=torch.float64))


def test_half_precision_logits_are_divided_and_normalised_in_fp32(batch):
    logits, tokens = batch.normal(4, 6, 50, scale=8.0).bfloat16(), batch.tokens(50)
    logprobs = sequence_logprobs(logits, tokens, 0.7)
    assert logprobs.dtype == entropy(logits, 0.7).dtype == torch.float32
    exact = sequence_logprobs(logits.double(), tokens, 0.7)
    torch.testing.assert_close(logprobs.double(), exact, rtol=1e-6, atol=1e-5)


def test_entropy_of_the_two_extremes_and_of_forbidden_tokens():
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -math.inf, -math.inf], [1e4, 0.0, 0.0, 0.0]]])
    logits.requires_grad_()
    values = entropy(logits)
    assert values[0].tolist() == [near(math.log(4), rel=1e-6), near(math.log(2), rel=1e-6), 0.0]
    values.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_gradients_of_logprobs_and_entropy(batch):
    logits, tokens = batch.normal(2, 3, 4).requires_grad_(), batch.tokens(4)[:2, :3]
    assert torch.autograd.gradcheck(lambda x: sequence_logprobs(x, tokens, 0.7), logits)
    assert torch.autograd.gradcheck(lambda x: entropy(x, 0.7), logits)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_through_both_are_autograds(batch, temperature):
    logits, tokens = batch.normal(5, 6, 9, scale=3.0), batch.tokens(9)[:1].expand(5, -1)
    weights = batch.normal(2, 5, 6)
    found, expected = (logits.clone().requires_grad_() for _ in range(2))
    ours = logprobs_and_entropies(found, tokens, temperature)
    log_p = (expected / temperature).log_softmax(-1)
    theirs = log_p.gather(-1, tokens[..., None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    for values, into in ((ours, found), (theirs, expected)):
        (values[0] * weights[0] + values[1] * weights[1]).sum().backward()
        assert into.grad is not None
    torch.testing.assert_close(found.grad, expected.grad)


def test_nothing_as_large_as_the_logits_is_kept(batch):
    logits, tokens = batch.normal(4, 6, 50).float().requires_grad_(), batch.tokens(50)
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs_and_entropies(logits, tokens, 0.7)
    large = [tensor for tensor in kept if tensor.numel() >= logits.numel()]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]


def test_no_rows():
    logits = torch.zeros(0, 5, requires_grad=True)
    sequence_logprobs(logits, torch.zeros(0, dtype=torch.long)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == (0, 5)
