"""The library `evaluate`, imported without what nothing here uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_evaluate() -> Any:
    """`evaluate`, without the pipelines of transformers.

    Its evaluator, which runs whole pipelines, imports them at once where they are there: 1,100 modules and 3 to 9 s.
    Without them it says that transformers is missing. All that imports them later gets them.
    """
    if "evaluate" not in sys.modules:
        with _absent("transformers.pipelines"):
            import evaluate  # noqa: F401
    return sys.modules["evaluate"]


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """A module that is not imported yet cannot be, for the duration."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
