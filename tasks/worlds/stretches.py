"""How far a text is from a language of few sentence patterns: in how many places it breaks off from all of them.

A pattern is a tuple of words in which a slot stands in braces: ``("a", "{pre}", "{head}")``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

Pattern = tuple[str, ...]

NEGATIONS = frozenset({"no", "not", "never", "none", "neither", "nor", "nothing", "without"})
"""Words that deny what stands beside them."""

BREAK_FACTOR = 0.6
"""What a break leaves of what a text states."""


def stretches(patterns: Iterable[Pattern]) -> frozenset[Pattern]:
    """Every run of words that stands in one of the patterns.

    >>> sorted(stretches([("a", "{head}")]))
    [('a',), ('a', '{head}'), ('{head}',)]
    """
    return frozenset(
        pattern[start:end] for pattern in patterns for start, end in combinations(range(len(pattern) + 1), 2)
    )


def breaks(text: Pattern, known: frozenset[Pattern]) -> int:
    """The breaks between the longest known stretches of a text, from left to right.

    A word outside the language counts as one break, and so does a word of it, other than a slot, that fits neither
    side: a slip costs the same whether the language has the word or not.

    >>> known = stretches([("a", "{pre}", "{head}", "in", "the", "{post}")])
    >>> breaks(("a", "{pre}", "{head}", "in", "the", "{post}"), known)
    0
    >>> breaks(("a", "{pre}", "{head}", "{post}"), known)  # … {head} | {post}
    1
    >>> breaks(("a", "{pre}", "{head}", "in", "a", "{post}"), known)  # … in (a) {post}
    1
    >>> breaks(("a", "{post}", "in", "the", "{head}"), known)  # (a) {post} | in the | {head}
    3
    """
    count, start, after_slip = 0, 0, True
    while start < len(text):
        end = start
        while end < len(text) and text[start : end + 1] in known:
            end += 1
        if end == start or (end == start + 1 and start > 0 and not text[start].startswith("{")):
            count, start, after_slip = count + 1, start + 1, True
        else:
            count, start, after_slip = count + (not after_slip), end, False
    return count
