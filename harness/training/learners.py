"""What learns from a rollout, and how the steps of two that learn at the same time are shared out and reported.

The value network shares nothing with the policy, so each is a learner with a loss and an optimiser of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from harness.models.forward import Batch
from harness.training.experience import Experience
from harness.training.schedule import is_hidden_matrix
from harness.training.updates import Updates


class Measured(NamedTuple):
    """A loss to minimise, and what is logged of it."""

    loss: torch.Tensor
    metrics: dict[str, float]


class Learner(NamedTuple):
    """A loss, and the updates that it drives.

    Args:
        loss: (some rows of the experience, what sums over their tokens are divided by) -> their loss.
        updates: the optimiser's.
        model: what learns.
        beside: a model that is held with it.
    """

    loss: Callable[[Experience, torch.Tensor], Measured]
    updates: Updates
    model: Any
    beside: Any


def multiplications(model: Any, batch: Batch) -> int:
    """Of a forward pass, by large: of each token by the layers' matrices, and of a response's by the output layer's."""
    inside: int = sum(weight.numel() for name, weight in model.named_parameters() if is_hidden_matrix(name, weight))
    output = model.get_output_embeddings()
    head: int = 0 if output is None else output.weight.numel()
    return inside * int(batch.mask.sum()) + head * int(batch.response_mask.sum())


def shares(costs: Sequence[int], *, of: int) -> list[int]:
    """How many steps each of several learners makes while the cheapest makes all of them.

    >>> shares([120, 100], of=24), shares([100, 100], of=24)
    ([20, 24], [24, 24])
    """
    known = [max(cost, 1) for cost in costs]
    return [round(of * min(known) / cost) for cost in known]


def combined(rows: Sequence[dict[str, float]], *, share: float = 1.0) -> dict[str, float]:
    """Sums over the rows, each times ``share``; of ``ratio_max`` the largest."""
    return {
        name: max(row[name] for row in rows) if name == "ratio_max" else share * sum(row[name] for row in rows)
        for name in rows[0]
    }


def together(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    """What several learners measured, by name; ``grad_norm`` is the first one's, the policy's."""
    return {name: value for row in reversed(measured) for name, value in row.items()}
