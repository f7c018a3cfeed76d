"""Forward passes over (prompt, response) batches: prompts left-padded, responses right-padded, positions from the mask.

So a response starts in the same column in every row, and the logits that choose its tokens are the last R + 1 but one:
no architecture needs a special case, and no logits are computed for prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.training.masks import left_pad, position_ids, right_pad

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """Token ids and masks of B prompts with responses.

    Args:
        ids: (B, P + R) long.
        mask: (B, P + R) bool, True on real tokens.
        response_mask: (B, R) bool, True on tokens that the policy chose, EOS included.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    response_mask: torch.Tensor

    @property
    def response(self) -> torch.Tensor:
        return self.ids[:, -self.response_mask.shape[1] :]

    def rows(self, index: torch.Tensor) -> Batch:
        return Batch(self.ids[index], self.mask[index], self.response_mask[index])


def make_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    *,
    device: Any = "cpu",
    width: int | None = None,
) -> Batch:
    """Pad B prompts on the left and B responses on the right; ``width`` fixes R where shapes must not vary."""
    import torch

    prompt_ids, prompt_mask = left_pad(prompts, pad_id)
    response_ids, response_mask = right_pad(responses, pad_id)
    if width is not None and response_ids.shape[1] < width:
        missing = width - response_ids.shape[1]
        response_ids = torch.nn.functional.pad(response_ids, (0, missing), value=pad_id)
        response_mask = torch.nn.functional.pad(response_mask, (0, missing), value=False)
    ids = torch.cat([prompt_ids, response_ids], dim=1).to(device)
    mask = torch.cat([prompt_mask, response_mask], dim=1).to(device)
    return Batch(ids, mask, response_mask.to(device))


def response_logits(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, V) float32: the logits from which each response token is chosen."""
    kept = batch.response_mask.shape[1] + 1
    out = model(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        position_ids=position_ids(batch.mask),
        logits_to_keep=kept,
        use_cache=False,
    )
    logits: torch.Tensor = out.logits[:, :-1].float()
    return logits


def sequence_scores(model: Any, batch: Batch) -> torch.Tensor:
    """(B,) float32: the classifier's score at each row's last real token, its recorded shift subtracted.

    A classifier of transformers looks for the last token that is no pad by its id; here the mask decides, so that a row
    whose last token is a pad that the policy chose is read there too.
    """
    import torch

    from harness.models.loading import score_head

    columns = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    last = (columns * batch.mask).argmax(-1)  # 0 where nothing is real
    pooled = _hidden(model, batch)[torch.arange(len(last), device=last.device), last]
    scores: torch.Tensor = score_head(model)(pooled).squeeze(-1).float()
    return scores - float(getattr(model.config, "reward_shift", 0.0))


def _hidden(model: Any, batch: Batch) -> torch.Tensor:
    """(B, P + R, h): the trunk's last hidden states, from which every head reads."""
    trunk = getattr(model, model.base_model_prefix)
    hidden: torch.Tensor = trunk(
        input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=position_ids(batch.mask), use_cache=False
    )[0]
    return hidden


def token_values(model: Any, batch: Batch, head: Any = None) -> torch.Tensor:
    """(B, R) float32: V(s_t), read where each response token is about to be chosen.

    Args:
        model: a sequence classifier (``head`` None: its own head is used), or any model with a trunk.
        batch: prompts and responses.
        head: a linear layer from hidden states to one number, on ``model``'s trunk.
    """
    from harness.models.loading import score_head

    size = batch.response_mask.shape[1]
    before = _hidden(model, batch)[:, -size - 1 : -1]
    values: torch.Tensor = (head if head is not None else score_head(model))(before).squeeze(-1).float()
    return values
