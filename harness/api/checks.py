"""What types cannot express of an endpoint's keys, without heavy imports: address, numbers, options, and no secret."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from harness.config import APIConfig
from harness.errors import SecretGiven, UserError

API_PROTOCOLS = ("chat", "completions")
_LEAVE = "leave it out: one answer is read whole"
_PROMPT = "leave it out: the task words the prompt"
_OURS = {"n": _LEAVE, "stream": _LEAVE, "messages": _PROMPT, "prompt": _PROMPT}
RESERVED_OPTIONS = {
    "model": {
        "temperature": "set evaluation.temperature",
        "seed": "set seed",
        "max_tokens": "set task.max_response_tokens",
        "model": "set model.name",
        **_OURS,
    },
    "scorer": {
        "temperature": "leave it out: verdicts are the likeliest",
        "seed": "leave it out: verdicts are the likeliest",
        "max_tokens": "set scorer.answer_tokens",
        "model": "set scorer.name",
        **_OURS,
    },
}
"""By group, fields of a request that have keys of their own, or none on purpose, and what to do instead."""
SECRET_GROUPS = ("model", "scorer", "hub")
"""Groups with somebody to log in to."""
_SECRET = re.compile(
    r"(?<![a-z])(api|access|private|secret|auth)?_?-?key(?![a-z])|secret|passw|credential|cookie|bearer|"
    r"auth(?!or(?!iz))|(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!stop_)(?<!end_)(?<!start_)token(?![a-z_-])|"
    r"(access|api|refresh|session|hf|id|user)[_-]?token(?![a-z])"
)
"""What a name of a secret has in it; a tokenizer's tokens, and settings of tokens, are none."""
_NO_SECRETS = ("key_variable", "prompt_cache_key")
"""Names that sound like secrets and hold none: ours, and a field of OpenAI's protocol."""


def validate_api(group: str, base_url: str | None, name: str | None, api: APIConfig) -> None:
    """Address, name and settings of a model behind an endpoint, as far as they can be judged without asking it.

    Args:
        group: the configuration's name for it in messages (``model`` or ``scorer``).
        base_url: the address, up to and without ``/chat/completions``.
        name: the endpoint's name for the model.
        api: how to ask.

    Raises:
        UserError: one is missing, or the address is none.
        SecretGiven: the address or the options hold what would end up in records.
    """
    if not name:
        raise UserError(f"{group}.name", None, "is missing", f"give the name that the endpoint knows: {group}.name=...")
    if not base_url:
        remedy = f"give the endpoint's address: {group}.base_url=http://127.0.0.1:8000/v1"
        raise UserError(f"{group}.base_url", None, "is missing", remedy)
    try:
        parts = urlsplit(base_url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or any(character.isspace() for character in base_url):
        raise UserError(f"{group}.base_url", base_url, "is no address", "write http://HOST:PORT/v1 or https://HOST/v1")
    refuse_secrets(f"{group}.base_url", base_url)
    _check_api_numbers(group, api)
    refuse_secrets(f"{group}.api.options", api.options)
    refuse_secrets(f"{group}.api.key_variable", api.key_variable)
    for option, remedy in RESERVED_OPTIONS[group].items():
        if (value := api.options.get(option)) is not None:
            rule = "would say otherwise than the keys that the record and the seeds go by"
            raise UserError(f"{group}.api.options.{option}", value, rule, remedy)


def _check_api_numbers(group: str, api: APIConfig) -> None:
    if api.protocol not in API_PROTOCOLS:
        remedy = f"choose {', '.join(API_PROTOCOLS)}"
        raise UserError(f"{group}.api.protocol", api.protocol, "is not a choice", remedy)
    for name in ("concurrency", "requests_per_minute", "timeout_seconds", "max_attempts", "max_wait_seconds"):
        value = getattr(api, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{group}.api.{name}", value, "must be above 0", "give a larger number")
    for name in ("backoff_seconds", "prompt_price", "response_price"):
        value = getattr(api, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{group}.api.{name}", value, "must be at least 0", "give 0 or more")


def refuse_secrets(key: str, value: Any) -> None:
    """Refuse what may be a key to an endpoint, without saying it.

    Args:
        key: dotted.
        value: what it holds; a mapping is looked into, whatever its depth.

    Raises:
        SecretGiven: ``key`` is a ``base_url`` with more than an address in it, or an entry whose name is a key's.
    """
    if isinstance(value, Mapping):
        for entry, inside in value.items():
            refuse_secrets(f"{key}.{entry}", inside)
        return
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Mapping | list | tuple):
                refuse_secrets(key, item)
    group, name = key.partition(".")[0], key.rpartition(".")[2].lower()
    remedy = "give a key in the environment variable that api.key_variable names"
    if name == "base_url" and any(mark in str(value) for mark in "@?#"):
        raise SecretGiven(key, None, "holds more than an address, and records would keep it", remedy)
    if name == "key_variable" and not re.fullmatch(r"[A-Za-z_]\w*", str(value)):
        raise SecretGiven(key, None, "holds no name of an environment variable, and records would keep it", remedy)
    if value is None or isinstance(value, bool) or str(value).lower() in ("", "null", "true", "false"):
        return
    if group in SECRET_GROUPS and sounds_secret(name):
        remedy = "log in with the hub's own client: hf auth login" if group == "hub" else remedy
        raise SecretGiven(key, None, "would be kept in records", remedy)


def sounds_secret(name: str) -> bool:
    """Whether what is called so may be a secret."""
    return name not in _NO_SECRETS and _SECRET.search(name.lower()) is not None


def refuse_secrets_in(argument: str) -> None:
    """Refuse secrets in the text of an override ``KEY=VALUE`` and in what a mapping sets.

    What cannot be read would be quoted in a message, and is searched as it stands.

    Raises:
        SecretGiven: as `refuse_secrets`.
    """
    key, _, value = argument.lstrip("+~").partition("=")
    refuse_secrets(key, value)
    if "{" not in value:
        return
    from harness.overrides import leaves, parsed

    for name, inside in leaves(argument):
        refuse_secrets(name, inside)
    if parsed(argument) is None:
        for name, inside in re.findall(r"""["']?([\w.-]+)["']?\s*:\s*([^,{}]*)""", value):
            refuse_secrets(f"{key}.{name}", inside)
