"""Two responses to one prompt in one forward pass: the prompt, most of the tokens, is computed once.

A row holds prompt, chosen and rejected response side by side. The attention mask hides the chosen response from the
rejected one, and the rejected one's positions start where the prompt ends, so both scores are those of separate passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.models.loading import score_head
from harness.training.masks import last_index, left_pad, right_pad

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
        model: a sequence classifier over a causal trunk.
        prompts: B lists of token ids.
        chosen: B responses, none of them empty.
        rejected: likewise.
        pad_id: fills up.
    """
    import torch

    device = model.device
    parts = [
        part
        for padded in (left_pad(prompts, pad_id), right_pad(chosen, pad_id), right_pad(rejected, pad_id))
        for part in padded
    ]
    ids = torch.cat(parts[::2], dim=1).to(device)
    masks = [mask.to(device) for mask in parts[1::2]]
    hidden = getattr(model, model.base_model_prefix)(
        input_ids=ids, attention_mask=_attention(masks, model.dtype), position_ids=_positions(masks), use_cache=False
    )[0]
    scores = score_head(model)(hidden).squeeze(-1).float()
    shift = float(getattr(model.config, "reward_shift", 0.0))
    start = masks[0].shape[1]
    columns = (start + last_index(masks[1]), start + masks[1].shape[1] + last_index(masks[2]))
    first, second = (scores.gather(1, column[:, None]).squeeze(1) - shift for column in columns)
    return first, second


def _positions(masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, T) long: both responses go on where the prompt ends."""
    import torch

    prompt = masks[0].long().cumsum(-1)
    rest = [prompt[:, -1:] + mask.long().cumsum(-1) for mask in masks[1:]]
    return (torch.cat([prompt, *rest], dim=1) - 1).clamp(min=0)


def _attention(masks: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, T, T) additive mask: causal, pads hidden, the chosen response hidden from the rejected one.

    Every token sees itself, pads included: a row without anything to attend to would be NaN.
    """
    import torch

    real = torch.cat(list(masks), dim=1)
    size, prompt, chosen = real.shape[1], masks[0].shape[1], masks[1].shape[1]
    visible = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    visible[prompt + chosen :, prompt : prompt + chosen] = False
    allowed = (visible[None] & real[:, None, :]) | torch.eye(size, dtype=torch.bool, device=real.device)[None]
    additive = torch.zeros(allowed.shape, dtype=dtype, device=real.device)
    return additive.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
