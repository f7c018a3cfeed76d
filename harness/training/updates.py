"""One optimiser's updates: micro-batch accumulation, gradient clipping, the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.training.schedule import cosine, is_hidden_matrix, linear_to_zero, optimizer

if TYPE_CHECKING:
    import torch


Result = TypeVar("Result")


class Updates:
    """The optimisers of one model, their schedule and the number of updates made.

    Args:
        modules: what to train: a model, or a model and a head of its own.
        config: kind of optimiser, learning rate, decay, schedule, clipping.
        total: updates that the schedule spans.
        lr: a peak other than ``config.lr``; None takes that.
    """

    def __init__(self, *modules: Any, config: OptimizerConfig, total: int, lr: float | None = None) -> None:
        named = [pair for module in modules for pair in module.named_parameters() if pair[1].requires_grad]
        self.parameters = [parameter for _, parameter in named]
        self.config, self.total, self.peak, self.done = config, total, config.lr if lr is None else lr, 0
        settings: dict[str, Any] = {"lr": self.peak, "weight_decay": config.weight_decay}
        matrices = [p for name, p in named if is_hidden_matrix(name, p)] if config.kind == "muon" else []
        chosen = {id(matrix) for matrix in matrices}
        rest = [parameter for parameter in self.parameters if id(parameter) not in chosen]
        self.optimizers: list[Any] = []
        if matrices:
            from harness.training.muon import Muon

            self.optimizers.append(Muon(matrices, **settings))
        if rest or not matrices:
            self.optimizers.append(optimizer(rest, eps=config.eps, **settings))

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        if self.config.schedule == "constant" or self.total < 1:
            return self.peak
        warmup = min(int(self.config.warmup * self.total), self.total - 1)
        factor = cosine if self.config.schedule == "cosine" else linear_to_zero
        return self.peak * factor(self.done, self.total, warmup)

    def step(self) -> float:
        """Apply the accumulated gradients and clear them; returns their norm before clipping.

        Raises:
            RunFailed: a gradient is not finite.
        """
        import torch

        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise RunFailed(f"gradient norm is {norm} at update {self.done}: lower the learning rate ({self.peak})")
        for each in self.optimizers:
            for group in each.param_groups:
                group["lr"] = self.lr
            each.step()
            each.zero_grad(set_to_none=True)
        self.done += 1
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [each.state_dict() for each in self.optimizers], "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for each, saved in zip(self.optimizers, state["optimizers"], strict=True):
            each.load_state_dict(saved)
        self.done = int(state["done"])


def micro_batches(rows: Sequence[int], size: int | None) -> Iterator[Sequence[int]]:
    """``rows`` in pieces of at most ``size``; None: in one."""
    step = size or max(len(rows), 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def accumulate(
    rows: Sequence[int],
    size: int | None,
    learn: Callable[[Sequence[int]], Result],
    *,
    model: Any,
    hardware: Hardware,
    group: int = 1,
) -> list[Result]:
    """What ``learn`` returns for each piece of a batch, whose gradients it adds to the model's.

    A batch that is not cut into micro-batches goes in two halves at the same time where ``hardware`` has use for that.
    A gradient is then a sum of two, which is the same in either order: with more pieces it would not be. Dropout, which
    draws from one stream of random numbers, keeps the batch whole.

    Args:
        rows: of the batch.
        size: rows of a micro-batch; None: all.
        learn: a forward and a backward pass over some of the rows.
        model: what learns.
        hardware: where.
        group: every so many consecutive rows stay together.
    """
    count = min(hardware.pieces, len(rows) // group)
    if size is not None or count < 2 or _drops(model):
        return [learn(piece) for piece in micro_batches(rows, size)]
    groups = [rows[start : start + group] for start in range(0, len(rows), group)]
    halves = [[row for each in groups[half::count] for row in each] for half in range(count)]
    found: dict[int, Result] = {}

    def learn_half(half: int) -> None:
        found[half] = learn(halves[half])

    hardware.share_out(learn_half, range(count))
    return [found[half] for half in range(count)]


def _drops(model: Any) -> bool:
    import torch

    layers = (layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout))
    return any(layer.training and layer.p > 0 for layer in layers)


def length_batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One epoch of shuffled batches whose rows are of similar length, which saves padding.

    Rows are shuffled, sorted by length within windows of 16 batches, cut into batches, and the batches shuffled. Every
    row comes once; the last batch may be smaller.
    """
    import torch

    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = 16 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
