from __future__ import annotations

import math

import pytest
import torch

from harness.training.advantages import explained_variance, gae, whiten

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_equals_the_sum_of_its_definition(naive, batch, gamma, lam):
    rewards, values = batch.normal(), batch.normal()
    result = gae(rewards, values, batch.mask, gamma=gamma, lam=lam)
    tables = (x.tolist() for x in (rewards, values, batch.mask))
    for ours, theirs in zip(result, naive.gae(*tables, gamma, lam), strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), **EXACT)


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, -1.0, 4.0, 0.0]])
    values = torch.tensor([[1.0, 2.0, 3.0, 7.0]])  # the last one is under a pad
    mask = torch.tensor([[True, True, True, False]])
    # delta = (0 + 2 - 1, -1 + 3 - 2, 4 + 0 - 3) = (1, 0, 1); with lam = 1/2: A = (1 + 0 + 1/4, 0 + 1/2, 1)
    result = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert result.advantages.tolist() == [[1.25, 0.5, 1.0, 0.0]]
    assert result.returns.tolist() == [[2.25, 2.5, 4.0, 0.0]]


def test_lambda_one_gives_the_rewards_to_come_as_returns(batch):
    rewards, values = batch.normal(), batch.normal()
    returns = gae(rewards, values, batch.mask, gamma=1.0, lam=1.0).returns
    to_come = rewards.masked_fill(~batch.mask, 0.0).flip(1).cumsum(1).flip(1).masked_fill(~batch.mask, 0.0)
    torch.testing.assert_close(returns, to_come, **EXACT)


def test_gae_does_not_see_padding_on_either_side(batch, padded):
    rewards, values = batch.normal(), batch.normal()
    plain = gae(rewards, values, batch.mask, gamma=0.99, lam=0.95)
    right = gae(*padded(rewards, values, batch.mask), gamma=0.99, lam=0.95)
    left_inputs = (padded(x.flip(1))[0].flip(1) for x in (rewards, values, batch.mask))
    left = gae(*left_inputs, gamma=0.99, lam=0.95)
    for a, b, c in zip(plain, right, left, strict=True):
        torch.testing.assert_close(a, b[:, :6], **EXACT)
        torch.testing.assert_close(a, c[:, 3:], **EXACT)
        assert (b[:, 6:] == 0).all()
        assert (c[:, :3] == 0).all()


def test_a_perfect_value_function_leaves_no_advantage(batch):
    rewards = batch.normal()
    values = gae(rewards, torch.zeros_like(rewards), batch.mask, gamma=1.0, lam=1.0).returns
    advantages = gae(rewards, values, batch.mask, gamma=1.0, lam=0.95).advantages
    torch.testing.assert_close(advantages, torch.zeros_like(rewards), **EXACT)


def test_gae_of_nothing_and_of_one_token():
    empty = gae(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), gamma=1.0, lam=0.95)
    assert all((x == 0).all() for x in empty)
    one = gae(torch.tensor([[5.0]]), torch.tensor([[2.0]]), torch.tensor([[True]]), gamma=1.0, lam=0.95)
    assert (one.advantages.item(), one.returns.item()) == (3.0, 5.0)


def test_targets_carry_no_gradient_and_a_bigger_reward_gives_a_bigger_advantage(batch):
    rewards, values = batch.normal(), batch.normal().requires_grad_()
    before = gae(rewards, values, batch.mask, gamma=1.0, lam=0.95)
    assert not before.advantages.requires_grad
    assert not before.returns.requires_grad
    rewards[:, 0] += 1.0
    after = gae(rewards, values, batch.mask, gamma=1.0, lam=0.95)
    torch.testing.assert_close(after.advantages[:, 0], before.advantages[:, 0] + 1.0, **EXACT)
    torch.testing.assert_close(after.advantages[:, 1:], before.advantages[:, 1:], rtol=0, atol=0)


# ---- whitening


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_equals_the_naive_loop(naive, batch, shift_mean):
    values = batch.normal(scale=4.0) + 7.0
    expected = naive.whiten(values.tolist(), batch.mask.tolist(), shift_mean)
    result = whiten(values, batch.mask, shift_mean=shift_mean)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_whitened_moments_and_invariances(batch, padded):
    values = batch.normal() + 3.0
    white = whiten(values, batch.mask)
    inside = white[batch.mask]
    assert inside.mean().item() == pytest.approx(0.0, abs=1e-14)
    assert inside.var(unbiased=False).item() == pytest.approx(1.0, abs=1e-7)  # 1e-8 is added to the variance
    assert (white[~batch.mask] == 0).all()
    torch.testing.assert_close(whiten(5.0 * values - 2.0, batch.mask), white, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(whiten(*padded(values, batch.mask))[:, :6], white, **EXACT)
    kept_mean = whiten(values, batch.mask, shift_mean=False)[batch.mask].mean().item()
    assert kept_mean == pytest.approx(values[batch.mask].mean().item())


@pytest.mark.parametrize("constant", [0.0, 0.1, 1234.567, -1e6])
def test_equal_values_whiten_to_zero_in_single_precision(constant):
    values, mask = torch.full((7, 13), constant), torch.ones(7, 13, dtype=torch.bool)
    assert whiten(values, mask).abs().max().item() < 1e-3
    torch.testing.assert_close(whiten(values, mask, shift_mean=False), values, rtol=1e-6, atol=1e-3)


def test_whiten_nothing_and_one_token():
    assert whiten(torch.tensor([[5.0, 6.0]]), torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(torch.tensor([[5.0, 6.0]]), torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]


# ---- explained variance


def test_explained_variance_equals_the_naive_loop_and_r2_of_centred_residuals(naive, batch, padded):
    values, returns = batch.normal(), batch.normal()
    result = explained_variance(values, returns, batch.mask).item()
    expected = naive.explained_variance(*(x.tolist() for x in (values, returns, batch.mask)))
    assert result == pytest.approx(expected, rel=1e-12)
    assert explained_variance(*padded(values, returns, batch.mask)).item() == pytest.approx(result, rel=1e-12)


def test_explained_variance_of_known_predictors(batch):
    returns = batch.normal()
    assert explained_variance(returns, returns, batch.mask).item() == 1.0
    assert explained_variance(returns + 3.0, returns, batch.mask).item() == pytest.approx(1.0)  # the level is free
    assert explained_variance(torch.full_like(returns, 9.0), returns, batch.mask).item() == pytest.approx(
        0.0, abs=1e-12
    )
    assert explained_variance(-returns, returns, batch.mask).item() == pytest.approx(-3.0)  # Var(2R) = 4 Var(R)


@pytest.mark.parametrize("returns", [torch.full((3, 5), 0.1), torch.zeros(3, 5), torch.full((3, 5), 1e5)])
def test_explained_variance_of_returns_that_do_not_vary_is_undefined(returns):
    assert math.isnan(explained_variance(torch.randn(3, 5), returns, torch.ones(3, 5, dtype=torch.bool)).item())
    assert math.isnan(explained_variance(returns, returns, torch.zeros(3, 5, dtype=torch.bool)).item())
