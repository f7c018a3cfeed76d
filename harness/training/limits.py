"""When a run has left the stated limits and must stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUANTITIES = ("kl", "entropy", "response_length", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseMonitor:
    """Limits on the logged quantities; a run that leaves one of them has collapsed. None: no limit.

    Args:
        max_kl: of ``kl``, nats, summed over the sequence, mean over responses.
        min_entropy: of ``entropy``, nats per token.
        min_length: of ``response_length``, mean tokens per response.
        max_length_share: of ``response_length`` as a share of ``max_response_tokens``.
        min_score: of ``score``, on the reward model's shifted scale.
        max_response_tokens: the longest response that sampling allows; needed by ``max_length_share`` alone.
    """

    max_kl: float | None = None
    min_entropy: float | None = None
    min_length: float | None = None
    max_length_share: float | None = None
    min_score: float | None = None
    max_response_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_length_share is not None and not self.max_response_tokens:
            raise ValueError(f"max_length_share={self.max_length_share} needs max_response_tokens, to be a share of it")

    def reason(self, metrics: Mapping[str, float], quantities: Sequence[str] = QUANTITIES) -> str | None:
        """Why the run must stop after this logged step, or None.

        A value on the limit is within it. A quantity that is no finite number has left every limit, stated or not.

        Args:
            metrics: one logged step, with every one of ``quantities``.
            quantities: which are held against their limits.

        >>> monitor = CollapseMonitor(max_kl=30.0)
        >>> monitor.reason({"kl": 41.5, "entropy": 1.0, "response_length": 9.0, "score": 2.0})
        'kl=41.5 is above max_kl=30'
        """
        watched = {name: float(metrics[name]) for name in quantities}
        for name, value in watched.items():
            if not math.isfinite(value):
                return f"{name}={value} is not a finite number"
        if self.max_response_tokens and "response_length" in watched:
            watched["length_share"] = watched["response_length"] / self.max_response_tokens
        limits = (
            ("kl", "above", "max_kl", self.max_kl),
            ("entropy", "below", "min_entropy", self.min_entropy),
            ("response_length", "below", "min_length", self.min_length),
            ("length_share", "above", "max_length_share", self.max_length_share),
            ("score", "below", "min_score", self.min_score),
        )
        for quantity, side, limit_name, limit in limits:
            if limit is None or quantity not in watched:
                continue
            value = watched[quantity]
            if (value > limit) if side == "above" else (value < limit):
                return f"{quantity}={value:.4g} is {side} {limit_name}={limit:.4g}"
        return None
