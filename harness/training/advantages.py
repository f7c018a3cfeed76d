"""From rewards and values to advantages, returns, and how well the values foretold them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.training.losses import masked_mean
from harness.training.masks import kept


class Advantages(NamedTuple):
    """What the policy (advantages) and the value function (returns) learn from; (B, R) each, zero outside the mask."""

    advantages: Tensor
    returns: Tensor


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimates and the returns they imply.

    Args:
        rewards: (B, R) float, one reward per response token.
        values: (B, R) float, V(s_t) before the token was chosen.
        mask: (B, R) bool, True on response tokens, EOS included; one unbroken run of True per row.
        gamma: discount per token.
        lam: 0 trusts the values (one-step TD), 1 trusts the rewards (Monte Carlo).
    Returns: advantages and returns, (B, R), zero outside the mask, not whitened; they carry no gradient.
    Source: Schulman et al. 2015 (arXiv 1506.02438), eq. 16. Differs: the value after the last token is 0 (the episode
        ends).

    >>> ones = torch.ones(1, 2)
    >>> gae(ones, ones, ones.bool(), gamma=1.0, lam=0.5)  # delta = (1 + 1 - 1, 1 + 0 - 1)
    Advantages(advantages=tensor([[1., 0.]]), returns=tensor([[2., 1.]]))
    """
    rewards, values = kept(rewards, mask), kept(values, mask)  # so the value after the last token is 0
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = (deltas[:, t] + gamma * lam * running).masked_fill(~mask[:, t], 0.0)
        advantages[:, t] = running
    return Advantages(advantages=advantages, returns=advantages + values)


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    centred = values - masked_mean(values, mask)
    # Again: the first mean is rounded, and whitening equal values would divide what it left over by almost nothing.
    return (centred - masked_mean(centred, mask)).masked_fill(~mask, 0.0)


@torch.no_grad()
def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Values scaled to variance 1 (and, by default, shifted to mean 0) under the mask; masked entries are 0.

    Args:
        values: (B, R) float.
        mask: (B, R) bool, True = counts.
        shift_mean: False keeps the mean where it was, as is usual for rewards.
    Returns: (B, R) float without gradient; where all values are equal, 0 (or their mean, if it is kept).
    Source: Ziegler et al. 2019 (arXiv 1909.08593), their code: variance over N, not N - 1, and 1e-8 added to it.

    >>> whiten(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([[True, True, False]]))
    tensor([[-1.,  1.,  0.]])
    """
    values = kept(values, mask)
    centred = _centred(values, mask)
    whitened = centred * torch.rsqrt(masked_mean(centred.square(), mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + masked_mean(values, mask)
    return whitened.masked_fill(~mask, 0.0)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) under the mask: 1 = foretold exactly, 0 = no better than a constant, below 0 = worse.

    Args:
        values: (B, R) float, V before the update.
        returns: (B, R) float.
        mask: (B, R) bool, True = counts.
    Returns: a scalar; NaN where the returns do not vary, since nothing is there to explain.
    """
    values, returns = kept(values, mask), kept(returns, mask)
    total = masked_mean(_centred(returns, mask).square(), mask)
    residual = masked_mean(_centred(returns - values, mask).square(), mask)
    rounding = (torch.finfo(returns.dtype).eps * returns.abs().amax()).square()
    return torch.where(total > rounding, 1.0 - residual / total, torch.nan)
