"""What is wrong with a command line, in our words: key, value, rule, remedy. Hydra and OmegaConf find it, we say it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import SCHEMAS, group_of
from harness.usage import group_options

_RULES = (
    (r"could not be converted to Float", "is not a number", "give one such as 0.1"),
    (r"could not be converted to Integer", "is not a whole number", "give one such as 8"),
    (r"is not a valid bool", "is neither true nor false", "give one of the two"),
    (r"is not Optional", "cannot be null", "give a value or leave the key out"),
    (r"Cannot assign .* to Dict", "is not a mapping", "set its entries one by one: {key}.NAME=VALUE"),
    (r"Cannot convert .(list|dict). to string", "is not a text", "quote it: '{key}=\"TEXT\"'"),
    (r"is not a ListConfig", "is not a list", "write {key}=[VALUE,VALUE]"),
    (
        r"Invalid type assigned",
        "stands for a group of keys",
        "set them one by one: {key}.NAME=VALUE",
    ),
    (r"does not support deletion", "cannot be removed", "set it to another value"),
    (r"missing mandatory value|Missing mandatory value", "is missing", "give {key}=VALUE"),
    (r"Interpolation key .* not found", "refers to a key that does not exist", "give a value"),
)
"""What OmegaConf says -> rule and remedy."""


def explain(error: BaseException, arguments: Sequence[str] = (), schemas: Mapping[str, type] = SCHEMAS) -> str:
    """Hydra's and OmegaConf's complaint as one line.

    Args:
        error: what was raised.
        arguments: the command line, which knows the values that the error does not name.
        schemas: what the configuration is made of, where the keys that exist stand.
    """
    text = str(error)
    if mark := getattr(error, "problem_mark", None):
        return f"{mark.name}:{mark.line + 1} is not YAML ({getattr(error, 'problem', error)}); correct the file"
    if override := getattr(error, "override", None):
        return _unreadable(str(override))
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(match.group(1), arguments, schemas)
    if match := re.search(r"Could not find '(.*)'", text):
        group, _, option = match.group(1).rpartition("/")
        options = re.findall(r"^\t(.+)$", text.partition("Config search path")[0], flags=re.MULTILINE)
        return f"{group}={option} is not a choice; choose {', '.join(options) or 'one that --help lists'}"
    if match := re.search(r"Could not load '(\w+)/(.*)'", text):  # one of a list of choices
        options = {**group_options(bench=True), **group_options()}.get(match.group(1), [])
        choices = ", ".join(options) or "one that --help lists"
        return f"{match.group(1)}={match.group(2)} is not a choice; choose {choices}"
    if (group := _unresolved_group(text)) is not None:
        return f"{_shown(group, arguments)} names no single choice; give {group}=NAME"
    if match := re.search(r"Ambiguous value for argument '(.+)'", text):
        return f"{match.group(1)} gives several values; add -m to run each, or write [a,b] for one list"
    if match := re.search(r"In '([^']+)': \w+ raised while composing config:\n(.*)", text, flags=re.DOTALL):
        return f"{match.group(1)}.yaml: {_wrong_entry(match.group(2), schemas)}"
    return _wrong_value(error, arguments)


def _unresolved_group(text: str) -> str | None:
    """The group whose choice Hydra looked for in vain, in what it says of an interpolation in a defaults list."""
    match = re.search(r"Error resolving interpolation '([^']+)', possible interpolation keys: (.*)", text)
    if match is None:
        return None
    there = re.split("[, ]+", match.group(2))
    return next((name for name in re.findall(r"\$\{(\w+)\}", match.group(1)) if name not in there), None)


def unknown_key(key: str, arguments: Sequence[str] = (), schemas: Mapping[str, type] = SCHEMAS) -> str:
    """That there is no such key, and which one was probably meant."""
    return f"{_shown(key, arguments)} is not a configuration key; {_suggestion(key, schemas)}"


def unknown_keys(node: Any, prefix: str = "") -> list[str]:
    """Keys that ``+key=value`` added to a typed node: Hydra lets them in, no part of ours would ever read them."""
    from dataclasses import fields, is_dataclass

    from omegaconf import DictConfig, OmegaConf

    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return []
    known = {field.name for field in fields(schema)}
    found = [prefix + str(name) for name in node if name not in known]
    for name in sorted(known):
        if not OmegaConf.is_missing(node, name) and isinstance(node._get_node(name), DictConfig):
            found += unknown_keys(node[name], f"{prefix}{name}.")
    return found


def _unreadable(override: str) -> str:
    if "=" not in override and re.fullmatch(r"[\w.@/]+", override):
        return f"{override} has no value; write {override}=VALUE"
    return f"{override} cannot be read as key=value; close brackets, and quote special characters: 'key=\"a b\"'"


def _wrong_entry(text: str, schemas: Mapping[str, type]) -> str:
    """What is wrong with an entry of a YAML file, from OmegaConf's text alone."""
    match = re.search(r"full_key: (\S+)", text)
    key = match.group(1) if match else "an entry"
    if re.search(r"^Key '.*' not in ", text):
        return unknown_key(key, (), schemas)
    return _by_rule(key, key, text)


def _wrong_value(error: BaseException, arguments: Sequence[str]) -> str:
    """The deepest cause that names a key says what is wrong with its value."""
    key, text = "", str(error)
    seen: BaseException | None = error
    while seen is not None:
        if full_key := getattr(seen, "full_key", None):
            key, text = str(full_key), str(seen)
        seen = seen.__cause__
    if f"~{key.partition('.')[0]}" in arguments:
        key = key.partition(".")[0]  # the whole group was taken away
    shown = _shown(key, arguments) if key else "the command line"
    return _by_rule(key, shown, text)


def _by_rule(key: str, shown: str, text: str) -> str:
    """Rule and remedy for what OmegaConf says of a key."""
    if key and (found := re.search(r"Value '(.*)' (?:of type|is not a valid)", text)):
        shown = f"{key}={found.group(1)}"  # one of a sweep's, where the command line gives several
    if "missing mandatory value" in text.lower():
        shown = key
    for pattern, rule, remedy in _RULES:
        if re.search(pattern, text):
            return f"{shown} {rule}; {remedy.format(key=key)}"
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return f"{shown} cannot be used ({first}); python -m harness --help lists the keys and their values"


def _shown(key: str, arguments: Sequence[str]) -> str:
    """``key=value`` where the command line gives the key, else the key."""
    for argument in reversed(arguments):
        name, equals, value = argument.partition("=")
        if equals and name.lstrip("+~") == key:
            return f"{key}={value}"
    return key


def _suggestion(key: str, schemas: Mapping[str, type]) -> str:
    """The nearest existing key, else where to look."""
    known = known_keys(schemas)
    group, leaf = key.split(".")[0], key.rsplit(".", 1)[-1]
    if key in known:
        return f"another choice of {group} has it; choose that one, or leave the key out"
    namesakes = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    inside = [name for name in namesakes if name.startswith(f"{group}.")]
    others = [name for name in known if not key.startswith(f"{name}.")]
    near = inside or difflib.get_close_matches(key, others, n=1) or namesakes
    return f"did you mean {' or '.join(near[:3])}?" if near else f"{_help(schemas)} lists the keys"


def _help(schemas: Mapping[str, type]) -> str:
    return "python -m harness --help" if schemas is SCHEMAS else "--help"


def known_keys(schemas: Mapping[str, type] = SCHEMAS) -> list[str]:
    """All configuration keys, dotted, groups included."""
    from omegaconf import OmegaConf

    known: list[str] = []
    for name, schema in schemas.items():
        group = group_of(name)
        known += [f"{group}.{leaf}" if group else leaf for leaf in _leaves(OmegaConf.structured(schema))]
    return list(dict.fromkeys(known))


def _leaves(node: Any, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig, OmegaConf

    found: list[str] = []
    for name in node:
        found.append(prefix + str(name))
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            found += _leaves(node[name], f"{prefix}{name}.")
    return found
