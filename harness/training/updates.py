"""One optimiser's updates: micro-batch accumulation, gradient clipping, the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware, batches
from harness.models.shape import features
from harness.training.schedule import factor, is_hidden_matrix, optimizer, warmup_updates

if TYPE_CHECKING:
    import torch


Result = TypeVar("Result")

GRAPH_NUMBERS = 2**20
"""Hidden numbers (tokens times layers times width) whose graph any model on a CPU may hold at a time: 100 MB of a
GPT-2."""
PARAMETERS_PER_GRAPH_NUMBER = 6
"""Where more weights are held, more of those: each pass adds to all gradients, which takes as long as the products of
some 30 tokens."""

WORTH_A_PASS = {"fp32": 2**17, "bf16": 2**18}
"""Hidden numbers from which on half of a batch is worth a pass of its own: each costs some 5 ms of calls, whatever it
computes, on one core of a processor that computes so many in 8 to 10 ms, both ways (docs/performance.md)."""


class Updates:
    """The optimisers of one model, their schedule and the number of updates made.

    Args:
        modules: what to train: a model, or a model and a head of its own.
        config: kind of optimiser, learning rate, decay, schedule, clipping.
        total: updates that the schedule spans.
        lr: a peak other than ``config.lr``; None takes that.
        hardware: of ``Muon``; None: fp32.
        alone: nothing else is done beside the updates.
    """

    def __init__(
        self,
        *modules: Any,
        config: OptimizerConfig,
        total: int,
        lr: float | None = None,
        hardware: Hardware | None = None,
        alone: bool = True,
    ) -> None:
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

            self.optimizers.append(Muon(matrices, hardware=hardware, alone=alone, **settings))
        if rest or not matrices:
            self.optimizers.append(optimizer(rest, eps=config.eps, **settings))

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        if self.total < 1:
            return self.peak
        warmup = warmup_updates(self.config.warmup, self.total)
        return self.peak * factor(self.config.schedule, self.done, self.total, warmup)

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


def graph_tokens(features: int, parameters: int) -> int:
    """The tokens whose graph a model on a CPU holds at a time in training, where the user says nothing else.

    >>> graph_tokens(2 * 128, 570_000), graph_tokens(6 * 384, 13_800_000), graph_tokens(24 * 1024, 405_000_000)
    (4096, 998, 2746)

    Args:
        features: of the model, for each token.
        parameters: of the model, and of those that are held with it.
    """
    return max(GRAPH_NUMBERS, parameters // PARAMETERS_PER_GRAPH_NUMBER) // features


def rows_per_pass(
    tokens: int, *, of: int, model: Any, hardware: Hardware, at_once: int = 1, beside: Sequence[Any] = ()
) -> int:
    """How many rows a forward pass has in training, where the user says nothing else: all, or on a CPU fewer.

    What a pass keeps for the gradient grows with its tokens, and beyond ``graph_tokens`` it is no faster for them. All
    passes have about as many rows, and as many of them as are made at the same time have something to do.

    Args:
        tokens: of the longest row.
        of: rows in all.
        model: what learns.
        hardware: where.
        at_once: passes at the same time, which share what a model holds at a time.
        beside: models that are held with it.
    """
    rounds = 1
    if hardware.device == "cpu":
        held = {id(parameter): parameter.numel() for each in (model, *beside) for parameter in each.parameters()}
        most = graph_tokens(features(model.config), sum(held.values()))
        rounds = math.ceil(of / (max(most // (max(tokens, 1) * at_once), 1) * at_once))
    return max(math.ceil(of / (max(rounds, 1) * at_once)), 1)


def accumulate(
    rows: Sequence[int],
    size: int | None,
    learn: Callable[[Sequence[int]], Result],
    *,
    model: Any,
    hardware: Hardware,
    tokens: int = 0,
    group: int = 1,
) -> list[Result]:
    """What ``learn`` returns for each piece of a batch, whose gradients it adds to the model's.

    A batch that is not cut into micro-batches goes in pieces of ``rows_per_pass``, two at the same time where
    ``hardware`` has use for that and they are ``WORTH_A_PASS``. A gradient is then a sum of two, which is the same in
    either order, and with more pieces a sum of such sums, in their order. Dropout, which draws from one stream of
    random numbers, keeps the batch whole.

    Args:
        rows: of the batch.
        size: rows of a micro-batch; None: as above.
        learn: a forward and a backward pass over some of the rows.
        model: what learns.
        hardware: where.
        tokens: of the longest group; 0: a piece may have as many as there are.
        group: every so many consecutive rows stay together.
    """
    if size is not None or _drops(model):
        return [learn(piece) for piece in micro_batches(rows, size)]
    pieces = _dealt(rows, model, hardware, tokens, group)
    found: dict[int, Result] = {}

    def learn_piece(piece: int) -> None:
        found[piece] = learn(pieces[piece])

    rounds = batches(range(len(pieces)), hardware.pieces, pieces=1)
    if hardware.pieces == 1 or len(rounds) == 1:
        for each in rounds:
            hardware.share_out(learn_piece, each)
    else:
        sums = _Sums(model)
        for each in rounds:
            hardware.share_out(learn_piece, each)
            sums.take()
        sums.give_back()
    return [found[piece] for piece in range(len(pieces))]


def _dealt(rows: Sequence[int], model: Any, hardware: Hardware, tokens: int, group: int) -> list[list[int]]:
    """The pieces of a batch, as many as ``hardware`` takes at the same time or a multiple of that; one if it is small.

    Their sizes differ by one group at most. Neighbours, which are of similar length, go to different pieces.
    """
    groups = [rows[start : start + group] for start in range(0, len(rows), group)]
    count = min(hardware.pieces, len(groups))
    if tokens and tokens * len(groups) * features(model.config) < count * WORTH_A_PASS[hardware.precision]:
        count = 1
    if tokens:
        most = rows_per_pass(tokens, of=len(groups), model=model, hardware=hardware, at_once=count)
        count = min(count * math.ceil(len(groups) / (most * count)), len(groups))
    return [[row for each in groups[piece::count] for row in each] for piece in range(count)]


class _Sums:
    """The gradients of rounds of pieces, kept apart from those of the next and added up in the order of the rounds."""

    def __init__(self, model: Any) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._sums: dict[Any, torch.Tensor] = {}

    def take(self) -> None:
        """Add the model's gradients to the sums, and clear them."""
        for parameter in self._parameters:
            if parameter.grad is None:
                continue
            if parameter in self._sums:
                self._sums[parameter].add_(parameter.grad)
            else:
                self._sums[parameter] = parameter.grad
            parameter.grad = None

    def give_back(self) -> None:
        """Make the sums the model's gradients."""
        for parameter, total in self._sums.items():
            parameter.grad = total


def _drops(model: Any) -> bool:
    import torch

    layers = (layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout))
    return any(layer.training and layer.p > 0 for layer in layers)


def length_batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One epoch of shuffled batches whose rows are of similar length, which saves padding.

    Rows are shuffled, sorted by length within windows of 16 batches, cut into batches, and the batches shuffled. Every
    row comes once; the last batch may be smaller.

    Args:
        lengths: N, of the rows, in tokens.
        batch_size: rows of a batch.
        generator: orders rows and batches.
    Returns: row numbers.
    """
    import torch

    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = 16 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
