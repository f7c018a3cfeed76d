"""The KL penalty: its estimators, the per-token reward made of it, and the two controllers of its coefficient."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from harness.training.masks import full_precision, kept, last_index


class KL(NamedTuple):
    """Two per-token estimates of KL(policy || reference) from tokens that the policy sampled."""

    k1: Tensor
    k3: Tensor


def kl_estimates(logprobs: Tensor, ref_logprobs: Tensor) -> KL:
    """k1 = log pi - log pi_ref and k3 = exp(-k1) - 1 + k1, per token.

    Both are unbiased as values; k1 may be negative, k3 never is and varies less. In the *reward* only k1 is unbiased
    for the reverse-KL objective: the gradient that a k3 reward gives is another objective's. Sums over a sequence are
    the sequence's KL (`sequence_sum`).

    Args:
        logprobs: (B, R) float, of the policy that sampled.
        ref_logprobs: (B, R) float, of the reference, at the same temperature.
    Returns: k1 and k3, (B, R) float, nats; not masked.
    Source: Schulman 2020, "Approximating KL divergence".

    >>> kl_estimates(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    KL(k1=tensor([[0.]]), k3=tensor([[0.]]))
    """
    k1 = full_precision(logprobs) - full_precision(ref_logprobs)
    return KL(k1=k1, k3=torch.expm1(-k1) + k1)


def sequence_sum(per_token: Tensor, mask: Tensor) -> Tensor:
    """Sum over the tokens of each response.

    Args:
        per_token: (B, R) float.
        mask: (B, R) bool, True on response tokens, EOS included.
    Returns: (B,) float.
    """
    return kept(per_token, mask).sum(-1)


def missing_eos_scores(scores: Tensor, ended: Tensor, *, penalty: float) -> Tensor:
    """Scores, less a penalty where the response never ended.

    Args:
        scores: (B,) float.
        ended: (B,) bool, True where the response ended in EOS.
        penalty: what is taken off, a positive number in points of the score.
    Source: arXiv 2403.17031, "EOS trick". Differs: there such a score is replaced by -1; what is taken off here still
        tells a good unfinished response from a bad one.

    >>> missing_eos_scores(torch.tensor([2.0, 2.0]), torch.tensor([True, False]), penalty=0.5)
    tensor([2.0000, 1.5000])
    """
    return torch.where(ended, scores, scores - penalty)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """-beta KL_t on every response token, plus the sequence's score on the last one.

    Args:
        scores: (B,) float, one per response.
        kl: (B, R) float, per token.
        mask: (B, R) bool, True on response tokens, EOS included.
        kl_coef: beta.
    Returns: (B, R) float, zero outside the mask.
    Raises: ValueError where a row of the mask is empty: its score could be paid on no token.
    Source: Ziegler et al. 2019 (arXiv 1909.08593), eq. 2.

    >>> token_rewards(torch.tensor([1.0]), torch.tensor([[2.0, 4.0]]), torch.tensor([[True, True]]), kl_coef=0.5)
    tensor([[-1., -1.]])
    """
    rewards = -kl_coef * kept(kl, mask)
    return rewards.scatter_add(1, last_index(mask).unsqueeze(1), scores.to(rewards.dtype).unsqueeze(1))


class KLController(Protocol):
    """Sets beta for the next rollout from the KL of the last one."""

    coef: float

    def update(self, kl: float, n: int) -> None:
        """Take note of the mean sequence KL (k1, summed over the sequence) of n episodes."""
        ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


class FixedKL:
    """beta stays what it is."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, n: int) -> None:
        """Nothing to adapt."""

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]


class AdaptiveKL:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon): a proportional controller of log KL.

    Args:
        coef: beta to start from.
        target: the KL to hold, in nats, *summed over the sequence* (others state theirs per token).
        horizon: episodes over which an error of the clipped size moves beta by its full 20 %.
    Source: Ziegler et al. 2019 (arXiv 1909.08593), sec. 2.2.

    >>> controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    >>> controller.update(kl=12.0, n=500)  # error 1, clipped to 0.2; 0.1 * (1 + 0.2 / 2)
    >>> round(controller.coef, 6)
    0.11
    """

    def __init__(self, coef: float, target: float, horizon: float) -> None:
        if target <= 0.0 or horizon <= 0.0:
            raise ValueError(f"target={target} and horizon={horizon} must be positive")
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl: float, n: int) -> None:
        """Move beta by the clipped relative error of ``kl``, mean sequence KL over n episodes."""
        if math.isnan(kl):
            raise ValueError("kl is not a number; the controller cannot follow it")
        if n >= 5.0 * self.horizon:
            raise ValueError(f"n={n} episodes against horizon={self.horizon}: one update could turn beta negative")
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * n / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]
