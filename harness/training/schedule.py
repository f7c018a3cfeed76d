"""The learning rate's course, as factors of its peak, and the optimisers that follow it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn import Parameter

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Where torch (from our lowest version on) has a fused AdamW: one kernel over all parameters."""


def linear_to_zero(step: int, total: int, warmup: int = 0) -> float:
    """Factor of update ``step`` (0 is the first): a rise over ``warmup`` updates, then a line down to 0 at ``total``.

    The rise is (step + 1) / (warmup + 1), so that no update is made with learning rate 0.

    >>> [linear_to_zero(step, total=4) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    progress = _progress(step, total, warmup)
    return _rise(step, warmup) if progress is None else 1.0 - progress


def cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor of update ``step``: the same rise, then half a cosine from 1 down to 0 at ``total``.

    >>> [round(cosine(step, total=4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    progress = _progress(step, total, warmup)
    return _rise(step, warmup) if progress is None else 0.5 * (1.0 + math.cos(math.pi * progress))


def factor(schedule: str, step: int, total: int, warmup: int = 0) -> float:
    """Factor of an update's learning rate, 0 to 1, by the schedule's name in the configuration.

    Args:
        schedule: ``linear``, ``cosine`` or ``constant``, which has no warmup either.
        step: number of the update, from 0.
        total: updates in all.
        warmup: of them, those in which the rate rises.
    """
    if schedule == "constant":
        return 1.0
    return (cosine if schedule == "cosine" else linear_to_zero)(step, total, warmup)


def warmup_updates(share: float, total: int) -> int:
    """How many of ``total`` updates (at least one) are a rise that takes this share of them: never all."""
    return min(int(share * total), total - 1)


def _rise(step: int, warmup: int) -> float:
    return (step + 1) / (warmup + 1)


def _progress(step: int, total: int, warmup: int) -> float | None:
    """Share of the decay that is done, from 0 to 1; None during the rise."""
    if not 0 <= warmup < total:
        raise ValueError(f"warmup={warmup} must be at least 0 and below total={total}")
    if step < 0:
        raise ValueError(f"step={step} must be at least 0")
    return None if step < warmup else min((step - warmup) / (total - warmup), 1.0)


def optimizer(
    parameters: Iterable[Parameter],
    *,
    lr: float,
    weight_decay: float,
    eps: float = 1e-5,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW that decays matrices only, not biases and norms, in its fastest form on the parameters' device.

    Args:
        parameters: those of the model (``model.parameters()``), already on their device; frozen ones are left out.
        lr: the peak; schedules multiply it.
        weight_decay: for parameters of two or more dimensions; biases and norm scales have one and get none.
        eps: 1e-5 as in PPO's reference implementations; torch's own default is 1e-8.
    Source: Loshchilov and Hutter 2017 (arXiv 1711.05101); eps: arXiv 2403.17031.
    """
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter of the model is trainable")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in trained)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=betas,
        eps=eps,
        fused=fused,
        foreach=not fused,
    )


RELATIVE_POSITIONS = "relative_attention_bias"
"""T5's embedding of distances, which stands in a layer."""


def is_hidden_matrix(name: str, parameter: Parameter) -> bool:
    """Whether a parameter is a matrix of a layer: no embedding, no head, no norm, no bias.

    Args:
        name: its dotted name; layers are numbered, and nothing else is.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(4, 4))
    >>> [is_hidden_matrix(name, weight) for name in ("transformer.h.0.mlp.c_fc.weight", "transformer.wte.weight")]
    [True, False]
    """
    parts = name.split(".")
    return parameter.ndim == 2 and any(part.isdigit() for part in parts) and RELATIVE_POSITIONS not in parts
