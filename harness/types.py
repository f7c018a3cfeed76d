"""What passes between the parts: plain containers and the protocols of the seams.

Nothing here imports torch or transformers, so that every part may import it at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

Split = Literal["sft", "preference", "judge", "rl", "validation", "test"]
TRAIN_SPLITS: tuple[Split, ...] = ("sft", "preference", "judge", "rl")
SPLITS: tuple[Split, ...] = (*TRAIN_SPLITS, "validation", "test")

Fields = Mapping[str, Any]
"""What a task's template is filled with: each value a string or a list of strings (dialogue turns)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set, in the task's terms.

    Args:
        id: unique within the data set, stable across runs.
        fields: the template's values, e.g. ``{"source": ...}`` or ``{"context": ..., "question": ...}``.
        response: the demonstration that SFT imitates.
        references: acceptable responses, which the metrics compare with.
        facts: the latent facts of a controlled world, which its gold reward reads; None on real data.
    """

    id: str
    fields: dict[str, Any]
    response: str
    references: list[str]
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PairExample:
    """One preference of the data set's own: of two responses to a prompt, which one was preferred."""

    id: str
    fields: dict[str, Any]
    chosen: str
    rejected: str


class Draw(NamedTuple):
    """A prompt of a controlled world: the template's fields and the latent facts behind them (JSON-serialisable)."""

    fields: dict[str, Any]
    facts: dict[str, Any]


class Demonstration(NamedTuple):
    """A response drawn from a world's mixture, and the name of the style (good or flawed) that it was drawn from."""

    response: str
    style: str


class World(Protocol):
    """A generated language with a known gold reward. All randomness arrives as a ``random.Random``."""

    name: str
    version: int
    part_maxima: Mapping[str, float]
    """Gold's named parts and the most that each can give; their sum is the gold maximum."""
    mixture: Mapping[str, float]
    """Style name -> probability; sums to 1."""
    max_references: int
    """So many different references it can give for every prompt."""

    def draw(self, rng: Random) -> Draw: ...

    def demonstrate(self, facts: Mapping[str, Any], rng: Random) -> Demonstration: ...

    def references(self, facts: Mapping[str, Any], rng: Random, count: int) -> list[str]:
        """``count`` valid responses, at most ``max_references``."""
        ...

    def gold_parts(self, facts: Mapping[str, Any], response: str) -> dict[str, float]: ...


class Cut(NamedTuple):
    """A prompt that fits, and what was done to make it fit."""

    prompt: str
    was_cut: bool
    lost_answer: bool
    """True where the uncut fields contained a reference verbatim and the cut ones no longer do (qa)."""


class Task(Protocol):
    """What is asked: the prompt's wording, its metrics, and how a prompt that is too long may be cut."""

    name: str
    version: int
    required_fields: tuple[str, ...]
    metrics: Sequence[str]
    main_metric: str

    def prompt(self, fields: Fields) -> str: ...

    def cut(self, example: Example, fits: Callable[[str], bool]) -> Cut: ...

    def copy_of_input(self, fields: Fields) -> str: ...


class Interval(NamedTuple):
    """An estimate with its 95 % interval, on the scale of the estimate."""

    estimate: float
    low: float
    high: float


class Scored(Protocol):
    """One metric's verdict on N outputs, kept so that any resample of them can be scored exactly."""

    name: str
    signature: str
    per_example: np.ndarray
    """(N,) float, the metric of each output by itself, on the table's scale."""

    def score(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(K,) corpus scores of resamples; ``weights`` (K, N): how often each example was drawn, None: each once."""
        ...


class Metric(Protocol):
    """A metric maps outputs and references to per-example values and an aggregate with a signature."""

    columns: tuple[str, ...]

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]: ...


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one policy answered to N prompts.

    Args:
        responses: the decoded texts, stripped.
        tokens: response token ids, EOS included where it was chosen, pads excluded.
        ended: True where the response ended in EOS.
    """

    responses: list[str]
    tokens: list[list[int]]
    ended: list[bool]
