"""That a policy's probabilities alone decide what it says, and how an encoder–decoder model begins a response."""

from __future__ import annotations

import copy
from typing import Any

from harness.errors import UserError
from harness.models.codec import Codec

OUT_OF_REACH = -1e4
"""A logit that no softmax leaves any probability."""


def generate_plainly(model: Any, codec: Codec) -> None:
    """Drop a causal model's own rules of decoding: a chat model's repetition penalty, say, its temperature and top-k.

    They would act besides the model in other tools, which would then answer otherwise than what was trained and scored.
    Which tokens end a response stays: a chat model often lists several.
    """
    from transformers import GenerationConfig

    _stop(model, codec)
    bos_id = getattr(model.config.get_text_config(), "bos_token_id", None)
    special = {"bos_token_id": bos_id, "eos_token_id": _ends(codec), "pad_token_id": codec.pad_id}
    model.generation_config = GenerationConfig(**special)


def _stop(model: Any, codec: Codec) -> None:
    """Let the special tokens that the model's configuration lists, and has embeddings for, end its responses.

    Where it says nothing transformers fills in a default of the architecture, which may be any token.
    """
    listed = getattr(model.generation_config, "eos_token_id", None)
    if listed is not None:
        rows = model.get_input_embeddings().weight.shape[0]
        codec.stop_at(id for id in (listed if isinstance(listed, list) else [listed]) if 0 <= id < rows)


def _ends(codec: Codec) -> int | list[int]:
    """As transformers' configurations say it: one number, or a list."""
    return codec.eos_id if len(codec.stop_ids) == 1 else list(codec.stop_ids)


def prepare_decoder(model: Any, codec: Codec, name: str, key: str) -> None:
    """Settle what stands before every response, and drop rules of decoding that would act besides the model.

    Configurations of BART and Marian ask for beams, for no repeated n-grams, or for EOS at the length limit. A policy
    is the distribution that its logits say, here and in other tools: so what is saved keeps the special tokens alone.
    A token that must not be generated (Marian's pad, whose logit was never trained) is put out of reach by the model's
    own bias, where it has one.

    Args:
        model: an encoder–decoder model; it and its configuration are changed in place.
        codec: its tokenizer, which is told what else ends a response.
        name: what it was loaded from, for messages.
        key: the configuration key to name in an error.

    Raises:
        UserError: naming ``key``: no configuration says how the decoder starts, or with a token that there is not.
    """
    from transformers import GenerationConfig

    old, config = model.generation_config, model.config
    start = getattr(config, "decoder_start_token_id", None)  # T5's class has none of its own, nor a BOS
    start = old.decoder_start_token_id if start is None else start
    require_start(start, name, key)
    forced = old.forced_bos_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    for field, token in (("decoder_start_token_id", start), ("forced_bos_token_id", forced)):
        if token is not None and not 0 <= token < rows:
            rule = f"has {field} {token} but an embedding of {rows} rows"
            raise UserError(key, name, rule, "correct it in its config.json or generation_config.json")
    _stop(model, codec)
    config.decoder_start_token_id = start
    if forced is not None:
        config.decoder_prefix = [start, forced]
    _forbid(model, [*(words[0] for words in old.bad_words_ids or [] if len(words) == 1), *(old.suppress_tokens or [])])
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        forced_bos_token_id=forced,
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=_ends(codec),
        pad_token_id=codec.pad_id,
    )


def decoding_of(model: Any) -> Any:
    """A policy's generation settings for whoever loads its base from elsewhere, where no bias was changed."""
    settings = copy.deepcopy(model.generation_config)
    bias = getattr(model, "final_logits_bias", None)
    if bias is not None:
        settings.suppress_tokens = (bias[0] <= OUT_OF_REACH).nonzero().flatten().tolist() or None
    return settings


def require_start(token: int | None, name: str, key: str) -> None:
    """A decoder begins with a token that its configuration names.

    Raises:
        UserError: naming ``key``: it names none.
    """
    if token is None:
        rule = "is an encoder–decoder model that does not say how its decoder starts"
        raise UserError(key, name, rule, "set decoder_start_token_id in its config.json")


def _forbid(model: Any, tokens: list[int]) -> None:
    import torch

    bias = getattr(model, "final_logits_bias", None)
    if bias is not None and tokens:
        with torch.no_grad():
            bias[:, tokens] = OUT_OF_REACH
