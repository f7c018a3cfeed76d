"""Metrics by name: the built-in ones, and any other `evaluate` module by name or path."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from harness.errors import UserError
from harness.evaluation.evaluate_library import import_evaluate
from harness.models.content import content_identity, files_identity
from harness.types import Metric, Scored

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "bleu": ("bleu",),
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    "chrf": ("chrf",),
    "squad": ("exact_match", "f1"),
    "distinct": ("distinct1", "distinct2"),
}
"""Module in `harness.evaluation.metrics` -> the columns that it fills. Its class is the capitalised name."""

TAKEN = ("length", "repetition", "eos", "proxy", "kl", "judge", "gold", "win_rate", "rm_accuracy", "judge_accuracy")
"""Names of what the table and the samples hold beside metrics: a metric of such a name would fill their cells."""
GOLD_PART = "gold_"
"""What the names of gold's parts start with, which have no column."""

HUB_TIMEOUT_SECONDS = 3.0


def load_metric(name_or_path: str) -> Metric:
    """The metric of that name, of that column, or in that `evaluate` module.

    Args:
        name_or_path: a built-in metric (``rouge``) or one of its columns (``rougeL``); a path to an `evaluate` module;
            or the name of one on the Hugging Face hub, which must be reachable or hold it in its local cache.
    Raises:
        UserError: ``evaluation.extra_metrics``, where no such module can be loaded or it does not score texts.
    """
    for module, columns in BUILT_IN.items():
        if name_or_path == module or name_or_path in columns:
            return _built_in(module)
    from harness.evaluation.evaluate_module import EvaluateMetric, ModuleMetric

    module = _load_module(name_or_path)
    content = _module_content(name_or_path, module)
    if hasattr(module, "columns") and hasattr(module, "scored"):  # it follows our protocol already
        metric = cast(Metric, module)
        return metric if content in _shipped() else ModuleMetric(metric, metric.columns, content)
    return EvaluateMetric.around(module, name_or_path, content=content)


def metrics_for(columns: Sequence[str], extra_metrics: Sequence[str] = ()) -> list[Metric]:
    """The metrics that fill a task's columns, in their order, then the user's own.

    Args:
        columns: built-in columns; a metric that gives others too is narrowed to these.
        extra_metrics: names or paths for `load_metric`.
    Raises:
        UserError: ``task.metrics`` where a column is not built in; ``evaluation.extra_metrics`` where a module cannot
            be loaded or gives a column that is there already, or one of another quantity's name.
    """
    known = {column: module for module, given in BUILT_IN.items() for column in given}
    for column in columns:
        if column not in known:
            raise UserError(
                "task.metrics",
                column,
                "is not a built-in metric",
                f"choose among {', '.join(known)}, or name an `evaluate` module in evaluation.extra_metrics",
            )
    modules = dict.fromkeys(known[column] for column in columns)
    metrics: list[Metric] = [
        BuiltIn(module, tuple(column for column in columns if known[column] == module)) for module in modules
    ]
    taken = set(columns)
    for name in extra_metrics:
        metric = load_metric(name)
        if clash := [column for column in metric.columns if column in TAKEN or column.startswith(GOLD_PART)]:
            raise UserError(
                "evaluation.extra_metrics",
                name,
                f"gives {', '.join(clash)}, which is what the table calls something else",
                "rename the module",
            )
        if clash := sorted(taken.intersection(metric.columns)):
            raise UserError(
                "evaluation.extra_metrics",
                name,
                f"gives a column that is there already: {', '.join(clash)}",
                "leave it out, or rename the module",
            )
        taken.update(metric.columns)
        metrics.append(metric)
    return metrics


def metric_identity(name_or_path: str) -> str:
    """What of an extra metric decides numbers: its name, and for a module on disk its content instead of its place."""
    if name_or_path in BUILT_IN or any(name_or_path in columns for columns in BUILT_IN.values()):
        return name_or_path
    if Path(name_or_path).exists():
        return f"{Path(name_or_path).stem}:{content_identity(name_or_path)}"
    return name_or_path


def _module_content(name_or_path: str, module: Any) -> str:
    """A hash of a loaded module's code: of the file or folder that was named, or of the copy that the hub sent."""
    if Path(name_or_path).exists():
        return content_identity(name_or_path)
    return files_identity([Path(inspect.getfile(type(module)))])


@lru_cache(maxsize=1)
def _shipped() -> frozenset[str]:
    """The contents of the built-in metrics, which state all that decides their numbers in their signatures."""
    return frozenset(files_identity([path]) for path in (Path(__file__).parent / "metrics").glob("*.py"))


@dataclass(slots=True)
class BuiltIn:
    """A built-in metric of which only some columns are wanted."""

    module: str
    columns: tuple[str, ...]

    def scored(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Scored]:
        """The wanted columns alone."""
        scored = _scored(self.module, tuple(outputs), tuple(map(tuple, references)))
        return {column: scored[column] for column in self.columns}


@lru_cache(maxsize=8)
def _scored(module: str, outputs: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> Mapping[str, Scored]:
    """What a built-in metric says: each candidate is compared with the same SFT policy, which was just scored."""
    return _built_in(module).scored(outputs, references)


def _built_in(module: str) -> Metric:
    import_evaluate()
    kind = getattr(import_module(f"harness.evaluation.metrics.{module}"), module.capitalize())
    with TemporaryDirectory() as scratch:  # `evaluate` makes a cache folder at once; scoring in memory leaves it empty
        return cast(Metric, kind(cache_dir=scratch, keep_in_memory=True))


def _load_module(name_or_path: str) -> Any:
    evaluate = import_evaluate()
    is_local = name_or_path.endswith(".py") or Path(name_or_path).exists()
    try:
        with TemporaryDirectory() as scratch, _offline(not is_local and not _hub_answers()):
            return evaluate.load(name_or_path, keep_in_memory=True, cache_dir=scratch if is_local else None)
    except Exception as error:  # whatever a module, which is anyone's code, may raise while it loads
        reason = " ".join(str(error).split()) or type(error).__name__
        rule = f"cannot be loaded ({reason})"
        if not is_local:
            rule += "; it is no built-in metric, no local file, and neither on a hub in reach nor in the local cache"
        raise UserError(
            "evaluation.extra_metrics",
            name_or_path,
            rule,
            "give the path of its .py file, or load it once while online",
        ) from error


def _hub_answers() -> bool:
    """True where the hub may be asked and answers within a few seconds (`evaluate` itself retries for long)."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    for variable in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return False
    request = Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        with urlopen(request, timeout=HUB_TIMEOUT_SECONDS):
            return True
    except HTTPError:  # an answer, if an unfriendly one
        return True
    except OSError:
        return False


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """`evaluate` reads its local cache and nothing else for the duration, where ``offline``."""
    config = import_evaluate().config
    kept = config.HF_EVALUATE_OFFLINE
    config.HF_EVALUATE_OFFLINE = offline or kept
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE = kept
