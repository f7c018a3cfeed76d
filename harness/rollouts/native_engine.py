"""Our own engine of rollouts: one loop over a key–value cache, whose steps can be compiled.

Rows that have ended leave the batch soon, prompts are batched by length, and each row draws from a random stream of its
own, so that a response does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

from harness.hardware import Hardware, batches
from harness.models.cast_once import cast_once
from harness.models.decoding import start_decoding

if TYPE_CHECKING:
    import torch

    from harness.rollouts.sampler import Sampling

LOOKS = 8
"""Every so many compiled steps a GPU is asked which rows have ended: it has to come to the end of its work for that."""

BLOCK = 64
"""Places of the vocabulary that are added up at a time to find a draw's."""


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    stop_ids: Sequence[int],
    *,
    pad_id: int,
    seed: int,
    hardware: Hardware | None,
    shared: int,
    advance: Callable[[int], None] | None,
) -> tuple[list[list[int]], torch.Tensor]:
    """Responses by this process: N lists of tokens, (N, R) logprobs.

    Args: those of ``sampler.sample``; ``stop_ids`` are its ``eos_id``.
    """
    import torch

    size, length = len(prompts), settings.max_new_tokens
    uniforms = torch.rand(size, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    groups = sorted(range(0, size, shared), key=lambda row: len(prompts[row]))
    order = [row for group in groups for row in range(group, group + shared)]
    compiled = settings.engine == "compiled"  # its batches use one memory in turn
    pieces = 1 if hardware is None or compiled else hardware.pieces
    pending = batches(order, settings.batch_size, pieces=pieces, group=shared)
    tokens = torch.full((size, length), pad_id)
    logprobs = torch.zeros(size, length)
    counts = torch.zeros(size, dtype=torch.long)
    autocast, telling = nullcontext if hardware is None else hardware.autocast, Lock()

    def answer(rows: Sequence[int]) -> None:
        with torch.inference_mode(), autocast():
            batch = _sample_batch(
                model, [prompts[row] for row in rows], uniforms[rows], settings, stop_ids, pad_id, shared
            )
        tokens[rows], logprobs[rows], counts[rows] = batch
        if advance is not None:
            with telling:
                advance(len(rows))

    with cast_once(model, "fp32" if hardware is None else hardware.precision, keep=compiled):
        if compiled and prompts:
            from harness.models.static_decoding import expect

            expect(model, rows=max(map(len, pending)), prompt=max(map(len, prompts)), tokens=length)
        if hardware is None or compiled:
            for rows in pending:
                answer(rows)
        else:
            hardware.share_out(answer, pending)
    return [ids[:count] for ids, count in zip(tokens.tolist(), counts.tolist(), strict=True)], logprobs


def _sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    settings: Sampling,
    stop_ids: Sequence[int],
    pad_id: int,
    shared: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Responses to prompts of similar length, on the CPU: tokens (B, R), logprobs (B, R), counts (B,)."""
    import torch

    from harness.models.kernels import is_half

    batch, length, device = len(prompts), settings.max_new_tokens, model.device
    uniforms = uniforms.to(device)
    tokens = torch.full((batch, length), pad_id, device=device)
    logprobs = torch.zeros(batch, length, device=device)
    counts = torch.zeros(batch, dtype=torch.long, device=device)
    alive, done = torch.arange(batch, device=device), torch.zeros(batch, dtype=torch.bool, device=device)
    compiled = settings.engine == "compiled"
    decoding = start_decoding(model, prompts, pad_id, tokens=length, shared=shared, compiled=compiled)
    half = is_half(logprobs)
    # Uncompiled, a step is over soon after Python has asked for it: each is asked which rows have ended.
    looks = LOOKS if compiled and device.type != "cpu" else 1
    for step in range(length):
        chosen, chosen_logprobs = choose(decoding.logits().float(), uniforms[alive, step], settings)
        tokens[alive, step], logprobs[alive, step] = chosen, chosen_logprobs
        counts[alive] += ~done[alive]
        for stop_id in stop_ids:
            done[alive] |= chosen == stop_id
        if (step + 1) % looks == 0:
            going = ~done[alive]
            share = float(going.float().mean())
            if share == 0:
                break
            if share < 0.75:  # copying the cache pays once a quarter of the rows have ended
                keep = kept(going, half=half)
                decoding.keep(keep)
                alive, chosen = alive[keep], chosen[keep]
        if step + 1 < length:
            decoding.append(chosen)
    return _blank_after_end(tokens.cpu(), logprobs.cpu(), counts.cpu(), pad_id)


def kept(going: torch.Tensor, *, half: bool) -> torch.Tensor:
    """The rows to go on with, in their order: those that have not ended, in bf16 on a CPU filled up to ``more_rows``.

    Args:
        going: (B,) bool, True on rows that have not ended.
        half: whether the steps are in bf16 on a CPU.
    """
    from harness.models.kernels import more_rows

    if not half:
        return going.nonzero().squeeze(1)
    count = int(going.sum())
    ended = (~going).nonzero().squeeze(1)
    filled = going.clone()
    filled[ended[: more_rows(count) - count]] = True
    return filled.nonzero().squeeze(1)


def _blank_after_end(
    tokens: torch.Tensor, logprobs: torch.Tensor, counts: torch.Tensor, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ended rows that stayed in the batch for a while went on choosing: what they chose after EOS is removed."""
    import torch

    after = torch.arange(tokens.shape[1])[None] >= counts[:, None]
    return tokens.masked_fill(after, pad_id), logprobs.masked_fill(after, 0.0), counts


def choose(logits: torch.Tensor, uniforms: torch.Tensor, settings: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token per row and return it with its logprob at temperature T over the whole vocabulary.

    Args:
        logits: (B, V) float32.
        uniforms: (B,) float64 in [0, 1): one draw per row, inverted through the distribution's cumulative sum.
        settings: temperature, top-k and top-p. The logprob is before top-k and top-p, as in training.
    """
    import torch

    probabilities = torch.softmax(logits / (settings.temperature or 1.0), -1)
    chosen = logits.argmax(-1) if settings.temperature == 0 else drawn(_truncated(probabilities, settings), uniforms)
    return chosen, probabilities.gather(1, chosen[:, None]).squeeze(1).log()


def drawn(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """(B,) long: of each row the first place up to which weights add up to more than the draw's share of their sum.

    Places are added up ``BLOCK`` at a time, and one by one in the block that has the one looked for alone: running sums
    of a whole vocabulary take longer than the exponentials that they are of.

    Args:
        weights: (B, V) float32 from 0, not all 0; one of 0 is never chosen.
        uniforms: (B,) float64 in [0, 1).
    """
    import torch
    from torch.nn.functional import pad

    blocks = pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(weights), -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    target = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=blocks.shape[1] - 1)
    rows = torch.arange(len(weights), device=weights.device)
    inside = blocks[rows, block.squeeze(1)].cumsum(-1, dtype=torch.float64)
    # The two sums of a block are rounded apart: the draw stays below the one that is searched in.
    most = torch.nextafter(inside[:, -1:], inside.new_zeros(()))
    within = torch.minimum(target - pad(ends, (1, 0)).gather(1, block), most)
    found = block * BLOCK + torch.searchsorted(inside, within, right=True)
    return found.squeeze(1).clamp_(max=weights.shape[1] - 1)  # of rows of NaN


def _truncated(probabilities: torch.Tensor, settings: Sampling) -> torch.Tensor:
    """0 where top-k or top-p (Holtzman et al. 2020, arXiv 1904.09751) exclude a token."""
    import torch

    if settings.top_k > 0:
        kth = probabilities.topk(min(settings.top_k, probabilities.shape[1]), dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < kth, 0.0)
    if settings.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered = ordered / ordered.sum(-1, keepdim=True)
        beyond = ordered.cumsum(-1) - ordered >= settings.top_p  # the token that crosses the line stays
        probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(1, index, beyond), 0.0)
    return probabilities
