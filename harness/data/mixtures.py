"""Mixtures: in which style, good or flawed, a controlled world's demonstrations are written, and how often."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import UserError


def mixture_of(given: Mapping[str, float] | None, default: Mapping[str, float]) -> dict[str, float]:
    """Style -> probability: what is given (styles left out are not drawn), else the world's own.

    The order is the world's, whatever the order given: it decides which style a random number stands for.

    >>> mixture_of({"curt": 0.5, "good": 0.5}, {"good": 0.7, "vague": 0.2, "curt": 0.1})
    {'good': 0.5, 'curt': 0.5}

    Raises:
        UserError: naming ``data.mixture``: a style that the world does not have, a share that is none, or another sum.
    """
    if given is None:
        return dict(default)
    for style, share in given.items():
        if style not in default:
            rule = "is no style of this world's demonstrations"
            raise UserError(f"data.mixture.{style}", share, rule, f"use {', '.join(default)}")
        if not 0 <= share <= 1:
            raise UserError(f"data.mixture.{style}", share, "is no probability", "give a number from 0 to 1")
    total = sum(given.values())
    if abs(total - 1) > 1e-6:
        raise UserError("data.mixture", dict(given), f"sums to {total:g}, not to 1", "change the shares")
    return {style: given[style] for style in default if style in given}
