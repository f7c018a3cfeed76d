"""Log probabilities of chosen tokens, and entropies, from logits that are larger than all else: a piece at a time.

What torch's own functions keep for the backward pass, and make on the way, is as large as the logits, several times
over. A piece of a quarter of a million numbers stays in a processor's cache; of all pieces together nothing that large
is made but the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.training.masks import full_precision

CPU_PIECE, GPU_PIECE = 2**18, 2**24
"""Logits at a time, but one row at least; a GPU's kernels are long in starting, and it has no cache to stay in."""


def sequence_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """The logprob of each token under softmax(logits / temperature), in nats.

    Args:
        logits: (…, V) float, aligned with ``tokens``; -inf forbids a token.
        tokens: (…) long.
        temperature: that of sampling; the policy, the old policy and the reference all use the same one.
    Returns: (…) in fp32, or in double precision where the logits are; carries the gradient.
    """
    rows = logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1)
    logprobs: Tensor = _Chosen.apply(*rows, temperature, False)[0]  # type: ignore[no-untyped-call]
    return logprobs.view(tokens.shape)


def logprobs_and_entropies(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """As ``sequence_logprobs``, and each distribution's entropy in nats, through which gradients flow as well.

    Args: as for ``sequence_logprobs``.
    Returns: logprobs and entropies, each of the shape of ``tokens``.
    """
    rows = logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1)
    logprobs, entropies = _Chosen.apply(*rows, temperature, True)  # type: ignore[no-untyped-call]
    return logprobs.view(tokens.shape), entropies.view(tokens.shape)


class _Chosen(torch.autograd.Function):
    """Of (M, V) logits and (M,) tokens: (M,) logprobs and, where asked for, (M,) entropies.

    With z = logits / T, p = softmax(z), H = −Σ p log p: ∂log p_a/∂z = 1_a − p and ∂H/∂z = −p (log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, entropies: bool
    ) -> tuple[Tensor, Tensor | None]:
        kind = torch.promote_types(logits.dtype, torch.float32)
        logprobs = logits.new_empty(tokens.shape, dtype=kind)
        found = torch.empty_like(logprobs) if entropies else None
        for piece in _pieces(logits):
            log_p = torch.log_softmax(_scaled(logits[piece], temperature), -1)
            logprobs[piece] = log_p.gather(-1, tokens[piece].unsqueeze(-1)).squeeze(-1)
            if found is not None:
                found[piece] = -log_p.exp().mul_(_finite(log_p)).sum(-1)
        ctx.save_for_backward(logits, tokens)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, found

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, for_logprobs: Tensor | None, for_entropies: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        logits, tokens = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for piece in _pieces(logits):
            scaled = _scaled(logits[piece], ctx.temperature)
            found = torch.softmax(scaled, -1)
            more = None if for_entropies is None else _through_entropy(found, scaled, for_entropies[piece])
            weight = torch.zeros_like(found[..., 0]) if for_logprobs is None else for_logprobs[piece]
            weight = (weight / ctx.temperature).unsqueeze(-1)
            found.mul_(-weight).scatter_add_(-1, tokens[piece].unsqueeze(-1), weight)
            gradient[piece] = found if more is None else found.add_(more, alpha=1 / ctx.temperature)
        return gradient, None, None, None


def _through_entropy(p: Tensor, scaled: Tensor, weight: Tensor) -> Tensor:
    log_p = _finite(torch.log_softmax(scaled, -1))
    negative = (p * log_p).sum(-1, keepdim=True)
    return log_p.sub_(negative).mul_(p).mul_(-weight.unsqueeze(-1))


def _finite(log_p: Tensor) -> Tensor:
    # p log p -> 0 as p -> 0, but 0 · -inf is NaN.
    return log_p.clamp_(min=torch.finfo(log_p.dtype).min)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    whole = full_precision(logits)  # before the division: bf16 would round the quotient
    return whole if temperature == 1.0 else whole / temperature


def _pieces(logits: Tensor) -> Iterator[slice]:
    """Runs of rows."""
    rows = max((CPU_PIECE if logits.device.type == "cpu" else GPU_PIECE) // logits.shape[-1], 1)
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)
