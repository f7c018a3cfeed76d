"""Any `evaluate` module as a metric of this harness: asked for one example at a time, averaged over the examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.evaluation.scored import check_texts, mean_scored
from harness.types import Metric, Scored

if TYPE_CHECKING:
    import numpy as np

PROBE = "The cat sat on the mat near the door."


@dataclass(slots=True)
class EvaluateMetric:
    """An `evaluate` module that scores texts against references.

    Its corpus score here is the mean of its per-example values, so that it can be resampled; for a module that
    aggregates otherwise (a corpus BLEU) that is another number than its own, and the signature says ``agg:mean``.

    Args:
        module: the loaded module.
        name: the module's name, which starts its columns.
        columns: one for each number in its result: the module's name where there is but one, else name_key.
        takes_lists: True where it takes a list of references per example; else each reference is scored by itself and
            the mean over them is kept.
        content: a hash of its code, for the signature.
    """

    module: Any
    name: str
    columns: tuple[str, ...]
    takes_lists: bool
    content: str

    @classmethod
    def around(cls, module: Any, name_or_path: str, *, content: str) -> EvaluateMetric:
        """Try a loaded module on one example, which shows its columns and the form of references that it takes.

        Raises:
            UserError: ``evaluation.extra_metrics``, where it does not turn texts and references into numbers.
        """
        name = Path(name_or_path).stem
        reasons = []
        for takes_lists in (True, False):
            try:
                values = _numbers(_compute(module, PROBE, [PROBE] if takes_lists else PROBE))
            except Exception as error:  # whatever a module, which is anyone's code, may raise
                reasons.append(" ".join(str(error).split()) or type(error).__name__)
                continue
            if values:
                return cls(module, name, _columns(name, values), takes_lists, content)
            reasons.append("its result holds no number")
        raise UserError(
            "evaluation.extra_metrics",
            name_or_path,
            f"does not score texts against references ({'; '.join(dict.fromkeys(reasons))})",
            "use a module whose predictions are strings and whose references are strings or lists of strings",
        )

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """The mean of each number that the module gives, with its per-example values.

        Args:
            outputs: N texts.
            references: N lists of at least one reference each.
        Raises:
            ValueError: where the module gives no finite number for an example, or other numbers than it did at first.
        """
        check_texts(outputs, references)
        rows = [self._row(output, list(refs)) for output, refs in zip(outputs, references, strict=True)]
        signature = f"evaluate:{self.name}|code:{self.content}|refs:{'list' if self.takes_lists else 'mean'}|agg:mean"
        return {
            column: mean_scored(column, [row[column] for row in rows], signature=signature) for column in self.columns
        }

    def _row(self, output: str, references: list[str]) -> dict[str, float]:
        """One example's columns."""
        inputs: list[list[str]] | list[str] = [references] if self.takes_lists else references
        results = [_numbers(_compute(self.module, output, refs)) for refs in inputs]
        rows = [dict(zip(_columns(self.name, result), result.values(), strict=True)) for result in results]
        if any(set(row) != set(self.columns) for row in rows):
            raise ValueError(
                f"{self.name}: gave {sorted(rows[0])} for {output!r} where {sorted(self.columns)} were due"
            )
        return {column: math.fsum(row[column] for row in rows) / len(rows) for column in self.columns}


@dataclass(slots=True)
class ModuleMetric:
    """A module that follows our protocol, whose signatures also say which code it was.

    Args:
        metric: the loaded module.
        columns: its columns.
        content: a hash of its code.
    """

    metric: Metric
    columns: tuple[str, ...]
    content: str

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """What the module says, with its signatures made longer."""
        found = self.metric.scored(outputs, references)
        return {
            name: _Signed(name, f"{said.signature}|code:{self.content}", said.per_example, said)
            for name, said in found.items()
        }


@dataclass(slots=True)
class _Signed:
    """A verdict under another signature."""

    name: str
    signature: str
    per_example: np.ndarray
    said: Scored

    def score(self, weights: np.ndarray | None = None) -> np.ndarray:
        return self.said.score(weights)


def _compute(module: Any, output: str, references: str | list[str]) -> object:
    return module.compute(predictions=[output], references=[references])


def _numbers(result: object) -> dict[str, float]:
    """The numbers in a result: itself, or the values of a mapping, a list of one number (one example) included."""
    if isinstance(result, Real):
        return {"": float(result)}
    if not isinstance(result, Mapping):
        return {}
    single = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in result.items()}
    return {str(key): float(value) for key, value in single.items() if isinstance(value, Real)}


def _columns(name: str, values: Mapping[str, float]) -> tuple[str, ...]:
    return (name,) if len(values) == 1 else tuple(f"{name}_{key}" for key in values)
