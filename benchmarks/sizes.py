"""The sizes of models and texts that all benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

PROMPT_TOKENS, RESPONSE_TOKENS = 64, 48
"""Of every prompt and response, unless a benchmark says otherwise."""


@dataclass(frozen=True)
class Size:
    """A model and the language that it reads.

    Args:
        layers, width, heads: of the model.
        vocab_size: of the tokenizer, and so of the model.
        words: different words in the generated texts.
        context: positions that the model knows.
        family: ``gpt2`` or ``gpt_neox``, as transformers calls them.
    """

    layers: int
    width: int
    heads: int
    vocab_size: int
    words: int
    context: int = 256
    family: str = "gpt2"


SIZES = {
    "micro": Size(layers=1, width=32, heads=2, vocab_size=400, words=200),
    "tiny": Size(layers=4, width=128, heads=4, vocab_size=2000, words=4000),
    "small": Size(layers=6, width=384, heads=6, vocab_size=8000, words=20000),
}
"""``micro`` is for tests: it shows that a benchmark runs, and nothing else."""

REAL_SIZES = {
    "micro": SIZES["micro"],
    "tiny": SIZES["tiny"],
    "gpt2": Size(layers=12, width=768, heads=12, vocab_size=50257, words=50000, context=1024),
    "neox-1b": Size(layers=16, width=2048, heads=8, vocab_size=50304, words=50000, context=2048, family="gpt_neox"),
}
"""What a GPU is measured with: GPT-2's smallest (124 million weights) and Pythia's of a billion, untrained."""
