"""The client against a server that misbehaves on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from harness.api.cache import AnswerCache
from harness.api.client import Client, Pace
from harness.api.endpoint import Endpoint, Reply
from harness.config import APIConfig
from harness.errors import RunFailed, UserError

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., Client]:
    """(server, settings of APIConfig) -> a client whose back-off takes no time."""

    def make(server: Any, **api: Any) -> Client:
        settings = APIConfig(**{"backoff_seconds": 0.0, "timeout_seconds": 5.0, **api})
        base_url = server if isinstance(server, str) else server.base_url
        return Client(Endpoint(base_url, "m", settings), AnswerCache(tmp_path / "cache"))

    return make


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def echo(request: dict[str, Any]) -> str:
    return f"you said {request['messages'][-1]['content']}"


def test_answers_come_in_the_order_of_the_requests(endpoint: Any, client: Any) -> None:
    """The first answers take longest, and four are asked for at a time."""
    server = endpoint(echo, [{"sleep": 0.2}, {"sleep": 0.1}])
    asked, done = [body(f"word {i}") for i in range(9)], []
    made = client(server, concurrency=4)
    replies = made.ask(asked, done.append)
    assert [reply.text for reply in replies] == [f"you said word {i}" for i in range(9)]
    assert sum(done) == 9
    assert 2 <= server.most_at_once <= 4
    usage = made.usage
    assert (usage.answers, usage.asked, usage.retries, usage.models) == (9, 9, 0, ["m-served"])
    assert (usage.prompt_tokens, usage.response_tokens, usage.cost) == (18, 36, None)


def test_an_answer_is_asked_for_once(endpoint: Any, client: Any) -> None:
    server = endpoint(echo)
    first = client(server).ask([body("a"), body("b")])
    again = client(server, prompt_price=1.0, response_price=10.0)
    assert again.ask([body("b"), body("a")]) == first[::-1]
    assert len(server.requests) == 2
    assert again.usage.asked == 0
    # 1 + 1 words asked, 3 + 3 answered: (2 × 1 + 6 × 10) / 10⁶
    assert again.usage.cost == pytest.approx(62e-6)
    client(server).ask([body("a", temperature=1)])
    assert len(server.requests) == 3


@pytest.mark.parametrize("concurrency", [1, 5])
def test_equal_requests_of_one_call_are_asked_once(concurrency: int, endpoint: Any, client: Any) -> None:
    """At the same time too; else each would be paid for, and they might differ."""
    server = endpoint(lambda request: f"{time.monotonic()}", [{"sleep": 0.1}] * 5)
    asked, done = [body("a"), body("b"), body("a"), body("a"), {**body("a")}], []
    made = client(server, concurrency=concurrency)
    replies = made.ask(asked, done.append)
    assert len({reply.text for reply in replies}) == len(server.requests) == 2
    assert replies[0] == replies[2] == replies[3] == replies[4]
    assert sum(done) == 5
    assert (made.usage.answers, made.usage.asked) == (5, 2)
    assert made.ask(asked) == replies


def test_a_broken_cache_file_is_asked_again(endpoint: Any, client: Any, tmp_path: Path) -> None:
    server = endpoint(echo)
    client(server).ask([body("a")])
    (path,) = (tmp_path / "cache").glob("*/*.json")
    kept = path.read_text()
    for broken in (
        "",
        "{}",
        kept.replace('"finish_reason"', '"other"'),
        kept.replace('"content": "a"', '"content": "z"'),
    ):
        path.write_text(broken)
        assert client(server).ask([body("a")])[0].text == "you said a"
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "raw": b"<html>busy</html>"},
        {"status": 429},
        {"raw": b"not json"},
        {"raw": b'{"choices": []}'},
        {"raw": b'{"choices": [{"message": {"content": 3}}]}'},
        {"raw": b"[]"},
        {"raw": b'{"error": {"message": "overloaded"}}'},
        {"cut": True},
        {"sleep": 0.6},
        {"drip": 0.05},
    ],
    ids=str,
)
def test_what_passes_is_tried_again(fault: dict[str, Any], endpoint: Any, client: Any) -> None:
    server = endpoint(echo, [fault, fault])
    made = client(server, timeout_seconds=0.3, max_attempts=3)
    assert made.ask([body("a")])[0].text == "you said a"
    assert (len(server.requests), made.usage.retries) == (3, 2)
    server = endpoint(echo, [fault] * 2)
    with pytest.raises(RunFailed, match=r"failed 2 times, last with: .*; answers so far are kept"):
        client(server, timeout_seconds=0.3, max_attempts=2).ask([body("b")])


def test_a_server_that_is_gone_ends_in_words(endpoint: Any, client: Any) -> None:
    server = endpoint()
    made = client(server, max_attempts=2)
    server.close()
    with pytest.raises(RunFailed, match=r"failed 2 times, last with: .*[Cc]onnection refused"):
        made.ask([body("a")])
    with pytest.raises(
        UserError, match=r"model\.base_url=http://127.* cannot be reached \(Connection refused\); start"
    ):
        made.endpoint.require_reachable()


@pytest.mark.parametrize("wait", ["0.5", "date"])
def test_retry_after_holds_everyone(wait: str, endpoint: Any, client: Any) -> None:
    """The first request is refused for a while; no other one arrives before that is over."""
    value = formatdate(time.time() + 2, usegmt=True) if wait == "date" else wait
    server = endpoint(echo, [{"status": 429, "headers": {"Retry-After": value}}])
    made = client(server, concurrency=1)
    made.ask([body(f"{i}") for i in range(3)])
    assert len(server.requests) == 4
    assert made.usage.retries == 1
    assert server.times[1] - server.times[0] >= 0.45
    assert server.times[3] - server.times[1] < 0.45


def test_a_wait_beyond_the_limit_ends_the_run(endpoint: Any, client: Any) -> None:
    server = endpoint(echo, [{"status": 429, "headers": {"Retry-After": "3600"}}])
    with pytest.raises(RunFailed, match=r"asks to wait 3600 s, longer than model\.api\.max_wait_seconds=120"):
        client(server).ask([body("a")])


def test_back_off_grows(endpoint: Any, client: Any) -> None:
    server = endpoint(echo, [{"status": 500}] * 3)
    client(server, backoff_seconds=0.1, concurrency=1).ask([body("a")])
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert all(
        low <= gap <= high + 0.15 for gap, (low, high) in zip(gaps, [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4)], strict=True)
    )


def test_requests_per_minute_are_kept(endpoint: Any, client: Any) -> None:
    """600 a minute: at least a tenth of a second apart, however many ask at a time."""
    server = endpoint(echo)
    client(server, requests_per_minute=600, concurrency=5).ask([body(f"{i}") for i in range(5)])
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert min(gaps) > 0.05
    assert server.times[-1] - server.times[0] >= 0.38


def test_after_a_wait_requests_leave_one_by_one_again() -> None:
    """Five have their turns, a twentieth of a second apart, when all are asked to wait for half a second."""
    pace, stop, times = Pace(1200), threading.Event(), []

    def go() -> None:
        pace.turn(stop)
        times.append(time.monotonic())

    pace.turn(stop)
    threads = [threading.Thread(target=go) for _ in range(5)]
    for thread in threads:
        thread.start()
    held = time.monotonic()
    pace.hold(0.5)
    for thread in threads:
        thread.join()
    times.sort()
    assert times[0] - held >= 0.49
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.02
    assert times[-1] - times[0] >= 0.19


def test_a_turn_does_not_keep_who_must_stop() -> None:
    pace, stop = Pace(1), threading.Event()
    pace.turn(stop)
    pace.hold(100)
    stop.set()
    began = time.monotonic()
    pace.turn(stop)
    assert time.monotonic() - began < 1


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no key": (
        {"status": 401, "error": {"error": {"message": "Missing key"}}},
        "model.api.key_variable=HARNESS_API_KEY names an environment variable that is not set (401 Missing key);"
        " export HARNESS_API_KEY=KEY",
    ),
    "forbidden": (
        {"status": 403, "raw": b"nope"},
        "model.api.key_variable=HARNESS_API_KEY names an environment variable that is not set (403 nope);"
        " export HARNESS_API_KEY=KEY",
    ),
    "no such model": (
        {"status": 404, "error": {"error": {"message": "model m unknown"}}},
        "model.name=m is not served at {base_url} (404 model m unknown); correct it or model.base_url,"
        " which often ends in /v1",
    ),
    "a field too many": (
        {"status": 400, "error": {"detail": "max_tokens is not known"}},
        "model.base_url={base_url} refuses the request (400 max_tokens is not known); add, change or remove (null)"
        " a field of it with model.api.options",
    ),
    "redirect": (
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/v1"}},
        "model.base_url={base_url} redirects to http://127.0.0.1:1/v1; give the address where it leads",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_at_once(name: str, endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_API_KEY", raising=False)
    fault, message = MISTAKES[name]
    server = endpoint(echo, [fault] * 20)
    with pytest.raises(UserError) as caught:
        client(server, concurrency=2).ask([body(f"{i}") for i in range(20)])
    assert str(caught.value) == message.replace("{base_url}", server.base_url)
    assert len(server.requests) <= 4


def test_a_used_up_quota_is_not_asked_again(endpoint: Any, client: Any) -> None:
    error = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    server = endpoint(echo, [{"status": 429, "error": error}])
    with pytest.raises(RunFailed, match="quota is used up"):
        client(server).ask([body("a")])
    assert len(server.requests) == 1


def test_finished_answers_outlive_a_failure(endpoint: Any, client: Any) -> None:
    server = endpoint(echo, [{}, {}, {"status": 404}])
    with pytest.raises(UserError):
        client(server, concurrency=1).ask([body(f"{i}") for i in range(5)])
    made = client(server, concurrency=1)
    assert len(made.ask([body(f"{i}") for i in range(5)])) == 5
    assert made.usage.asked == 3


def test_answers_without_text_and_without_counts(endpoint: Any, client: Any) -> None:
    """A refusal has no content, some servers count nothing, and content may come in parts."""
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}, {"type": "image"}]
    choices = [{"message": {"content": said}, "finish_reason": "stop"} for said in (None, parts)]
    faults = [{"reply": {"choices": [choice], "usage": None, "model": None}} for choice in choices]
    made = client(endpoint(echo, faults), concurrency=1, prompt_price=1.0, response_price=1.0)
    assert [reply.text for reply in made.ask([body("1"), body("2")])] == ["", "a b"]
    assert (made.usage.uncounted, made.usage.cost, made.usage.models) == (2, None, [])


@pytest.mark.parametrize("odd", [{"id": "m"}, ["m"], 3, True])
def test_what_stands_beside_the_text_is_a_word_or_nothing(odd: Any, endpoint: Any, client: Any, tmp_path: Path) -> None:
    choice = {"message": {"content": "fine"}, "finish_reason": odd}
    made = client(endpoint(echo, [{"reply": {"choices": [choice], "model": odd}}]))
    assert made.ask([body("a")]) == [Reply("fine", None, 1, 3, None)]
    assert made.usage.models == []
    (path,) = (tmp_path / "cache").glob("*/*.json")
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "reply": {**kept["reply"], "model": odd, "finish_reason": odd}}))
    assert client("http://127.0.0.1:9/v1").cache.get(made.endpoint.url, body("a")) == Reply("fine", None, 1, 3, None)


def test_half_a_character_is_the_same_text_now_and_from_disk(endpoint: Any, client: Any) -> None:
    """JSON may hold half of a surrogate pair, which no file can; a whole pair is one character."""
    raw = b'{"choices": [{"message": {"content": "a \\ud83d b \\ud83d\\ude00"}}]}'
    server = endpoint(echo, [{"raw": raw}])
    first = client(server).ask([body("a")])
    assert first[0].text == "a \N{REPLACEMENT CHARACTER} b \N{GRINNING FACE}"
    assert client(server).ask([body("a")]) == first
    assert len(server.requests) == 1


# ---- the key


def test_the_key_goes_to_the_server_and_nowhere_else(
    endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Endpoints quote keys in their complaints, and a redirect would carry one to another host."""
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    elsewhere = endpoint()
    quoting = {"error": {"message": f"Incorrect key {KEY} for Bearer {KEY}"}}
    server = endpoint(echo, [{"status": 500, "error": quoting}, {}, {"status": 401, "error": quoting}])
    made = client(server, key_variable="MY_KEY", concurrency=1)
    made.ask([body("a")])
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    said = []
    with pytest.raises(UserError) as caught:
        made.ask([body("b")])
    said.append(str(caught.value))
    assert "holds a key that the server does not accept (401 Incorrect key … for Bearer …)" in said[0]
    server.faults = [{"status": 500, "error": quoting}] * 9
    with pytest.raises(RunFailed) as failed:
        made.ask([body("c")])
    said.append(str(failed.value))
    server.faults = [{"status": 307, "headers": {"Location": f"{elsewhere.base_url}/chat/completions"}}]
    with pytest.raises(UserError, match="redirects to"):
        made.ask([body("d")])
    assert elsewhere.requests == []
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not any(KEY in text for text in (*said, *kept, json.dumps(server.requests)))


@pytest.mark.parametrize("key", [KEY, "sk-\\back'sl\"ash/+ 0123456789"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 302, "headers": {"Location": "http://elsewhere/?k={key}"}},
        {"status": 302, "headers": {"Location": "http://elsewhere/?k={quoted}"}},
        {"status": 400, "raw": "no {key}"},
        {"status": 500, "raw": '{{"message": "no {escaped}"'},
        {"raw": "no JSON: {key}"},
        {"raw": "{padding}{key}"},
        {"raw": '{{"key": "{escaped}"}}'},
    ],
    ids=str,
)
def test_however_a_key_is_spelt_it_is_not_said(
    key: str, fault: dict[str, Any], endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spelt = {"key": key, "quoted": quote(key), "escaped": json.dumps(key)[1:-1], "padding": "x" * 190}
    monkeypatch.setenv("HARNESS_API_KEY", key)
    told = dict(fault)
    if "raw" in fault:
        told["raw"] = fault["raw"].format(**spelt).encode()
    else:
        told["headers"] = {"Location": fault["headers"]["Location"].format(**spelt)}
    with pytest.raises((UserError, RunFailed)) as caught:
        client(endpoint(echo, [told]), max_attempts=1).ask([body("a")])
    for spelling in (key, key[:5], quote(key)[:7], repr(key)[1:8]):
        assert spelling not in str(caught.value)
    assert "…" in str(caught.value)


def test_a_value_that_is_no_key_is_refused_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(UserError, match=r"model\.api\.key_variable=MY_KEY names") as caught:
        Endpoint("http://127.0.0.1:1/v1", "m", APIConfig(key_variable="MY_KEY"))
    assert KEY not in str(caught.value)


def test_no_key_no_header(endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = endpoint(echo)
    client(server).ask([body("a")])
    assert "Authorization" not in server.headers[0]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client(endpoint(echo), max_attempts=1).ask([body("a")])[0].text == "you said a"
