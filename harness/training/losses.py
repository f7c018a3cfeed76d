"""The losses of supervised fine-tuning, reward modelling and PPO: tensors in, tensors out.

Logits here are always *aligned*: ``logits[:, t]`` is the distribution that ``tokens[:, t]`` was drawn from, so the
caller has already shifted by one. A mask is True on the tokens that count; what lies outside it moves neither a loss
nor a gradient, whatever it holds. Half-precision inputs are computed in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.training.masks import full_precision, kept
from harness.training.token_logprobs import sequence_logprobs


class PolicyLoss(NamedTuple):
    """The clipped policy loss and, detached, what is logged about the step."""

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor


class ValueLoss(NamedTuple):
    """The clipped value loss and, detached, the share of tokens on which the clip decided."""

    loss: Tensor
    clip_fraction: Tensor


def masked_mean(values: Tensor, mask: Tensor, *, denominator: Tensor | int | None = None) -> Tensor:
    """Mean over the True entries of a mask; 0, with zero gradient, where there are none.

    Args:
        values: any shape, float.
        mask: same shape, bool, True = counts.
        denominator: what the sum is divided by; None: the number of True entries. Under gradient accumulation pass the
            count of the whole minibatch, so that the micro-batch terms add up to the minibatch's mean.

    >>> masked_mean(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False])).item()
    2.0
    """
    count = mask.sum().clamp(min=1) if denominator is None else denominator
    return kept(values, mask).sum() / count


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    denominator: Tensor | int | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate, as a loss: mean over the mask of max(-A rho, -A clip(rho, 1 - eps, 1 + eps)).

    Args:
        logprobs: (B, R) float, of the policy being trained; carries the gradient.
        old_logprobs: (B, R) float, of the policy that sampled, at the same temperature.
        advantages: (B, R) float.
        mask: (B, R) bool, True on response tokens, EOS included.
        clip_range: eps.
        denominator: see `masked_mean`; it divides the logged means too, so that these add up likewise.
    Returns: the loss; ``clip_fraction``, the share of tokens whose clipped term is the larger one, so that their
        gradient is 0 (others count every ratio outside the range); ``approx_kl``, the mean of (rho - 1) - log rho, an
        unbiased and never negative estimate of KL(old || new) per token; mean and maximum of rho.
    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7.
    """
    log_ratio = kept(logprobs, mask) - kept(old_logprobs, mask).detach()
    ratio = log_ratio.exp()
    advantages = kept(advantages, mask).detach()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask, denominator=denominator)
    with torch.no_grad():
        return PolicyLoss(
            loss=loss,
            clip_fraction=masked_mean((clipped > unclipped).to(unclipped.dtype), mask, denominator=denominator),
            approx_kl=masked_mean(torch.expm1(log_ratio) - log_ratio, mask, denominator=denominator),
            ratio_mean=masked_mean(ratio, mask, denominator=denominator),
            ratio_max=ratio.masked_fill(~mask, 0.0).max(),
        )


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    denominator: Tensor | int | None = None,
) -> ValueLoss:
    """The clipped value loss: half the mean over the mask of max((V - R)^2, (clip(V, V_old +- eps) - R)^2).

    Args:
        values: (B, R) float, of the value function being trained; carries the gradient.
        old_values: (B, R) float, those that the advantages were computed with.
        returns: (B, R) float.
        mask: (B, R) bool, True on response tokens, EOS included.
        clip_range: eps, in the unit of the reward; infinity switches the clip off.
        denominator: see `masked_mean`.
    Returns: the loss, and the share of tokens on which the clipped term is the larger one.
    Source: Ziegler et al. 2019 (arXiv 1909.08593), their code; described in arXiv 2403.17031, detail on value clipping.
    """
    values, old_values, returns = kept(values, mask), kept(old_values, mask).detach(), kept(returns, mask).detach()
    unclipped = (values - returns).square()
    clipped = (values.clamp(old_values - clip_range, old_values + clip_range) - returns).square()
    loss = 0.5 * masked_mean(torch.maximum(unclipped, clipped), mask, denominator=denominator)
    clip_fraction = masked_mean((clipped > unclipped).to(unclipped.dtype), mask, denominator=denominator)
    return ValueLoss(loss=loss, clip_fraction=clip_fraction)


def preference_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, centering: float = 0.0
) -> Tensor:
    """Bradley-Terry: mean of -log sigma(r_chosen - r_rejected - margin) + c (r_chosen + r_rejected)^2.

    Args:
        chosen: (N,) float, scores of the preferred responses.
        rejected: (N,) float, scores of the others, in the same order.
        margin: by how much the chosen one should win; a number, or (N,) one per pair.
        centering: c; the preference says nothing about the scores' level, this term pulls it to 0.
    Source: Stiennon et al. 2020 (arXiv 2009.01325), sec. 3.4; margin: Touvron et al. 2023 (arXiv 2307.09288), eq. 2;
        centring: Eisenstein et al. 2023 (arXiv 2312.09244).

    >>> round(preference_loss(torch.zeros(2), torch.zeros(2)).item(), 4)  # log 2
    0.6931
    """
    chosen, rejected = full_precision(chosen), full_precision(rejected)
    loss = -F.logsigmoid(chosen - rejected - margin)
    if centering:
        loss = loss + centering * (chosen + rejected).square()
    return loss.mean()


def sft_loss(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, denominator: Tensor | int | None = None
) -> Tensor:
    """Cross entropy of the labels, mean over the tokens of the mask (not over sequences); 0 where the mask is empty.

    Args:
        logits: (B, T, V) float, aligned: ``logits[:, t]`` predicts ``labels[:, t]``; without a mask (N, V).
        labels: (B, T) long; outside the mask they may hold anything. Without a mask (N,).
        mask: (B, T) bool, True on the tokens to learn: the response, or the prompt as well. None: all of them.
        denominator: see `masked_mean`.
    """
    if mask is not None:
        # Selected first: a softmax over prompts and pads would be most of the work and none of the loss.
        logits, labels = logits[mask], labels[mask]
    count = max(len(labels), 1) if denominator is None else denominator
    return -sequence_logprobs(logits, labels).sum() / count
