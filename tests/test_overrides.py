"""Overrides are read as Hydra reads them, whatever they set at once."""

from __future__ import annotations

from typing import Any

import pytest

from harness.overrides import leaves, value_text


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("~sft", [("sft", None)]),
        ("-m", [("-m", "")]),
        ("data.limits={}", [("data.limits", {})]),
        ("x=[{a: 1},2]", [("x.a", 1), ("x", 2)]),
        ("x=[a, b]", [("x", ["a", "b"])]),
        ("model={base_url: \"http://h/v1?k=s\"},{a: 'b'}", [("model.base_url", "http://h/v1?k=s"), ("model.a", "b")]),
        ("x={'a b': 1}", [("x", "{'a b': 1}")]),  # no key that Hydra reads
        ("data.path='/a b/c'", [("data.path", "/a b/c")]),
    ],
)
def test_a_mapping_is_taken_apart(override: str, found: list[tuple[str, Any]]) -> None:
    assert leaves(override) == found


@pytest.mark.parametrize(
    ("override", "text"),
    [("x=", ""), ("x", ""), ("x=True", "true"), ("x=a,b", "a,b"), ("x='a b'", "'a b'"), (r"x=a\ b", "a b")],
)
def test_a_value_is_one_text(override: str, text: str) -> None:
    assert value_text(override) == text
