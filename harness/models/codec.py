"""Text to tokens and back, by one rule for training, sampling and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UserError


class Codec:
    """A tokenizer with the conventions of this project.

    A prompt is encoded as the tokenizer does it (BOS where it adds one), less a trailing EOS. A response follows after
    a single space and ends in EOS. Pad is never EOS: a tokenizer without a pad token of its own gets one.

    Args:
        tokenizer: a transformers tokenizer with an EOS token.
        name: what to call it in an error.
    """

    def __init__(self, tokenizer: Any, name: str = "tokenizer") -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "model.name", name, "has a tokenizer without an EOS token", "set eos_token in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.eos_id = int(tokenizer.eos_token_id)
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == self.eos_id:
            self._choose_pad()
        self.pad_id = int(tokenizer.pad_token_id)

    def _choose_pad(self) -> None:
        """An unused special token where there is one (no weights change), else a new ``<|pad|>``."""
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id != self.eos_id:
            self.tokenizer.pad_token = self.tokenizer.unk_token
        else:
            self.tokenizer.add_special_tokens({"pad_token": "<|pad|>"})

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [ids[:-1] if ids and ids[-1] == self.eos_id else ids for ids in encoded]

    def encode_responses(
        self, texts: Sequence[str], *, max_tokens: int | None = None, ended: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """Response ids, EOS included; one longer than ``max_tokens`` is cut there and has no EOS.

        Args:
            texts: N responses.
            max_tokens: the length limit, EOS included; None for no limit.
            ended: (N,) False where no EOS is to follow; None: it follows everywhere.
        """
        if not texts:
            return []
        encoded = self.tokenizer(
            [f" {text}" if text else "" for text in texts], add_special_tokens=False, verbose=False
        )["input_ids"]
        ends = [True] * len(texts) if ended is None else ended
        full = [[*ids, self.eos_id] if end else list(ids) for ids, end in zip(encoded, ends, strict=True)]
        return full if max_tokens is None else [ids[:max_tokens] for ids in full]

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Texts without special tokens, stripped."""
        if not tokens:
            return []
        return [
            text.strip()
            for text in self.tokenizer.batch_decode([list(ids) for ids in tokens], skip_special_tokens=True)
        ]

    def count(self, text: str) -> int:
        return len(self.encode_prompts([text])[0])


PROBE = "Answer in 12 words: Ünïcode, (tabs)\tand\nnew lines?"


def same_tokens(first: Codec, second: Codec) -> bool:
    """Whether two tokenizers give texts the same ids.

    Tokens that only one of them was given afterwards (a pad token, marks of a chat) make no difference: a trainer adds
    them to what it saves.
    """
    one, other = (codec.tokenizer.get_vocab() for codec in (first, second))
    added = {*first.tokenizer.get_added_vocab(), *second.tokenizer.get_added_vocab()}
    if not one.keys() ^ other.keys() <= added or any(one[token] != other[token] for token in one.keys() & other.keys()):
        return False
    return first.encode_prompts([PROBE]) == second.encode_prompts([PROBE])
