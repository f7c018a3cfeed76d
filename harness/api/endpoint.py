"""One request to an endpoint that speaks OpenAI's protocol, and what each way of failing means."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, urlsplit

from harness.config import APIConfig
from harness.errors import RunFailed, UserError

LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer that are read at most."""
TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""Statuses that another attempt may get past."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN = 200


class Reply(NamedTuple):
    """An answer.

    Args:
        text: what was said, stripped; empty where nothing was.
        finish_reason: why it ended: ``stop`` by itself, ``length`` at the limit, or the endpoint's own word.
        prompt_tokens: as the endpoint counts them; None where it does not say. Likewise ``response_tokens``.
        model: the name under which the endpoint answered.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    response_tokens: int | None
    model: str | None


def sound_reply(
    text: Any, finish_reason: Any = None, prompt_tokens: Any = None, response_tokens: Any = None, model: Any = None
) -> Reply:
    """An answer of the right types, from what an endpoint or a file holds; what is beside the text may be missing.

    Args:
        text: a string, a list of OpenAI's parts, of which those of type ``text`` are joined, or None for an empty one.
        finish_reason, model: strings; anything else becomes None.
        prompt_tokens, response_tokens: whole numbers from 0; anything else becomes None.

    Raises:
        TypeError: the text is none.
    """
    asked, answered = _count(prompt_tokens), _count(response_tokens)
    return Reply(_text(text), _word(finish_reason), asked, answered, _word(model))


class TransientError(Exception):
    """A failure that another attempt may get past; ``wait`` is how long the endpoint asks to wait, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(reason)


class Endpoint:
    """Where to ask, and with which key.

    Args:
        base_url: up to and without ``/chat/completions``.
        name: of the model.
        api: how to ask.
        group: the configuration's name for it in messages (``model`` or ``scorer``).

    Raises:
        UserError: the environment's key cannot be one.
    """

    def __init__(self, base_url: str, name: str, api: APIConfig, *, group: str = "model") -> None:
        self.base_url, self.name, self.api, self.group = base_url.rstrip("/"), name, api, group
        self.url = f"{self.base_url}/{'chat/completions' if api.protocol == 'chat' else 'completions'}"
        self._key = _key(api.key_variable, group)
        parts = urlsplit(self.url)
        self.host, self.port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        # A proxy of the environment cannot reach this machine's own loopback.
        proxies = [urllib.request.ProxyHandler({})] if self.host in _LOOPBACK else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)

    def require_reachable(self) -> None:
        """Find out in a moment whether anything listens there; behind a proxy that only a request can tell.

        Raises:
            UserError: nothing does.
        """
        if self.host not in _LOOPBACK and urllib.request.getproxies():
            return
        try:
            socket.create_connection((self.host, self.port), timeout=2.0).close()
        except OSError as error:
            reason = error.strerror or str(error)
            rule = f"cannot be reached ({reason})"
            raise UserError(f"{self.group}.base_url", self.base_url, rule, "start the server, or correct it") from None

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """One attempt.

        Raises:
            TransientError: another attempt may succeed.
            UserError: the address, the model's name, the key or the request's fields are wrong.
            RunFailed: the account's quota is used up.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "rlhf-harness"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.api.timeout_seconds) as response:
                raw = self._read(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:  # connection refused or cut, a name unknown, timeouts
            reason = getattr(error, "reason", None) or error
            raise TransientError(self._safe(f"{type(error).__name__}: {reason}")) from None
        return self._reply(raw)

    def _read(self, response: Any) -> bytes:
        """All of an answer, within the time limit as a whole: the socket's own limit starts anew with each byte."""
        deadline, parts, size = time.monotonic() + self.api.timeout_seconds, [], 0
        while part := response.read1(65536):
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise TransientError(f"an answer of more than {LARGEST_ANSWER} bytes")
            if time.monotonic() > deadline:
                raise TransientError(f"no whole answer within {self.api.timeout_seconds:g} seconds")
        return b"".join(parts)

    def _reply(self, raw: bytes) -> Reply:
        try:
            content = json.loads(raw)
            choice = content["choices"][0]
            said = choice["message"].get("content") if self.api.protocol == "chat" else choice["text"]
            usage = content.get("usage") or {}
            asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
            return sound_reply(said, choice.get("finish_reason"), asked, answered, content.get("model"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            shown = self._safe(raw.decode("utf-8", "replace"))  # before repr, which would spell a key differently
            raise TransientError(f"an answer that is none of the protocol ({shown!r})") from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means here."""
        status, group = error.code, self.group
        said, code = self._said(error)
        if status == 429 and code == "insufficient_quota":
            return RunFailed(f"{self.base_url}: the account's quota is used up ({said})")
        if status in TRANSIENT:
            return TransientError(f"{status} {said}", _retry_after(error.headers.get("Retry-After")))
        if status in (401, 403):
            variable = self.api.key_variable
            held = "holds a key that the server does not accept" if self._key else "is not set"
            rule = f"names an environment variable that {held} ({status} {said})"
            return UserError(f"{group}.api.key_variable", variable, rule, f"export {variable}=KEY")
        if 300 <= status < 400:
            rule = f"redirects to {self._safe(error.headers.get('Location') or 'nowhere')}"
            return UserError(f"{group}.base_url", self.base_url, rule, "give the address where it leads")
        if status == 404:
            rule = f"is not served at {self.base_url} ({status} {said})"
            remedy = f"correct it or {group}.base_url, which often ends in /v1"
            return UserError(f"{group}.name", self.name, rule, remedy)
        rule = f"refuses the request ({status} {said})"
        remedy = f"add, change or remove (null) a field of it with {group}.api.options"
        return UserError(f"{group}.base_url", self.base_url, rule, remedy)

    def _said(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        """The endpoint's own message and code, as far as there are any."""
        try:
            raw = error.read(LARGEST_ANSWER)
        except (OSError, http.client.HTTPException):
            raw = b""
        text, code = raw.decode("utf-8", "replace"), ""
        try:
            content = json.loads(raw)
            found = content.get("error", content.get("detail", content))
            text = str(found.get("message", found)) if isinstance(found, dict) else str(found)
            code = str(found.get("code") or found.get("type") or "") if isinstance(found, dict) else ""
        except (ValueError, AttributeError):
            pass
        return self._safe(text or error.reason), code

    def _safe(self, text: str) -> str:
        """One short line without the key, which endpoints like to quote: as it is, in JSON, or in an address."""
        said = str(text)
        for spelling in _spellings(self._key) if self._key else ():
            said = said.replace(spelling, "…")
        return " ".join(said.split())[:_SHOWN]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key would go with it, to whatever host it names."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _key(variable: str, group: str) -> str:
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        rule = "names an environment variable whose value cannot be a key (it holds more than printable ASCII)"
        raise UserError(f"{group}.api.key_variable", variable, rule, f"export {variable}=KEY")
    return key


def _spellings(key: str) -> list[str]:
    """How a key may be quoted, the longest first: one spelling may be a part of another."""
    found = {key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key), quote(key, safe=""), quote_plus(key)}
    return sorted(found | {" ".join(spelling.split()) for spelling in found}, key=len, reverse=True)


def _text(said: Any) -> str:
    """What was said, as text that can be written: half of a surrogate pair, which UTF-8 has no bytes for, is �."""
    if said is None:
        return ""
    if isinstance(said, list):
        said = "".join(part["text"] for part in said if part.get("type") == "text")
    if not isinstance(said, str):
        raise TypeError("no text")
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def _word(value: Any) -> str | None:
    return _text(value) if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _retry_after(value: str | None) -> float | None:
    """Seconds, from seconds or from a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
