"""What the judge learns to compare: draws of the mixture, and foils among them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from harness.training.judge import FOIL_SHARE, mixture_pair
from harness.types import Demonstration, Example


class World:
    """Draws responses that say which prompt they answer."""

    def demonstrate(self, facts: Any, rng: Random) -> Demonstration:
        return Demonstration(f"sound answer number {facts['n']} draw {rng.randrange(10**6)}", "good")


EXAMPLES = [
    Example(id=str(n), fields={}, response=f"sound answer number {n} shown", references=[], facts={"n": n})
    for n in range(50)
]


def sound(text: str, row: int) -> bool:
    return text.startswith(f"sound answer number {row} draw ") and len(text.split()) == 6


def test_most_pairs_are_two_draws_and_the_stated_share_holds_one_foil_on_either_side():
    rng, places = Random(0), Counter[tuple[bool, bool]]()
    for n in range(4000):
        row = n % 50
        pair = mixture_pair(World(), EXAMPLES, row, rng, foils=FOIL_SHARE)
        places[sound(pair[0], row), sound(pair[1], row)] += 1
        assert any(sound(text, row) for text in pair), "one of the two is always a draw"
    foils = places[True, False] + places[False, True]
    # A shuffle may give the words back in order, and does so too rarely to show.
    assert abs(foils / 4000 - FOIL_SHARE) < 0.02
    assert abs(places[True, False] / foils - 0.5) < 0.1


def test_the_stream_decides():
    first, same, other = (mixture_pair(World(), EXAMPLES, 3, Random(seed)) for seed in (1, 1, 2))
    assert first == same != other
