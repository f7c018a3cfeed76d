"""Bradley–Terry training of a scorer on preference pairs, its shift, and its report card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.models.heads import head_layers
from harness.models.loading import LanguageModel
from harness.models.pair_forward import pair_scores
from harness.models.scorer import Scorer
from harness.training.updates import Updates, accumulate, length_batches

if TYPE_CHECKING:
    import numpy as np


EQUAL = 1e-5
"""The standard deviation, in units of the mean where that is above 1, up to which scores in fp32 count as equal."""


class TokenPair(NamedTuple):
    """A prompt and two responses to it, the first one preferred, as token ids (EOS included where they ended)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Comparison:
    """How to train on pairs; ``batch_size`` counts pairs, ``margin`` and ``centering`` are of ``preference_loss``."""

    epochs: float
    batch_size: int
    optimizer: OptimizerConfig
    micro_batch_size: int | None = None
    margin: float = 0.0
    centering: float = 0.0

    def steps(self, count: int) -> int:
        """Updates that ``epochs`` passes over ``count`` pairs make."""
        return max(1, round(self.epochs * -(-count // self.batch_size)))


def learn_preferences(
    scorer: LanguageModel,
    pairs: Sequence[TokenPair],
    settings: Comparison,
    *,
    hardware: Hardware,
    seed: int,
    log: Callable[[Mapping[str, Any]], None],
    advance: Callable[..., None],
    log_every: int = 25,
) -> dict[str, float]:
    """Train ``scorer`` in place; returns ``steps`` and the mean ``loss`` and ``accuracy`` (0 to 1) of the last tenth.

    Args:
        scorer: a classifier with one label, and its codec.
        pairs: what to learn from, in the scorer's tokens.
        settings: how long and how fast.
        hardware: where.
        seed: of the order of batches.
        log: takes one row of metrics.
        advance: moves a progress bar by so many steps and shows metrics.
        log_every: updates between rows of metrics.

    Raises:
        RunFailed: a gradient is not finite.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    total = settings.steps(len(pairs))
    updates = Updates(scorer.model, config=settings.optimizer, total=total, hardware=hardware)
    lengths = [len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs]
    batches: list[list[int]] = []
    history: list[tuple[float, float]] = []
    started = time.perf_counter()
    with hardware.piece_by_piece() if settings.micro_batch_size is None else nullcontext():
        for step in range(total):
            if not batches:
                batches = length_batches(lengths, settings.batch_size, generator)
            rows = batches.pop()
            lr = updates.lr
            loss, accuracy = _add_gradients(scorer, [pairs[row] for row in rows], settings, hardware)
            norm = updates.step()
            history.append((loss, accuracy))
            if step % log_every == 0 or step == total - 1:
                speed = (step + 1) * settings.batch_size / (time.perf_counter() - started)
                log(
                    {
                        "step": step,
                        "loss": loss,
                        "accuracy": accuracy,
                        "lr": lr,
                        "grad_norm": norm,
                        "pairs_per_second": speed,
                    }
                )
                advance(0, loss=loss, accuracy=accuracy)
            advance(1)
    tail = history[-max(total // 10, 1) :]
    return {
        "steps": total,
        "loss": sum(loss for loss, _ in tail) / len(tail),
        "accuracy": sum(accuracy for _, accuracy in tail) / len(tail),
    }


def _add_gradients(
    scorer: LanguageModel, pairs: Sequence[TokenPair], settings: Comparison, hardware: Hardware
) -> tuple[float, float]:
    """Add the gradients of one batch of pairs; returns its loss and accuracy."""
    from harness.training.losses import preference_loss

    def learn(rows: Sequence[int]) -> tuple[float, int]:
        piece = [pairs[row] for row in rows]
        with hardware.autocast():
            chosen, rejected = pair_scores(
                scorer.model,
                [pair.prompt for pair in piece],
                [pair.chosen for pair in piece],
                [pair.rejected for pair in piece],
                scorer.codec.pad_id,
            )
        loss = preference_loss(chosen, rejected, margin=settings.margin, centering=settings.centering)
        (loss * (len(piece) / len(pairs))).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()) * len(piece) / len(pairs), int((chosen > rejected).sum())

    every, size = range(len(pairs)), settings.micro_batch_size
    tokens = max(len(pair.prompt) for pair in pairs)
    tokens += 2 * max(max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
    pieces = accumulate(every, size, learn, model=scorer.model, hardware=hardware, tokens=tokens)
    return sum(loss for loss, _ in pieces), sum(right for _, right in pieces) / len(pairs)


def shift_scores(
    scorer: Scorer, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, scale: bool = False
) -> dict[str, float]:
    """Make these responses' scores average 0 (and, with ``scale``, have standard deviation 1).

    The scale is folded into the head's last layer; the shift is kept in ``config.reward_shift``, since most heads have
    no bias: other tools' scores equal ours up to that constant.

    Args:
        scorer: changed in place.
        prompts: N lists of token ids in the vocabulary of ``scorer.reader``.
        responses: N lists of response ids, EOS included where the response ended.
        scale: divide by the scores' standard deviation too, unless it is no more than rounding makes of equal scores.
    Returns: ``shift``, which is subtracted from now on, and ``scale``, what scores were divided by (1 where that was
        not asked for, or where they are equal: then ``unscaled`` is the deviation that was found).

    Raises:
        RunFailed: there are no responses.
    """
    import torch

    if not len(responses):
        raise RunFailed(
            "the reward model's scores cannot be shifted to average 0: there is no reference, and no pair, to score; "
            "give the task's data references, or a reward model with reward_shift in its config.json"
        )
    scorer.model.config.reward_shift = 0.0
    scores = scorer.scores(prompts, responses)
    deviation, found = 1.0, dict[str, float]()
    if scale:
        deviation = float(scores.std())
        if deviation <= EQUAL * max(1.0, abs(float(scores.mean()))):
            found, deviation = {"unscaled": deviation}, 1.0
    if deviation != 1.0:
        with torch.no_grad():
            last = head_layers(scorer.model)[-1]
            for parameter in last.parameters():
                parameter.div_(deviation)
        scores = scores / deviation
    scorer.model.config.reward_shift = float(scores.mean())
    return {"shift": float(scores.mean()), "scale": deviation, **found}


def report_card(
    margins: np.ndarray,
    scores: np.ndarray,
    lengths: np.ndarray,
    *,
    oracle: np.ndarray | None,
    clusters: Sequence[str],
    seed: int,
    resamples: int = 1000,
) -> dict[str, Any]:
    """What must be known of a scorer before anything relies on it.

    Args:
        margins: (N,) score of the chosen response minus that of the rejected one, on held-out pairs.
        scores: (2N,) the scores of all responses in those pairs.
        lengths: (2N,) their lengths in tokens.
        oracle: (N,) 1 where the gold reward agrees with the label, 0 where not, 0.5 at a tie; None without gold.
        clusters: (N,) the prompt's text of each pair; intervals resample prompts.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    import math

    import numpy as np

    from harness.evaluation.shares import share_interval
    from harness.evaluation.statistics import mean_interval
    from harness.training.calibration import (
        confidence,
        expected_calibration_error,
        length_correlation,
        reliability_table,
    )

    generator = np.random.default_rng(seed)
    stated = confidence(margins)
    right = stated.outcomes
    drawing: dict[str, Any] = {"clusters": clusters, "resamples": resamples, "generator": generator}
    accuracy = share_interval(right, **drawing)
    correlation = length_correlation(scores, lengths)
    card: dict[str, Any] = {
        "pairs": len(margins),
        "prompts": len(set(clusters)),
        "accuracy": accuracy._asdict(),
        "margin": float(margins.mean()),
        "ece": float(expected_calibration_error(stated.probabilities, stated.outcomes)),
        "reliability": [row._asdict() for row in reliability_table(stated.probabilities, stated.outcomes)],
        "length_correlation": None if math.isnan(correlation) else correlation,
    }
    if oracle is not None:
        card["oracle_accuracy"] = float(100 * oracle.mean())
        card["oracle_gap"] = mean_interval(100 * (oracle - right), **drawing)._asdict()
    return card
