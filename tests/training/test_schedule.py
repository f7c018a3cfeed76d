from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from harness.training.schedule import cosine, factor, linear_to_zero, optimizer


def theirs(make, total: int, warmup: int) -> list[float]:
    """The factors that transformers applies, one per step."""
    schedule = make(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), warmup, total)
    return [schedule.lr_lambdas[0](step) for step in range(total + 3)]


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("ours", "make"), [(linear_to_zero, get_linear_schedule_with_warmup), (cosine, get_cosine_schedule_with_warmup)]
)
def test_decay_equals_that_of_transformers(ours, make, warmup):
    factors = [ours(step, 17, warmup) for step in range(18)]
    assert factors[warmup:] == pytest.approx(theirs(make, 17, warmup)[warmup:18], abs=1e-12)


@pytest.mark.parametrize("ours", [linear_to_zero, cosine])
def test_the_rise_starts_above_zero_and_reaches_one(ours):
    assert [ours(step, 10, 3) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    factors = [ours(step, 10, 3) for step in range(13)]
    assert all(a > b for a, b in pairwise(factors[3:11]))
    assert factors[10:] == pytest.approx([0.0] * 3)
    assert ours(0, 1, 0) == 1.0


@pytest.mark.parametrize("ours", [linear_to_zero, cosine])
@pytest.mark.parametrize(("step", "total", "warmup"), [(0, 0, 0), (0, 5, 5), (0, 5, -1), (-1, 5, 0)])
def test_impossible_schedules_are_refused(ours, step, total, warmup):
    with pytest.raises(ValueError, match="must be"):
        ours(step, total, warmup)


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3))


def test_only_matrices_decay():
    model = small_model()
    made = optimizer(model.parameters(), lr=0.1, weight_decay=0.5)
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    expected = {"0.weight": 0.5, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.5, "2.bias": 0.0}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == expected
    assert all((group["eps"], group["betas"]) == (1e-5, (0.9, 0.999)) for group in made.param_groups)
    # With no gradient signal, a step shrinks matrices by lr * weight_decay and leaves the rest.
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    made.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * expected[name]))


def test_steps_equal_plain_adamw_written_out():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    made = optimizer([parameter], lr=0.01, weight_decay=0.1)
    weights, first, second = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for step, gradient in enumerate([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.0]], start=1):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        made.step()
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            move = (first[i] / (1 - 0.9**step)) / ((second[i] / (1 - 0.999**step)) ** 0.5 + 1e-5)
            weights[i] = weights[i] * (1 - 0.01 * 0.1) - 0.01 * move
    assert parameter[0].tolist() == pytest.approx(weights, rel=1e-10)


def test_frozen_parameters_stay_out_and_schedules_multiply_the_peak():
    model = small_model()
    model[0].requires_grad_(False)
    made = optimizer(model.parameters(), lr=0.2, weight_decay=0.0)
    assert sum(len(group["params"]) for group in made.param_groups) == 4
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: linear_to_zero(step, 4))
    rates = []
    for _ in range(4):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    assert rates == pytest.approx([0.2, 0.15, 0.1, 0.05])
    with pytest.raises(ValueError, match="trainable"):
        optimizer(model[0].parameters(), lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize(("name", "at_three_quarters"), [("linear", 0.25), ("cosine", 0.1464), ("constant", 1.0)])
def test_schedules_go_by_their_names(name, at_three_quarters):
    assert factor(name, 0, 8) == 1.0
    assert factor(name, 6, 8) == pytest.approx(at_three_quarters, abs=1e-4)
