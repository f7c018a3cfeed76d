"""What no reference is needed for: how long the responses are, how much they repeat, how many end by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.types import Outputs


class TextQuality(NamedTuple):
    """Per response; the table shows the means.

    length: (N,) float, tokens that the policy chose, EOS included.
    repetition: (N,) float, 0-1, share of repeated n-grams, see `repeated_share`.
    eos: (N,) float, 1 where the response ended in EOS, 0 where it ran into the length limit.
    """

    length: np.ndarray
    repetition: np.ndarray
    eos: np.ndarray


def repeated_share(tokens: Sequence[int], *, order: int = 4) -> float:
    """The share of a response's n-grams that occurred in it before, 0-1; 0 where it is shorter than one n-gram.

    Source: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319), section 6: 1 - distinct n-grams / n-grams, n = 4.

    >>> repeated_share([1, 2, 1, 2, 1], order=2)
    0.5
    """
    ngrams = [tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def text_quality(outputs: Outputs, *, order: int = 4) -> TextQuality:
    """Length, repetition (n-grams of ``order`` tokens) and EOS of each response."""
    return TextQuality(
        length=np.array([len(tokens) for tokens in outputs.tokens], dtype=np.float64),
        repetition=np.array([repeated_share(tokens, order=order) for tokens in outputs.tokens]),
        eos=np.array(outputs.ended, dtype=np.float64),
    )
