"""Generated texts: sentences of made-up words, frequent and rare as in a language, the same for every seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, product
from random import Random

STARTS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "bl", "dr", "gr", "kl", "pr", "st", "tr")
VOWELS = ("a", "e", "i", "o", "u", "ei", "ou")
ENDS = ("", "n", "r", "s", "t", "nd", "lk")
SHORT = ("the", "of", "and", "to", "in", "is", "it", "on", "as", "at", "by", "so")


def words(count: int, generator: Random) -> list[str]:
    """``count`` different words of one to three syllables."""
    syllables = ["".join(parts) for parts in product(STARTS, VOWELS, ENDS)]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(syllables, k=generator.choice((1, 2, 2, 3))))] = None
    return list(found)


SHORT_SHARE = 0.4
"""Of the words, those that a short one comes before."""


def sentences(vocabulary: list[str], generator: Random, short_share: float = SHORT_SHARE) -> Iterator[str]:
    """Endless sentences; the word of rank r comes with weight 1 / (r + 3), and with a short one before it or without.

    Source of the weights: Zipf–Mandelbrot, whose shift of 3 keeps the first word from being every tenth.
    """
    cumulative = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    while True:
        chosen: list[str] = []
        for word in generator.choices(vocabulary, cum_weights=cumulative, k=generator.randint(5, 12)):
            if generator.random() < short_share:
                chosen.append(generator.choice(SHORT))
            chosen.append(word)
        yield f"{' '.join(chosen).capitalize()}{generator.choice('...?')}"


def text(vocabulary: list[str], generator: Random, *, word_count: int, short_share: float = SHORT_SHARE) -> str:
    """Whole sentences, as many as it takes.

    Args:
        vocabulary: the words, the most frequent first.
        generator: the stream that they are drawn from.
        word_count: fewest words of all sentences together.
        short_share: of the words, those that a short one comes before.
    """
    parts: list[str] = []
    source, length = sentences(vocabulary, generator, short_share), 0
    while length < word_count:
        parts.append(next(source))
        length += parts[-1].count(" ") + 1
    return " ".join(parts)
