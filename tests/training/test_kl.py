from __future__ import annotations

import math

import pytest
import torch

from harness.training.kl import (
    AdaptiveKL,
    FixedKL,
    KLController,
    kl_estimates,
    missing_eos_scores,
    sequence_sum,
    token_rewards,
)


def test_estimates_equal_the_naive_loop(naive, batch):
    logprobs, ref_logprobs = batch.normal() - 3.0, batch.normal() - 3.0
    kl = kl_estimates(logprobs, ref_logprobs)
    for b in range(4):
        for t in range(6):
            k1, k3 = naive.kl_estimates(logprobs[b, t].item(), ref_logprobs[b, t].item())
            assert kl.k1[b, t].item() == pytest.approx(k1, rel=1e-9, abs=1e-12)
            assert kl.k3[b, t].item() == pytest.approx(k3, rel=1e-9, abs=1e-12)
    assert (kl.k3 >= 0).all()


def test_both_estimators_average_to_the_exact_kl(batch):
    policy, reference = batch.normal(7).log_softmax(-1), batch.normal(7).log_softmax(-1)
    exact = torch.nn.functional.kl_div(reference, policy, reduction="sum", log_target=True)
    for estimate in kl_estimates(policy, reference):  # the expectation, written out over all seven tokens
        torch.testing.assert_close((policy.exp() * estimate).sum(), exact)


def test_identical_policies_have_no_kl_and_half_precision_is_widened(batch):
    logprobs = batch.normal()
    assert all((x == 0).all() for x in kl_estimates(logprobs, logprobs))
    half = kl_estimates(logprobs.bfloat16(), logprobs.bfloat16())
    assert half.k1.dtype == half.k3.dtype == torch.float32


def test_k3_keeps_its_digits_where_policies_nearly_agree():
    tiny = torch.tensor([[1e-3]])
    # k3 = x^2 / 2 - x^3 / 6 + ...; subtracting 1 from exp would leave three digits of it in fp32
    assert kl_estimates(tiny, torch.zeros(1, 1)).k3.item() == pytest.approx(0.5e-6 - 1e-9 / 6, rel=1e-3)


def test_gradients_of_the_estimators(batch):
    logprobs, ref_logprobs = batch.normal().requires_grad_(), batch.normal()
    assert torch.autograd.gradcheck(lambda x: kl_estimates(x, ref_logprobs), logprobs)
    (gradient,) = torch.autograd.grad(kl_estimates(logprobs, ref_logprobs).k3.sum(), logprobs)
    # k3 grows with the distance: its slope 1 - exp(-k1) has the sign of log pi - log pi_ref
    assert (gradient.sign() == (logprobs - ref_logprobs).sign()).all()


def test_sequence_sum(batch, padded):
    kl = batch.normal()
    expected = [math.fsum(kl[b, :n].tolist()) for b, n in enumerate(batch.lengths)]
    assert sequence_sum(kl, batch.mask).tolist() == pytest.approx(expected)
    torch.testing.assert_close(sequence_sum(*padded(kl, batch.mask)), sequence_sum(kl, batch.mask))
    assert sequence_sum(kl, torch.zeros_like(batch.mask)).tolist() == [0.0] * 4


def test_token_rewards_equal_the_naive_loop(naive, batch, padded):
    scores, kl = batch.normal(4), batch.normal()
    rewards = token_rewards(scores, kl, batch.mask, kl_coef=0.05)
    expected = naive.token_rewards(scores.tolist(), kl.tolist(), batch.mask.tolist(), 0.05)
    torch.testing.assert_close(rewards, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    wide = token_rewards(scores, *padded(kl, batch.mask), kl_coef=0.05)
    torch.testing.assert_close(wide[:, :6], rewards, rtol=0, atol=0)
    assert (wide[:, 6:] == 0).all()


def test_token_rewards_add_up_to_score_minus_beta_kl(batch):
    scores, kl = batch.normal(4), batch.normal()
    rewards = token_rewards(scores, kl, batch.mask, kl_coef=0.3)
    torch.testing.assert_close(rewards.sum(1), scores - 0.3 * sequence_sum(kl, batch.mask))
    # what a token costs falls as its KL grows
    assert (token_rewards(scores, kl + 1.0, batch.mask, kl_coef=0.3)[batch.mask] < rewards[batch.mask]).all()


def test_the_score_is_paid_on_the_last_token_wherever_the_padding_is():
    mask = torch.tensor([[True, True, False], [False, True, True], [True, False, False]])
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3), mask, kl_coef=0.05)
    assert rewards.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]]


def test_a_row_without_tokens_cannot_be_paid():
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        token_rewards(torch.ones(2), torch.zeros(2, 2), mask, kl_coef=0.05)


def test_missing_eos_takes_the_penalty_off():
    scores, ended = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([True, False, False])
    assert missing_eos_scores(scores, ended, penalty=1.5).tolist() == [1.0, -3.5, 1.5]
    assert missing_eos_scores(scores, ended, penalty=0.0).tolist() == scores.tolist()


# ---- controllers


def test_adaptive_controller_by_hand():
    controller = AdaptiveKL(0.2, target=6.0, horizon=1000)
    controller.update(kl=6.6, n=100)  # error 0.1, inside the clip: 0.2 * (1 + 0.1 * 0.1)
    assert controller.coef == pytest.approx(0.202, rel=1e-12)
    controller.update(kl=60.0, n=100)  # error 9, clipped to 0.2: 0.202 * 1.02
    assert controller.coef == pytest.approx(0.20604, rel=1e-12)
    controller.update(kl=0.0, n=500)  # error -1, clipped to -0.2: 0.20604 * 0.9
    assert controller.coef == pytest.approx(0.185436, rel=1e-12)
    controller.update(kl=6.0, n=100)  # on target
    assert controller.coef == pytest.approx(0.185436, rel=1e-12)


def test_adaptive_controller_equals_the_naive_loop_and_resumes(naive):
    kls, counts = [3.0, 5.5, 9.0, -1.0, 7.0, 6.1], [128, 64, 128, 32, 128, 128]
    expected = naive.adaptive_kl(0.05, kls, counts, 6.0, 10_000)
    controller: KLController = AdaptiveKL(0.05, target=6.0, horizon=10_000)
    for i, (kl, n, coef) in enumerate(zip(kls, counts, expected, strict=True)):
        if i == 3:
            state = controller.state_dict()
            controller = AdaptiveKL(99.0, target=6.0, horizon=10_000)
            controller.load_state_dict(state)
        controller.update(kl, n)
        assert controller.coef == pytest.approx(coef, rel=1e-12)


def test_adaptive_controller_holds_a_kl_that_falls_with_beta():
    controller = AdaptiveKL(1.0, target=6.0, horizon=1000)
    for _ in range(400):
        controller.update(kl=0.6 / controller.coef, n=128)  # beta 0.1 gives the target
    assert controller.coef == pytest.approx(0.1, rel=1e-6)


def test_fixed_controller_stays():
    controller: KLController = FixedKL(0.05)
    controller.update(kl=1000.0, n=10_000)
    assert controller.coef == 0.05
    resumed = FixedKL(1.0)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.coef == 0.05


def test_controller_refuses_what_it_cannot_follow():
    controller = AdaptiveKL(0.1, target=6.0, horizon=100)
    with pytest.raises(ValueError, match="not a number"):
        controller.update(math.nan, 10)
    with pytest.raises(ValueError, match="n=500"):
        controller.update(0.0, 500)
    assert controller.coef == 0.1
    with pytest.raises(ValueError, match="must be positive"):
        AdaptiveKL(0.1, target=0.0, horizon=100)
