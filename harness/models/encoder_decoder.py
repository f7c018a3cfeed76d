"""Encoder–decoder models on the batches of ``forward``: prompts go into the encoder, responses into the decoder.

Positions count from a row's first token in most encoders, and no mask corrects them: so prompts, which batches pad on
the left, are moved to the left here. Responses are padded on the right, where a decoder's tokens cannot see the pads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from harness.models.classifier import is_of_transformers

if TYPE_CHECKING:
    import torch

    from harness.models.forward import Batch


class Encoded(NamedTuple):
    """What the decoder reads of B prompts: hidden states (B, P, H) and a mask (B, P) bool, True on real tokens."""

    states: torch.Tensor
    mask: torch.Tensor

    def rows(self, index: torch.Tensor) -> Encoded:
        return Encoded(self.states[index], self.mask[index])


def decoder_prefix(config: Any) -> list[int]:
    """The tokens that stand before every response in the decoder, and that no policy chooses.

    The first is ``decoder_start_token_id``; a model that is told to begin with a certain token (a language, BART's BOS)
    has that as a second one, which ``load_language_model`` writes into the configuration.
    """
    return list(getattr(config, "decoder_prefix", None) or [config.decoder_start_token_id])


def encode(model: Any, ids: torch.Tensor, mask: torch.Tensor, *, shared: int = 1) -> Encoded:
    """Run the encoder over prompts padded on any side.

    Args:
        model: an encoder–decoder model, with or without a head.
        ids, mask: (B, P), mask True on real tokens.
        shared: of ``Batch``: one row of so many is computed, and stands for all of them.
    """
    ids, mask = left_aligned(ids[::shared], mask[::shared])
    states = model.get_encoder()(input_ids=ids, attention_mask=mask.long())[0]
    if shared > 1:
        states, mask = states.repeat_interleave(shared, 0), mask.repeat_interleave(shared, 0)
    return Encoded(states, mask)


def left_aligned(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's real tokens in their order, then its pads, as few as the longest row allows.

    Pads take positions too, and a model has no more of those than it says.
    """
    order = (~mask).long().argsort(dim=1, stable=True)[:, : max(int(mask.sum(1).amax()), 1)]
    return ids.gather(1, order), mask.gather(1, order)


def response_logits(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, V): the logits from which each response token is chosen."""
    from transformers.modeling_outputs import BaseModelOutput

    encoded, used = _encode_prompts(model, batch), _used(batch)
    out = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states),
        attention_mask=encoded.mask.long(),
        decoder_input_ids=_decoder_inputs(model.config, _response(batch)[:, : used - 1]),
        use_cache=False,
    )
    return before_responses(out.logits, batch)


def states_before(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, H): the decoder's hidden states from which each response token is chosen."""
    return before_responses(_decoder_states(model, batch, _response(batch)[:, : _used(batch) - 1]), batch)


def before_responses(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B, R, H) of what the decoder computed for its prefix and all response tokens but the last."""
    return _widened(states[:, -_used(batch) :], batch)


def last_states(model: Any, batch: Batch) -> torch.Tensor:
    """(B, H): the decoder's hidden state at each row's last real token, from which a classifier makes its score.

    A classifier of ours reads a prompt in the encoder and a response in the decoder. Those of transformers read one
    text, prompt and response, in both; what stands between the two is in ``config.reward_separator``.
    """
    import torch

    if is_of_transformers(type(model).__name__):
        hidden, last = _joined_states(model, batch)
    else:
        hidden = _decoder_states(model, batch, _response(batch)[:, : _used(batch)])
        last = len(decoder_prefix(model.config)) - 1 + batch.response_mask.sum(1)
    return hidden[torch.arange(len(last), device=last.device), last]


def _joined_states(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a classifier of transformers computes of each row as one text, (B, T, H), and its last token's place, (B,).

    The decoder reads the same tokens, moved to the right by its start token.
    """
    import torch

    columns = batch.ids.shape[1] - batch.response_mask.shape[1]
    between = torch.tensor(getattr(model.config, "reward_separator", None) or [], dtype=torch.long)
    between = between.to(batch.ids.device).expand(len(batch.ids), -1)
    ids = torch.cat([batch.ids[:, :columns], between, batch.ids[:, columns:]], 1)
    mask = torch.cat([batch.mask[:, :columns], torch.ones_like(between, dtype=torch.bool), batch.response_mask], 1)
    ids, mask = left_aligned(ids, mask)
    start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    inputs = torch.cat([start, ids[:, :-1]], 1)
    trunk = model.base_model
    hidden = trunk(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=inputs, use_cache=False)[0]
    return hidden, (mask.sum(1) - 1).clamp(min=0)


def _response(batch: Batch) -> torch.Tensor:
    return batch.ids[:, batch.ids.shape[1] - batch.response_mask.shape[1] :]


def _used(batch: Batch) -> int:
    """Columns of the longest response, at least 1; the rest are pads, which have no place in the decoder."""
    return max(int(batch.response_mask.sum(1).amax()), 1)


def _widened(computed: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Zeros for the columns that were left out, (B, used, …) to (B, R, …)."""
    import torch

    missing = batch.response_mask.shape[1] - computed.shape[1]
    return torch.nn.functional.pad(computed, (0, 0, 0, missing)) if missing > 0 else computed


def _encode_prompts(model: Any, batch: Batch) -> Encoded:
    columns = batch.ids.shape[1] - batch.response_mask.shape[1]
    return encode(model, batch.ids[:, :columns], batch.mask[:, :columns], shared=batch.shared)


def _decoder_inputs(config: Any, response: torch.Tensor) -> torch.Tensor:
    import torch

    prefix = torch.tensor(decoder_prefix(config), device=response.device).expand(len(response), -1)
    return torch.cat([prefix, response], 1)


def _decoder_states(model: Any, batch: Batch, response: torch.Tensor) -> torch.Tensor:
    encoded = _encode_prompts(model, batch)
    hidden: torch.Tensor = model.get_decoder()(
        input_ids=_decoder_inputs(model.config, response),
        encoder_hidden_states=encoded.states,
        encoder_attention_mask=encoded.mask.long(),
        use_cache=False,
    )[0]
    return hidden
