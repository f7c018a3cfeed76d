"""The examples in the docstrings of the formulae hold."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch


@pytest.mark.parametrize(
    ("name", "examples"),
    [("losses", 2), ("advantages", 2), ("kl", 4), ("masks", 4), ("schedule", 2), ("calibration", 3), ("limits", 1)],
)
def test_docstring_examples(name, examples):
    module = importlib.import_module(f"harness.training.{name}")
    failed, tried = doctest.testmod(module, extraglobs={"torch": torch})
    assert failed == 0
    assert tried >= examples
