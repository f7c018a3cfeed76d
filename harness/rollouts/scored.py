"""Logprobs of responses that another program sampled, by a scoring pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from harness.hardware import Hardware, batches
from harness.models.cast_once import cast_once

if TYPE_CHECKING:
    import torch

LOGITS_AT_ONCE = 2**28
"""Numbers of a scoring pass's logits: 1 GiB in fp32."""
ROWS_AT_ONCE = 256
"""Rows of one pass at most: as many as are sampled at a time would hold more memory, each with all of its tokens."""


def response_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    temperature: float,
    width: int,
    batch_size: int,
    pad_id: int,
    hardware: Hardware | None,
) -> torch.Tensor:
    """(N, width) float32, nats; 0 after a response's end.

    Args:
        model: whose logprobs.
        prompts, responses: N of each.
        temperature: of the softmax; 0 (greedy) counts as 1.
        width: at least the longest response.
        batch_size: rows at a time at most.
        pad_id: fills up shorter rows.
        hardware: where and in which precision; None: fp32.
    """
    import torch

    from harness.models.forward import make_batch, response_logits
    from harness.training.token_logprobs import sequence_logprobs

    logprobs = torch.zeros(len(prompts), width)
    if not prompts:
        return logprobs
    at_once = min(batch_size, ROWS_AT_ONCE, max(LOGITS_AT_ONCE // (width * int(model.config.vocab_size)), 1))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))

    def read(rows: Sequence[int]) -> None:
        some = [prompts[row] for row in rows], [responses[row] for row in rows]
        batch = make_batch(*some, pad_id, device=model.device)
        with torch.inference_mode(), nullcontext() if hardware is None else hardware.autocast():
            found = sequence_logprobs(response_logits(model, batch), batch.response, temperature or 1.0)
        found = found.masked_fill(~batch.response_mask, 0.0).cpu()
        logprobs[list(rows), : found.shape[1]] = found

    with cast_once(model, "fp32" if hardware is None else hardware.precision):
        if hardware is None:
            for rows in batches(order, at_once, pieces=1):
                read(rows)
        else:
            hardware.share_out(read, batches(order, at_once, pieces=hardware.pieces))
    return logprobs
