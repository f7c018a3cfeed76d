"""What a rollout leaves for the update: its tokens, and for each of them what PPO's losses need."""

from __future__ import annotations

from typing import NamedTuple

import torch

from harness.models.forward import Batch


class Experience(NamedTuple):
    """One rollout and what the update needs of it.

    Args:
        batch: B prompts, each with the response that was sampled, of R tokens at most.
        logprobs: (B, R) float, nats, of the policy that sampled, at the sampling temperature.
        values: (B, R) float, V before each token, of the value model before the update.
        advantages: (B, R) float, whitened over the whole rollout.
        returns: (B, R) float, what the value model learns to foretell.
        metrics: what is logged of the rollout.
    """

    batch: Batch
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    metrics: dict[str, float]

    def rows(self, rows: torch.Tensor) -> Experience:
        """Some of its rows, without columns that are padding in all of them."""
        batch = trim(self.batch.rows(rows))
        size = batch.response_mask.shape[1]
        logprobs, values, advantages, returns = (tensor[rows, :size] for tensor in self[1:5])
        return Experience(batch, logprobs, values, advantages, returns, self.metrics)


def trim(batch: Batch) -> Batch:
    """The batch without columns that are padding in every row: the same numbers at less work."""
    size = batch.response_mask.shape[1]
    used = max(int(batch.response_mask.any(0).sum()), 1)
    prompt_mask = batch.mask[:, :-size]
    start = int((~prompt_mask.any(0)).sum())
    end = batch.ids.shape[1] - (size - used)
    return Batch(batch.ids[:, start:end], batch.mask[:, start:end], batch.response_mask[:, :used])
