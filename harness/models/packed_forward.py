"""Forward passes over examples laid end to end: each sees itself alone, and its positions begin at 0.

So rows of similar length need no pads, however unlike their examples are. transformers sees where positions begin anew
and masks attention accordingly, as long as no mask of ours and no cache is given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import UserError
from harness.models.forward import make_batch, response_logits
from harness.models.loading import LanguageModel
from harness.models.soundness import ALLOWED, ALLOWED_HALF
from harness.training.masks import right_pad

if TYPE_CHECKING:
    import torch

KEY, REMEDY = "sft.packing", "leave it out: rows of similar length are batched together anyway"


class Packed(NamedTuple):
    """Token ids of examples in B rows.

    Args:
        ids: (B, T) long.
        positions: (B, T) long, from 0 in each example; each pad, of which a row has them at its end, is one of its own.
        before: (B, T) bool, True on the N tokens whose next one counts.
        labels: (N,) long: those next ones, row by row.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    before: torch.Tensor
    labels: torch.Tensor


def pack(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which examples share a row: as few rows as the longest-first rule fills, and as equally full as it makes them.

    Args:
        lengths: N, in tokens.
        most: tokens of a row.
    Returns: the examples of each row.
    Raises: ValueError where an example is longer than a row.

    >>> pack([5, 2, 3, 4], most=7)
    [[0, 1], [3, 2]]
    """
    if max(lengths) > most:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit a row of {most}")
    longest_first = sorted(range(len(lengths)), key=lambda example: -lengths[example])
    count = -(-sum(lengths) // most)
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for example in longest_first:
            row = filled.index(min(filled))
            rows[row].append(example)
            filled[row] += lengths[example]
        if max(filled) <= most:  # at the latest with a row for each example
            return rows
        count += 1


def make_packed(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    *,
    most: int,
    with_prompts: bool = False,
    device: Any = "cpu",
) -> Packed:
    """Lay N examples end to end into rows of at most ``most`` tokens.

    Args:
        prompts: N lists of token ids, none of them empty.
        responses: likewise.
        pad_id: fills rows up to the fullest one.
        most: tokens of a row.
        with_prompts: count the prompts' tokens, the first of each aside, as well as the responses'.
        device: where the tensors go.
    """
    if not all(prompts):
        raise ValueError("an example without a prompt has no token that its response would follow")
    rows = pack([len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)], most)
    ids: list[list[int]] = [[] for _ in rows]
    positions: list[list[int]] = [[] for _ in rows]
    before: list[list[int]] = [[] for _ in rows]
    for row, examples in enumerate(rows):
        for example in examples:
            whole = [*prompts[example], *responses[example]]
            skipped = 0 if with_prompts else len(prompts[example]) - 1
            ids[row] += whole
            positions[row] += range(len(whole))
            before[row] += [0] * skipped + [1] * (len(whole) - 1 - skipped) + [0]
    tokens, wanted = right_pad(ids, pad_id).ids.to(device), right_pad(before, 0).ids.bool().to(device)
    return Packed(tokens, right_pad(positions, 0).ids.to(device), wanted, tokens[:, 1:][wanted[:, :-1]])


def packed_logits(model: Any, packed: Packed) -> torch.Tensor:
    """(N, V) float32: the logits from which ``labels`` are chosen; no others are computed."""
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, given: (given[0][packed.before].unsqueeze(0),)
    )
    try:
        out = model(input_ids=packed.ids, position_ids=packed.positions, use_cache=False)
    finally:
        handle.remove()
    logits: torch.Tensor = out.logits[0].float()
    return logits


def require_packable(lm: LanguageModel) -> None:
    """Examples in one row have the logprobs that each has alone, whatever stands before and behind it.

    A state space runs on from one example into the next, and not every attention looks where positions begin anew.

    Raises:
        UserError: naming ``sft.packing``: they have others, or the model cannot be run so.
    """
    import torch

    kind = type(lm.model).__name__
    if lm.model.config.is_encoder_decoder:
        raise UserError(KEY, True, f"is not for {kind}: an encoder–decoder model's examples are no rows", REMEDY)
    ids = [token for token in range(len(lm.codec)) if token not in lm.codec.tokenizer.all_special_ids] * 32
    prompts, responses = [ids[:6], ids[6:10], ids[10:12]], [ids[12:17], ids[17:20], ids[20:24]]
    pad, device = lm.codec.pad_id, lm.model.device
    try:
        with torch.inference_mode():
            # The first example with pads behind it, the others in a row of their own.
            packed = make_packed(prompts, responses, pad, most=13, device=device)
            found = packed_logits(lm.model, packed).log_softmax(-1)
            alone = [
                response_logits(lm.model, make_batch([prompt], [response], pad, device=device))[0]
                for prompt, response in zip(prompts, responses, strict=True)
            ]
    except Exception as error:  # whatever the code of an architecture that nobody tried may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(KEY, True, f"is not for {kind}, which cannot be run so ({reason})", REMEDY) from error
    moved = float((found - torch.cat(alone).log_softmax(-1)).abs().max())
    full = next(lm.model.parameters()).dtype == torch.float32
    if not moved <= (ALLOWED if full else ALLOWED_HALF):
        rule = f"is not for {kind}: logprobs move by {moved:.2g} where other examples stand in the row"
        raise UserError(KEY, True, rule, REMEDY)
