from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from harness.training.losses import (
    masked_mean,
    policy_loss,
    preference_loss,
    sft_loss,
    value_loss,
)
from harness.training.token_logprobs import sequence_logprobs


def near(value: float, **kwargs: float):
    return pytest.approx(value, **{"rel": 1e-12, "abs": 1e-13, **kwargs})


def test_masked_mean(naive, batch):
    values = batch.normal()
    expected = naive.mean(naive.entries(values.tolist(), batch.mask.tolist()))
    assert masked_mean(values, batch.mask).item() == near(expected)
    assert masked_mean(values, batch.mask, denominator=28).item() == near(expected * 14 / 28)


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    values = torch.tensor([1.0, math.nan], requires_grad=True)
    mean = masked_mean(values, torch.tensor([False, False]))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad.tolist() == [0.0, 0.0]


# ---- policy loss


def policy_inputs(batch):
    old = batch.normal() - 3.0
    return old + batch.normal(scale=0.3), old, batch.normal()


@pytest.mark.parametrize("clip_range", [0.05, 0.2])
def test_policy_loss_equals_the_naive_loop(naive, batch, clip_range):
    logprobs, old, advantages = policy_inputs(batch)
    result = policy_loss(logprobs, old, advantages, batch.mask, clip_range=clip_range)
    tables = (x.tolist() for x in (logprobs, old, advantages, batch.mask))
    expected = naive.policy_loss(*tables, clip_range)
    assert {name: value.item() for name, value in result._asdict().items()} == {k: near(v) for k, v in expected.items()}
    assert 0 < expected["clip_fraction"] < 1


def test_policy_loss_does_not_see_padding(batch, padded):
    logprobs, old, advantages = policy_inputs(batch)
    logprobs.requires_grad_()
    plain = policy_loss(logprobs, old, advantages, batch.mask, clip_range=0.2)
    (gradient,) = torch.autograd.grad(plain.loss, logprobs)
    wide = policy_loss(*padded(logprobs, old, advantages, batch.mask), clip_range=0.2)
    (wide_gradient,) = torch.autograd.grad(wide.loss, logprobs)
    for a, b in zip(plain, wide, strict=True):
        assert a.item() == near(b.item())
    torch.testing.assert_close(gradient, wide_gradient, rtol=0, atol=1e-15)
    assert (gradient[~batch.mask] == 0).all()


def test_identical_policies_have_ratio_one_and_no_kl(batch):
    logprobs, _, advantages = policy_inputs(batch)
    logprobs.requires_grad_()
    result = policy_loss(logprobs, logprobs.detach(), advantages, batch.mask, clip_range=0.2)
    assert (result.clip_fraction, result.approx_kl, result.ratio_mean, result.ratio_max) == (0.0, 0.0, 1.0, 1.0)
    assert result.loss.item() == near(-advantages[batch.mask].mean().item())
    # At ratio 1 the gradient is the policy gradient: -A / N on every token.
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    torch.testing.assert_close(gradient[batch.mask], -advantages[batch.mask] / 14)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "moves"),
    [
        (math.log(1.5), 1.0, -1.2, False),  # good and already much likelier: no further
        (math.log(1.5), -1.0, 1.5, True),  # bad and much likelier: pulled back
        (math.log(0.5), 1.0, -0.5, True),  # good and much rarer: pulled back
        (math.log(0.5), -1.0, 0.8, False),  # bad and already much rarer: no further
        (math.log(1.1), 1.0, -1.1, True),
    ],
)
def test_policy_loss_of_one_token_by_hand(log_ratio, advantage, loss, moves):
    logprobs = torch.tensor([[log_ratio - 2.0]], dtype=torch.float64, requires_grad=True)
    result = policy_loss(
        logprobs,
        torch.tensor([[-2.0]], dtype=torch.float64),
        torch.tensor([[advantage]]),
        torch.tensor([[True]]),
        clip_range=0.2,
    )
    result.loss.backward()
    assert result.loss.item() == near(loss)
    assert result.clip_fraction.item() == (0.0 if moves else 1.0)
    # Descent raises the probability of what was good: the gradient's sign is opposite to the advantage's.
    assert math.copysign(1.0, logprobs.grad.item()) == -math.copysign(1.0, advantage) if moves else logprobs.grad == 0


def test_policy_loss_gradient_and_what_carries_none(batch):
    logprobs, old, advantages = policy_inputs(batch)
    logprobs.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: policy_loss(x, old, advantages, batch.mask, clip_range=0.2).loss, logprobs
    )
    old.requires_grad_()
    advantages.requires_grad_()
    result = policy_loss(logprobs, old, advantages, batch.mask, clip_range=0.2)
    result.loss.backward()
    assert old.grad is None
    assert advantages.grad is None
    assert not any(x.requires_grad for x in result[1:])


def test_policy_loss_of_an_empty_mask_is_zero(batch):
    logprobs, old, advantages = policy_inputs(batch)
    logprobs.requires_grad_()
    result = policy_loss(logprobs, old, advantages, torch.zeros_like(batch.mask), clip_range=0.2)
    result.loss.backward()
    assert [x.item() for x in result] == [0.0] * 5
    assert (logprobs.grad == 0).all()


def test_micro_batches_with_the_whole_denominator_add_up(batch):
    logprobs, old, advantages = policy_inputs(batch)
    whole_policy = policy_loss(logprobs, old, advantages, batch.mask, clip_range=0.2)
    whole_value = value_loss(logprobs, old, advantages, batch.mask, clip_range=0.2)
    n = batch.mask.sum()
    parts = [(logprobs[b : b + 1], old[b : b + 1], advantages[b : b + 1], batch.mask[b : b + 1]) for b in range(4)]
    policies = [policy_loss(*part, clip_range=0.2, denominator=n) for part in parts]
    values = [value_loss(*part, clip_range=0.2, denominator=n) for part in parts]
    for field in ("loss", "clip_fraction", "approx_kl", "ratio_mean"):
        assert sum(getattr(x, field).item() for x in policies) == near(getattr(whole_policy, field).item(), rel=1e-6)
    assert max(x.ratio_max.item() for x in policies) == whole_policy.ratio_max.item()
    assert sum(x.loss.item() for x in values) == near(whole_value.loss.item())


# ---- value loss


@pytest.mark.parametrize("clip_range", [0.2, math.inf])
def test_value_loss_equals_the_naive_loop(naive, batch, clip_range):
    old, returns = batch.normal(), batch.normal()
    values = old + batch.normal(scale=0.4)
    result = value_loss(values, old, returns, batch.mask, clip_range=clip_range)
    expected = naive.value_loss(*(x.tolist() for x in (values, old, returns, batch.mask)), clip_range)
    assert {name: value.item() for name, value in result._asdict().items()} == {k: near(v) for k, v in expected.items()}
    assert (result.clip_fraction.item() > 0) == (clip_range < 1)


def test_unclipped_value_loss_is_half_the_mean_squared_error(batch):
    values, returns = batch.normal(), batch.normal()
    result = value_loss(values, values, returns, batch.mask, clip_range=math.inf)
    assert result.loss.item() == near(0.5 * F.mse_loss(values[batch.mask], returns[batch.mask]).item())


def test_value_loss_does_not_see_padding(batch, padded):
    values, old, returns = batch.normal().requires_grad_(), batch.normal(), batch.normal()
    plain = value_loss(values, old, returns, batch.mask, clip_range=0.2)
    wide = value_loss(*padded(values, old, returns, batch.mask), clip_range=0.2)
    assert [x.item() for x in plain] == [near(x.item()) for x in wide]
    (gradient,) = torch.autograd.grad(plain.loss, values)
    (wide_gradient,) = torch.autograd.grad(wide.loss, values)
    torch.testing.assert_close(gradient, wide_gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # inside: (1 - 3)^2 / 2, pulled up
        (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved past the clip towards the return: stops
        (0.0, 1.0, 3.0, 4.5, -3.0),  # moved away from it: the plain error, pulled back
    ],
)
def test_value_loss_of_one_token_by_hand(value, old, target, loss, gradient):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True]])
    result = value_loss(values, torch.tensor([[old]]), torch.tensor([[target]]), mask, clip_range=0.2)
    result.loss.backward()
    # old + 0.2 is rounded in fp32, the type that old and target come in
    assert result.loss.item() == near(loss, rel=1e-6)
    assert values.grad.item() == near(gradient, rel=1e-6)


def test_value_loss_gradient_and_empty_mask(batch):
    values, old, returns = batch.normal().requires_grad_(), batch.normal(), batch.normal().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: value_loss(x, old, returns.detach(), batch.mask, clip_range=0.2).loss, values
    )
    value_loss(values, old, returns, batch.mask, clip_range=0.2).loss.backward()
    assert returns.grad is None
    empty = value_loss(values, old, returns, torch.zeros_like(batch.mask), clip_range=0.2)
    assert [x.item() for x in empty] == [0.0, 0.0]


# ---- preference loss


def test_preference_loss_equals_the_naive_loop_and_torch(naive, batch):
    chosen, rejected, margin = batch.normal(9), batch.normal(9), batch.normal(9).abs()
    plain = preference_loss(chosen, rejected)
    assert plain.item() == near(F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(9).double()).item())
    assert plain.item() == near(-F.logsigmoid(chosen - rejected).mean().item())
    full = preference_loss(chosen, rejected, margin=margin, centering=0.01)
    assert full.item() == near(naive.preference_loss(chosen.tolist(), rejected.tolist(), margin.tolist(), 0.01))
    number = preference_loss(chosen, rejected, margin=0.5)
    assert number.item() == near(naive.preference_loss(chosen.tolist(), rejected.tolist(), [0.5] * 9, 0.0))


def test_preference_loss_gradient(batch):
    chosen, rejected = batch.normal(5).requires_grad_(), batch.normal(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: preference_loss(c, r, margin=0.3, centering=0.1), (chosen, rejected))
    preference_loss(chosen, rejected).backward()
    assert (chosen.grad < 0).all()
    assert (rejected.grad > 0).all()
    torch.testing.assert_close(chosen.grad, -rejected.grad)


def test_preference_loss_sees_differences_only_unless_centred(batch):
    chosen, rejected = batch.normal(5), batch.normal(5)
    shifted = (chosen + 10.0, rejected + 10.0)
    assert preference_loss(*shifted).item() == near(preference_loss(chosen, rejected).item())
    assert preference_loss(*shifted, centering=0.01) > preference_loss(chosen, rejected, centering=0.01) + 1.0


def test_preference_loss_of_extreme_margins_stays_finite():
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = preference_loss(chosen, -chosen)
    loss.backward()
    assert loss.item() == 1e4  # (0 + 2e4) / 2
    assert chosen.grad.isfinite().all()


# ---- supervised loss


def test_sft_loss_equals_the_naive_loop(naive, batch):
    logits, labels = batch.normal(4, 6, 5), batch.tokens(5)
    expected = naive.sft_loss(logits.tolist(), labels.tolist(), batch.mask.tolist())
    assert sft_loss(logits, labels, batch.mask).item() == near(expected)


def test_sft_loss_equals_that_of_transformers(batch):
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits, tokens = batch.normal(4, 6, 5).float(), batch.tokens(5)
    labels = tokens.masked_fill(~batch.mask, -100)
    theirs = ForCausalLMLoss(logits, labels, vocab_size=5)
    ours = sft_loss(logits[:, :-1], labels[:, 1:], batch.mask[:, 1:])
    torch.testing.assert_close(ours, theirs)


def test_sft_loss_is_a_mean_over_tokens_not_sequences(batch):
    logits, labels = batch.normal(4, 6, 5), batch.tokens(5)
    per_token = -sequence_logprobs(logits, labels)
    assert sft_loss(logits, labels, batch.mask).item() == near(per_token[batch.mask].mean().item())


def test_sft_loss_does_not_see_padding(batch, padded):
    logits, labels = batch.normal(4, 6, 5).requires_grad_(), batch.tokens(5)
    plain = sft_loss(logits, labels, batch.mask)
    wide_logits, wide_labels, wide_mask = padded(logits, labels, batch.mask)
    wide = sft_loss(wide_logits, wide_labels.masked_fill(~wide_mask, -100), wide_mask)
    assert plain.item() == near(wide.item())
    (gradient,) = torch.autograd.grad(plain, logits)
    (wide_gradient,) = torch.autograd.grad(wide, logits)
    torch.testing.assert_close(gradient, wide_gradient, rtol=0, atol=1e-15)


def test_sft_loss_gradient_accumulation_and_empty_mask(batch):
    logits, labels = batch.normal(4, 6, 5).requires_grad_(), batch.tokens(5)
    assert torch.autograd.gradcheck(lambda x: sft_loss(x[:2], labels[:2], batch.mask[:2]), logits)
    n = batch.mask.sum()
    rows = [slice(b, b + 1) for b in range(4)]
    parts = sum(sft_loss(logits[b], labels[b], batch.mask[b], denominator=n) for b in rows)
    assert parts.item() == near(sft_loss(logits, labels, batch.mask).item())
    empty = sft_loss(logits, labels, torch.zeros_like(batch.mask))
    (gradient,) = torch.autograd.grad(empty, logits)
    assert empty.item() == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("fill", [0.0, 1e30, math.inf, math.nan])
def test_what_stands_under_a_pad_gets_no_gradient(batch, fill):
    logprobs, old, advantages = (x.masked_fill(~batch.mask, fill) for x in policy_inputs(batch))
    logits = batch.normal(4, 6, 5).masked_fill(~batch.mask.unsqueeze(-1), fill).requires_grad_()
    leaf, mask = logprobs.requires_grad_(), batch.mask
    losses = (
        policy_loss(leaf, old, advantages, mask, clip_range=0.2).loss,
        value_loss(leaf, old, advantages, mask, clip_range=0.2).loss,
    )
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert (gradient[~mask] == 0).all()
        assert gradient[mask].isfinite().all()
    (gradient,) = torch.autograd.grad(sft_loss(logits, batch.tokens(5), mask), logits)
    assert (gradient[~mask] == 0).all()
