"""Up to which sizes OpenBLAS, which numpy multiplies by, keeps to the thread that asked it."""

from __future__ import annotations

MOST_NUMBERS = 9216
"""From so many numbers of a matrix on OpenBLAS would use threads of its own for its product with a vector."""
MOST_PRODUCTS = 2**18
"""Multiplications of a product of two matrices up to which it uses none; with them sums depend on the cores."""


def are_small(prompt: int, tokens: int, *, size: int, shared: int) -> bool:
    """Whether a prompt's and a response's products stay below what OpenBLAS would use threads of its own for.

    Args:
        prompt, tokens: whose keys and values there are at most, of a prompt and of a response.
        size: of a head.
        shared: responses to a prompt, which read it together.
    """
    alone = prompt * size < MOST_NUMBERS if shared == 1 else shared * prompt * size <= MOST_PRODUCTS
    return alone and tokens * size < MOST_NUMBERS
