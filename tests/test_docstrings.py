"""What docstrings must say, where a reader cannot guess it; and that their examples hold."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAILURES = {"UserError", "SecretGiven", "RunFailed"}
"""What a caller, and in the end a user, has to reckon with."""


def public_functions(file: Path) -> Iterator[ast.FunctionDef]:
    """Those of a module, and the methods of its classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*tree.body, *(member for each in classes for member in each.body)]:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def missing(function: ast.FunctionDef) -> str | None:
    """What a docstring lacks: of more than three arguments what they are, or a failure that the body raises."""
    said, given = ast.get_docstring(function) or "", function.args
    names = {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self", "cls"}
    calls = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    raised = {call.func.id for call in calls if isinstance(call.func, ast.Name)} & FAILURES
    if len(names) > 3 and "Args:" not in said:
        return f"Args of {len(names)} arguments"
    return next((f"Raises: {name}" for name in sorted(raised) if name not in said), None)


PARTS = {
    folder.relative_to(ROOT).as_posix(): sorted(folder.glob("*.py"))
    for top in ("harness", "tasks", "leaderboard", "benchmarks")
    for folder in sorted({file.parent for file in (ROOT / top).rglob("*.py")})
}
"""Folder -> its modules, of everything but tests and documents."""


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_say_what_many_arguments_are_and_what_is_raised(part: str) -> None:
    lacking = {f"{file.name} {each.name}": missing(each) for file in PARTS[part] for each in public_functions(file)}
    assert {name: lacks for name, lacks in lacking.items() if lacks is not None} == {}


EXAMPLES = [
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for files in PARTS.values()
    for file in files
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_hold(name: str) -> None:
    import torch

    inside = name if name.startswith(("harness.", "benchmarks.")) else f"harness.{name}"
    found = doctest.testmod(importlib.import_module(inside), extraglobs={"torch": torch})
    assert found.attempted
    assert not found.failed


def test_what_is_missing_is_found() -> None:
    source = """
def short(a, b, c): "Nothing to add."
def long(a, b, c, *, d): "Says nothing."
def told(a, b, c, *, d): "Args: all four."
def raises(a):
    "Says nothing."
    raise RunFailed("no")
"""
    found = [missing(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert found == [None, "Args of 4 arguments", None, "Raises: RunFailed"]
