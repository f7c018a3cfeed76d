"""Scores of two responses to one prompt, whose keys and values, most of the work, are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.models.forward import make_batch, sequence_scores

if TYPE_CHECKING:
    import torch


def pair_scores(
    model: Any,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    pad_id: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) scores of the chosen and of the rejected responses, less the recorded shift.

    Args:
        model: a sequence classifier.
        prompts: B lists of token ids.
        chosen: B responses.
        rejected: likewise.
        pad_id: fills up.
    """
    both = [response for pair in zip(chosen, rejected, strict=True) for response in pair]
    twice = [prompt for prompt in prompts for _ in range(2)]
    scores = sequence_scores(model, make_batch(twice, both, pad_id, device=model.device, shared=2))
    return scores[::2], scores[1::2]
