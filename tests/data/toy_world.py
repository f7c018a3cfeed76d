"""A tiny world that other processes can import: three numbers to repeat in order."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from harness.types import Demonstration, Draw


class Counting:
    """Asks for the numbers of a line; small enough to run out of prompts."""

    name = "counting"
    version = 1
    part_maxima: Mapping[str, float] = {"right": 1.0}
    mixture: Mapping[str, float] = {"good": 0.25, "short": 0.75}

    max_references = 100

    def __init__(self, top: int = 60) -> None:
        self.top = top

    def draw(self, rng: Random) -> Draw:
        numbers = [rng.randrange(self.top) for _ in range(3)]
        return Draw({"source": f"Say {numbers[0]}, {numbers[1]} and {numbers[2]}."}, {"numbers": numbers})

    def demonstrate(self, facts: Mapping[str, Any], rng: Random) -> Demonstration:
        style = rng.choices(list(self.mixture), weights=list(self.mixture.values()))[0]
        kept = facts["numbers"] if style == "good" else facts["numbers"][:1]
        return Demonstration(" ".join(map(str, kept)), style)

    def references(self, facts: Mapping[str, Any], rng: Random, count: int) -> list[str]:
        return [rng.choice([" ", ", "]).join(map(str, facts["numbers"])) for _ in range(count)]

    def gold_parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]:
        return {"right": float(response.replace(",", "").split() == [str(n) for n in facts["numbers"]])}
