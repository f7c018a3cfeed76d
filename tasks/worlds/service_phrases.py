"""Phrases with alternatives: one notation from which text is generated and by which text is recognised.

``"The {item} (is|has been) booked."`` names a slot in braces and alternatives in brackets; alternatives do not nest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

ALTERNATIVES = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\\{(\w+)\\}")


def realise(phrase: str, slots: Mapping[str, str], rng: Random) -> str:
    """One text of the phrase, its alternatives drawn evenly and its slots filled.

    >>> realise("The {item} (is|is) booked.", {"item": "table"}, Random(0))
    'The table is booked.'
    """
    chosen = ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), phrase)
    return chosen.format_map(slots)


def recogniser(phrase: str) -> re.Pattern[str]:
    """A pattern that matches each text of the phrase, in any case; a slot takes one word and becomes a named group.

    >>> recogniser("The {item} (is|has been) booked.").fullmatch("the table has been booked.")["item"]
    'table'
    """
    pieces = []
    for index, piece in enumerate(ALTERNATIVES.split(phrase)):
        if index % 2:
            pieces.append("(?:" + "|".join(re.escape(choice) for choice in piece.split("|")) + ")")
        else:
            pieces.append(SLOT.sub(r"(?P<\1>[a-z]+)", re.escape(piece)))
    return re.compile("".join(pieces), re.IGNORECASE)
