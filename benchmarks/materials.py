"""What both sides start from, on disk: tokenizer, base model, an SFT policy, a reward model, and tokens to train on.

Made once per size from fixed seeds. The base model is as transformers makes it, untrained, dropout and all, so
that each side does with a checkpoint what it always does. Policy and reward model are trained by this harness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.sizes import PROMPT_TOKENS, RESPONSE_TOKENS, Size
from benchmarks.texts import SHORT_SHARE, text, words

EOS, PAD = "<|endoftext|>", "<|pad|>"
Rows = list[dict[str, list[int]]]
PREFERRED_SHORT_SHARES = 0.8, 0.1
"""Words of a chosen and of a rejected response that a short one comes before."""


def base_model(folder: Path, size: Size) -> Path:
    """A tokenizer and an untrained model in ``folder``/base; nothing is made anew that is there."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from harness.models.nano import train_tokenizer

    target = folder / "base"
    if (target / "config.json").is_file():
        return target
    generator = Random(0)
    vocabulary = words(size.words, generator)
    trained = train_tokenizer([text(vocabulary, generator, word_count=20 * size.vocab_size)], size.vocab_size)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained.backend_tokenizer, bos_token=EOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(size, tokenizer))
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)  # last: its config.json says that the folder is whole
    return target


def _config(size: Size, tokenizer: Any) -> Any:
    """The model's configuration: transformers' own defaults but for sizes and tokens."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        size.family,
        num_hidden_layers=size.layers,
        hidden_size=size.width,
        num_attention_heads=size.heads,
        max_position_embeddings=size.context,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if size.family == "gpt_neox":
        config.intermediate_size = 4 * size.width
    return config


def untrained_scorer(folder: Path, base: Path) -> Path:
    """A reward model that was never trained, on the base model's trunk, in ``folder``; made once."""
    from harness.models.loading import load_scorer, save

    target = folder / "untrained-scorer"
    if not (target / "config.json").is_file():
        save(load_scorer(base, head_seed=0), target)
    return target


class Materials:
    """Rows by kind, as many as are asked for; another seed gives another text, which is how rows are held out.

    Args:
        base: the base model's folder, whose tokenizer reads the text.
        size: whose language it is.
    """

    def __init__(self, base: Path, size: Size) -> None:
        from harness.models.loading import load_codec

        self.codec, self.size = load_codec(base), size
        self.vocabulary = words(size.words, Random(0))

    def demonstrations(self, count: int, *, seed: int) -> Rows:
        """Texts of 64 to 127 tokens and EOS, as ``input_ids``."""
        generator = Random(seed)
        lengths = [generator.randint(PROMPT_TOKENS, 2 * PROMPT_TOKENS - 1) for _ in range(count)]
        pieces = self._cut(lengths, generator)
        return [{"input_ids": [*piece, self.codec.eos_id]} for piece in pieces]

    def pairs(self, count: int, *, seed: int) -> Rows:
        """A prompt and two texts: the chosen one has more of the short words than prompts have, the rejected one fewer.

        So a reward model can tell them apart after a few updates, by what any place of a response says; and a policy,
        which samples short words from the first, can raise the score as soon.
        """
        generator = Random(seed)
        prompts = self._cut([PROMPT_TOKENS] * count, generator)
        chosen, rejected = (
            self._cut([RESPONSE_TOKENS] * count, generator, short_share=share) for share in PREFERRED_SHORT_SHARES
        )
        return [
            {"prompt": prompt, "chosen": better, "rejected": worse}
            for prompt, better, worse in zip(prompts, chosen, rejected, strict=True)
        ]

    def prompts(self, count: int, *, seed: int) -> Rows:
        """Prompts of 64 tokens, as ``input_ids``."""
        return [{"input_ids": piece} for piece in self._cut([PROMPT_TOKENS] * count, Random(seed))]

    def _cut(self, lengths: Sequence[int], generator: Random, *, short_share: float = SHORT_SHARE) -> list[list[int]]:
        """Pieces of a text, one behind the other, in tokens."""
        ids: list[int] = []
        while len(ids) < sum(lengths):
            piece = text(self.vocabulary, generator, word_count=20_000, short_share=short_share)
            ids += self.codec.tokenizer(piece)["input_ids"]
        pieces, start = [], 0
        for length in lengths:
            pieces.append(ids[start : start + length])
            start += length
        return pieces


def write_rows(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read_rows(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
