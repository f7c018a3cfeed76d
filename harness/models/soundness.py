"""A look at a model before it is trained: batches, padding and the key–value cache must not change what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models.decoding import start_decoding
from harness.models.forward import Batch, logits_and_states, make_batch, response_logits, states_before
from harness.models.loading import LanguageModel
from harness.training.masks import position_ids

if TYPE_CHECKING:
    import torch

SHORT, LONG, RESPONSE = 3, 9, 4
"""Tokens of the prompts and of the responses that are looked at."""
ALLOWED, ALLOWED_HALF = 1e-3, 0.3
"""Most that a logprob may move, in full and in half precision."""


def require_sound(lm: LanguageModel, *, key: str = "model.name") -> None:
    """A short prompt gives the same logprobs alone, beside a longer one, where it is learned from, and step by step.

    An architecture whose positions do not follow the mask would be trained on other positions than it is used with.
    What goes by its layers alone is compared with the model's own pass, and the states that a value head reads beside
    the logits with those of the trunk alone.

    Raises:
        UserError: naming ``key``: they differ, or the model cannot be run at all in the way that every stage runs it.
    """
    import torch

    remedy = "use a model whose architecture takes position ids, such as GPT-2, Llama, Qwen, NeoX, T5, BART or Marian"
    name, pad = str(lm.model.config.name_or_path) or None, lm.codec.pad_id
    tokens = [token for token in range(len(lm.codec)) if token not in lm.codec.tokenizer.all_special_ids]
    line = (tokens * (SHORT + LONG + RESPONSE))[: SHORT + LONG + RESPONSE]
    short, long, response = line[:SHORT], line[SHORT : SHORT + LONG], line[-RESPONSE:]
    device = lm.model.device
    try:
        both = make_batch([short, long], [response, response], pad, device=device)
        with torch.inference_mode():
            alone = _own_logits(lm.model, make_batch([short], [response], pad, device=device))[0]
            beside = response_logits(lm.model, both)[0]
            first = start_decoding(lm.model, [short, long], pad, tokens=1).logits()[0].float()
            values_read = states_before(lm.model, both)
            together, states = logits_and_states(lm.model, both)
            apart = float((states - values_read).abs().max() / values_read.abs().max().clamp(min=1.0))
        learned = response_logits(lm.model, both)[0].detach()  # the pass that gradients flow through
    except Exception as error:  # whatever the code of an architecture that nobody tried may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        rule = f"is a {type(lm.model).__name__}, which cannot be run as every stage does ({reason})"
        raise UserError(key, name, rule, remedy) from error
    found = [logits.log_softmax(-1) for logits in (alone, beside, learned, together[0], first)]
    moved = max(float((each - found[0]).abs().max()) for each in found[1:4])
    moved = max(moved, float((found[0][0] - found[4]).abs().max()))
    full = next(lm.model.parameters()).dtype == torch.float32
    allowed = ALLOWED if full else ALLOWED_HALF
    if not moved <= allowed:
        found_out = f"whose logprobs move by {moved:.2g} when a prompt is padded, or learned from"
        rule = f"is a {type(lm.model).__name__}, {found_out}"
        raise UserError(key, name, rule, remedy)
    if not apart <= allowed:
        rule = f"is a {type(lm.model).__name__}, whose states move by {apart:.2g} when logits are computed beside them"
        raise UserError(key, name, rule, remedy)


def _own_logits(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, V) float32: what responses are chosen from, by the model's own pass, whatever else there is for it."""
    from harness.models.lean_pass import lean_family

    if model.config.is_encoder_decoder or lean_family(model) is None:
        return response_logits(model, batch)
    asked = {"attention_mask": batch.mask.long(), "position_ids": position_ids(batch.mask), "use_cache": False}
    logits: torch.Tensor = model(input_ids=batch.ids, **asked).logits
    return logits[:, -batch.response_mask.shape[1] - 1 : -1].float()
