"""Overrides as Hydra reads them: keys, values, and the keys that a mapping sets at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def parsed(override: str) -> Any:
    """Hydra's own reading of an override; None where it is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def leaves(override: str) -> list[tuple[str, Any]]:
    """What an override sets, by dotted key without its sign: of a mapping each entry, of a sweep each of its mappings.

    >>> leaves("model={name: foo, api: {options: {top_p: 0.5}}}")
    [('model.name', 'foo'), ('model.api.options.top_p', 0.5)]
    >>> leaves("+sft.epochs=3")
    [('sft.epochs', 3)]
    """
    key, _, text = override.lstrip("+~").partition("=")
    found = parsed(override)
    if found is None:
        return [(key, text)]
    return list(_walk(str(found.get_key_element()).lstrip("+~"), found.value()))


def _walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    from hydra.core.override_parser.types import QuotedString

    value = value.text if isinstance(value, QuotedString) else value
    choices = getattr(value, "list", None) if not isinstance(value, list) else value  # of a sweep, or a list
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _walk(f"{key}.{name.text if isinstance(name, QuotedString) else name}", item)
    elif isinstance(choices, list) and any(isinstance(choice, dict) for choice in choices):
        for choice in choices:
            yield from _walk(key, choice)
    else:
        yield key, value


def value_text(override: str) -> str:
    """An override's value as one text, however it came: typed, or escaped and rounded as sweeps hand it over.

    >>> [value_text(given) for given in (r"model.base_url=http\\://127.0.0.1\\:8000/v1", "sft.optimizer.lr=1e-3")]
    ['http://127.0.0.1:8000/v1', '0.001']
    """
    from hydra.core.override_parser.types import QuotedString

    found = parsed(override) if "=" in override else None
    if found is None or found.is_sweep_override():
        return override.partition("=")[2]
    value = found._value
    if isinstance(value, bool):
        return str(value).lower()
    plain = isinstance(value, str) and not isinstance(value, QuotedString)
    return str(value) if plain else str(found.get_value_element_as_str())
