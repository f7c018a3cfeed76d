"""The examples in the docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["wins", "text_quality", "metrics.rouge", "metrics.squad"])
def test_docstring_examples(name: str) -> None:
    found = doctest.testmod(import_module(f"harness.evaluation.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
