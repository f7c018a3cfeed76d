"""What the built-in metrics share: each is an `evaluate` module and a `Metric` of this harness in one class.

`evaluate.load` copies a metric's file away, scans it for imports line by line, and takes the first class in it that
derives from `evaluate.EvaluationModule`. So this class does not derive from it, each metric's file has one import per
line, and it imports this one by its full name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from harness.types import Scored


class TextModule(ABC):
    """Put before `evaluate.Metric` among the bases: gives ``_info`` and ``_compute`` from ``scored``."""

    columns: ClassVar[tuple[str, ...]]
    description: ClassVar[str]
    citation: ClassVar[str]

    @abstractmethod
    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """One verdict per column."""

    def _info(self) -> Any:
        import datasets
        import evaluate

        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: list of strings; references: list of strings, or of lists of strings.",
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(self, *, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
        lists = [[refs] if isinstance(refs, str) else refs for refs in references]
        return {name: float(scored.score()[0]) for name, scored in self.scored(predictions, lists).items()}
