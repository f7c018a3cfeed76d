"""A PPO minibatch as one would write it first: the reference that the lean update is measured against.

Whole sequences through both models, logits at every position, dropout modules in place (at p = 0), an optimiser step of
AdamW as torch makes it by default. It shares no code with this harness's losses, so equal numbers mean something.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Minibatch(NamedTuple):
    """What a rollout left: token ids (B, P + R), and of the R response tokens, all real, (B, R) each."""

    ids: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PlainPPO:
    """Policy and value network with an optimiser each.

    Args:
        policy: a causal language model.
        value: a sequence classifier with one label.
        lr: of both.
        temperature: that the rollout was sampled at.
        autocast: returns the context to run the models in.
    """

    def __init__(self, policy: Any, value: Any, *, lr: float, temperature: float, autocast: Any) -> None:
        self.policy, self.value, self.temperature, self.autocast = policy.train(), value.train(), temperature, autocast
        self.optimizers = [torch.optim.AdamW(each.parameters(), lr=lr, weight_decay=0.0) for each in (policy, value)]

    def step(self, batch: Minibatch) -> dict[str, float]:
        """One update: Schulman et al. 2017 (arXiv 1707.06347), with the value loss clipped likewise."""
        size = batch.logprobs.shape[1]
        mask = torch.ones_like(batch.ids)
        with self.autocast():
            logits = self.policy(input_ids=batch.ids, attention_mask=mask, use_cache=False).logits
            hidden = self.value.base_model(input_ids=batch.ids, attention_mask=mask, use_cache=False)[0]
            values = self.value.score(hidden).squeeze(-1).float()[:, -size - 1 : -1]
        logprobs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        chosen = logprobs[:, :-1].gather(2, batch.ids[:, 1:, None]).squeeze(2)[:, -size:]
        ratio = (chosen - batch.logprobs).exp()
        clipped = ratio.clamp(0.8, 1.2)
        policy_loss = torch.maximum(-batch.advantages * ratio, -batch.advantages * clipped).mean()
        near = batch.values + (values - batch.values).clamp(-0.2, 0.2)
        value_loss = 0.5 * torch.maximum((values - batch.returns) ** 2, (near - batch.returns) ** 2).mean()
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)[:, -size - 1 : -1].mean()
        (policy_loss + 0.1 * value_loss).backward()  # type: ignore[no-untyped-call]
        norms = [torch.nn.utils.clip_grad_norm_(each.parameters(), 1.0) for each in (self.policy, self.value)]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(entropy),
            "grad_norm": float(norms[0]),
            "value_grad_norm": float(norms[1]),
        }
