"""`evaluate` comes without what takes seconds to import, which whoever wants it still gets."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from harness.evaluation.evaluate_library import _absent


def test_pipelines_are_left_out_and_can_be_imported_later() -> None:
    code = """
import sys
from harness.evaluation.registry import metrics_for
(metric,) = metrics_for(["exact_match"])
assert metric.scored(["a dog"], [["a cat"]])["exact_match"].score()[0] == 0
assert "evaluate" in sys.modules and "transformers.pipelines" not in sys.modules
from transformers import pipeline
assert callable(pipeline)
assert metric.scored(["a cat"], [["a cat"]])["exact_match"].score()[0] == 100
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_is_absent_for_the_duration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with _absent("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert "this" not in sys.modules


def test_a_module_that_is_there_already_stays() -> None:
    with _absent("json"):
        assert importlib.import_module("json") is sys.modules["json"]
    assert "json" in sys.modules
