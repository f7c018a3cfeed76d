"""A batch of prompts while it is answered, token by token, over a key–value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from harness.models.encoder_decoder import decoder_prefix, encode
from harness.models.forward import prompt_cache
from harness.training.masks import left_pad, position_ids

if TYPE_CHECKING:
    import torch

PROMPTS_AT_ONCE = 128
"""Prompts that are read in one pass by ``LeanDecoding``: more are no faster, and hold more memory meanwhile."""


class Decoding(Protocol):
    """Rows that have a prompt and the tokens chosen so far."""

    def logits(self) -> torch.Tensor:
        """(B, V): what each row's next token is chosen from."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone, (K,) long, in this order."""
        ...

    def append(self, tokens: torch.Tensor) -> None:
        """Take the token that was chosen for each row, (B,) long."""
        ...


def start_decoding(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    *,
    tokens: int,
    shared: int = 1,
    compiled: bool = False,
) -> Decoding:
    """Read the prompts.

    Args:
        model: a causal or an encoder–decoder language model.
        prompts: B lists of token ids.
        pad_id: fills up shorter prompts.
        tokens: that may follow.
        shared: every so many consecutive prompts are one prompt, which is computed once for all of them.
        compiled: in static shapes, by compiled steps; of a causal model.
    """
    if compiled:
        from harness.models.static_decoding import StaticDecoding

        return StaticDecoding(model, prompts, pad_id, tokens, shared)
    if model.config.is_encoder_decoder:
        return EncoderDecoderDecoding(model, prompts, pad_id, tokens, shared)
    from harness.models.lean_decoding import lean_decoding

    decoding = lean_decoding(model, prompts, pad_id, tokens=tokens, shared=shared)
    return CausalDecoding(model, prompts, pad_id, tokens, shared) if decoding is None else decoding


class CausalDecoding:
    """The prompt's keys and values are computed first; its last token is run with the response's first step."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, tokens: int, shared: int) -> None:
        import torch

        from harness.models.lean_step import lean_step
        from harness.models.roomy_cache import roomy

        ids, mask = (tensor.to(model.device) for tensor in left_pad(prompts, pad_id))
        positions = position_ids(mask)
        self.model, self.column = model, ids.shape[1]
        self.cache = prompt_cache(model, ids[:, :-1], mask[:, :-1], positions[:, :-1], shared=shared)
        self.cache.layers = roomy(self.cache.layers, tokens=tokens)
        self.lean = lean_step(model, self.cache.layers)
        self.ids, self.positions = ids[:, -1:], positions[:, -1:]
        # True on what a row may see, now and later.
        self.mask = torch.nn.functional.pad(mask, (0, tokens), value=True)
        self.padded = not bool(mask.all())

    def logits(self) -> torch.Tensor:
        mask = self.mask[:, : self.column]
        if self.lean is not None:
            seen = _own_too(mask)[:, None, None] if self.padded else None
            return self.lean(self.model, self.cache.layers, ids=self.ids, positions=self.positions, mask=seen)
        logits: torch.Tensor = self.model(
            input_ids=self.ids,
            attention_mask=mask.long(),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.padded = not bool(self.mask.all())

    def append(self, tokens: torch.Tensor) -> None:
        self.ids = tokens[:, None].to(self.mask.device)
        self.positions = self.positions + 1
        self.column += 1


def _own_too(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) with the last column, the token itself: after an empty prompt that is a pad, and attention needs one."""
    seen = mask.clone()
    seen[:, -1] = True
    return seen


class EncoderDecoderDecoding:
    """The encoder runs once; the decoder starts from the tokens that stand before every response."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, tokens: int, shared: int) -> None:
        import torch

        ids, mask = (tensor.to(model.device) for tensor in left_pad(prompts, pad_id))
        self.model, self.tokens, self.encoded = model, tokens, encode(model, ids, mask, shared=shared)
        self.cache: Any = None
        self.ids = torch.tensor(decoder_prefix(model.config), device=ids.device).expand(len(ids), -1)

    def logits(self) -> torch.Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        from harness.models.roomy_cache import roomy

        out = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded.states),
            attention_mask=self.encoded.mask.long(),
            decoder_input_ids=self.ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        if self.cache is None:
            self.cache = out.past_key_values
            own = self.cache.self_attention_cache
            own.layers = roomy(own.layers, tokens=self.tokens)
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        rows = rows.to(self.encoded.mask.device)
        self.encoded = self.encoded.rows(rows)
        if self.cache is not None:
            self.cache.batch_select_indices(rows)

    def append(self, tokens: torch.Tensor) -> None:
        self.ids = tokens[:, None].to(self.encoded.mask.device)
