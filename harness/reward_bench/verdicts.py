"""What an examined reward model said of each pair, whatever kind of reward model it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from harness.types import PairExample


@dataclass(frozen=True)
class Verdicts:
    """N pairs judged.

    Args:
        margins: (N,) how far the chosen response is above the rejected one; negative where it is below.
        scores: (2N,) score of each response, the chosen ones first; None for a judge that compares without scoring.
        flips: (N,) bool, True where the judge named another winner when the two answers changed places; None for a
            reward model that sees one answer at a time.
        facts: what else is to be known of how the verdicts came about, for the record.
    """

    margins: np.ndarray
    scores: np.ndarray | None = None
    flips: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Examined(Protocol):
    """A reward model, ready to be asked."""

    def judge(self, pairs: Sequence[PairExample], advance: Callable[[int], None]) -> Verdicts:
        """The verdict on every pair; ``advance`` is told how many more are done."""
        ...
