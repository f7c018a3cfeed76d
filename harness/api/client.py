"""Many requests to an endpoint: several at a time, within its limits, again where they fail, and none twice."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.api.cache import AnswerCache
from harness.api.endpoint import Endpoint, Reply, TransientError
from harness.errors import RunFailed

Body = Mapping[str, Any]


@dataclass
class Usage:
    """What a set of answers took.

    Args:
        answers: how many there are.
        asked: of them, how many were asked for now; the others were on disk.
        retries: attempts that failed and were made again.
        prompt_tokens: of all answers, as the endpoint counts; likewise ``response_tokens``.
        uncounted: answers whose tokens the endpoint did not state.
        cost: of all answers at the stated prices, as if none had been on disk; None where prices or counts are missing.
        models: the names under which the endpoint answered.
    """

    answers: int = 0
    asked: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    uncounted: int = 0
    cost: float | None = None
    models: list[str] = field(default_factory=list)


class Client:
    """Asks an endpoint. `usage` tells what all calls so far took.

    Args:
        endpoint: where to ask.
        cache: where answers are kept.
    """

    def __init__(self, endpoint: Endpoint, cache: AnswerCache) -> None:
        self.endpoint, self.cache, self.api = endpoint, cache, endpoint.api
        self.pace = Pace(self.api.requests_per_minute)
        self._replies: list[Reply] = []
        self._asked = self._retries = 0
        self._lock = threading.Lock()

    def ask(self, bodies: Sequence[Body], advance: Callable[[int], None] = lambda count: None) -> list[Reply]:
        """The answers, in the order of the requests. Finished answers stay on disk, whatever ends the others.

        Equal requests are asked once, and share their answer: a prompt that comes twice, say.

        Raises:
            UserError, RunFailed: the first failure that no further attempt could get past.
        """
        found = [self.cache.get(self.endpoint.url, body) for body in bodies]
        advance(sum(reply is not None for reply in found))
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Reply | BaseException]] = queue.SimpleQueue()
        equal: dict[str, list[int]] = {}
        for row, reply in enumerate(found):
            if reply is None:
                equal.setdefault(json.dumps(bodies[row], sort_keys=True), []).append(row)
        missing = {rows[0]: rows for rows in equal.values()}
        for row in missing:
            todo.put(row)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    row = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((row, self._ask(bodies[row], stop)))
                except BaseException as error:
                    stop.set()
                    done.put((row, error))

        # Daemons: an interrupted run does not wait for answers that are under way.
        for _ in range(min(self.api.concurrency, len(missing))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in missing:
                row, outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                for each in missing[row]:
                    found[each] = outcome
                advance(len(missing[row]))
        finally:
            stop.set()
        replies = [reply for reply in found if reply is not None]
        self._replies += replies
        return replies

    def _ask(self, body: Body, stop: threading.Event) -> Reply:
        """One answer: from disk where an equal request was answered meanwhile, else by as many attempts as allowed."""
        reply = self.cache.get(self.endpoint.url, body)
        attempt = 0
        while reply is None:
            self.pace.turn(stop)
            if stop.is_set():
                raise RunFailed("another request ended the run")
            attempt += 1
            try:
                reply = self.endpoint.ask(body)
            except TransientError as error:
                self._wait(error, attempt, stop)
            else:
                self.cache.put(self.endpoint.url, body, reply)
                with self._lock:
                    self._asked += 1
        return reply

    def _wait(self, error: TransientError, attempt: int, stop: threading.Event) -> None:
        """Wait as long as the endpoint asks, all threads with it; else twice as long after each attempt, give or take.

        Raises:
            RunFailed: that was the last attempt, or the endpoint asks to wait longer than allowed.
        """
        if attempt >= self.api.max_attempts:
            times = "once" if attempt == 1 else f"{attempt} times"
            raise RunFailed(f"{self.endpoint.base_url} failed {times}, last with: {error}; answers so far are kept")
        if error.wait is not None and error.wait > self.api.max_wait_seconds:
            group = self.endpoint.group
            rule = f"asks to wait {error.wait:.0f} s, longer than {group}.api.max_wait_seconds"
            raise RunFailed(f"{self.endpoint.base_url} {rule}={self.api.max_wait_seconds:g}; answers so far are kept")
        with self._lock:
            self._retries += 1
        if error.wait is not None:
            self.pace.hold(error.wait)
            return
        longest = min(self.api.backoff_seconds * 2 ** (attempt - 1), self.api.max_wait_seconds)
        stop.wait(longest * random.uniform(0.5, 1.0))  # what is drawn here decides no number

    @property
    def usage(self) -> Usage:
        replies, api = self._replies, self.api
        prompt = sum(reply.prompt_tokens or 0 for reply in replies)
        response = sum(reply.response_tokens or 0 for reply in replies)
        uncounted = sum(reply.prompt_tokens is None or reply.response_tokens is None for reply in replies)
        cost = None
        if api.prompt_price is not None and api.response_price is not None and not uncounted:
            cost = (prompt * api.prompt_price + response * api.response_price) / 1e6
        models = sorted({reply.model for reply in replies if reply.model})
        return Usage(len(replies), self._asked, self._retries, prompt, response, uncounted, cost, models)


class Pace:
    """When the next request may go out, for all threads together.

    Args:
        requests_per_minute: requests leave at least 60 s divided by this apart; None for no limit of our own.
    """

    def __init__(self, requests_per_minute: int | None) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = self._resume = 0.0
        self._lock = threading.Lock()

    def turn(self, stop: threading.Event) -> None:
        """Wait for a turn of one's own; returns at once where ``stop`` is set."""
        while not stop.is_set():
            with self._lock:
                now = time.monotonic()
                at = max(self._next, self._resume, now)
                self._next = at + self._gap
            stop.wait(at - now)
            if at >= self._resume:  # else asked to wait meanwhile: this turn lapses, or all of them would go at once
                return

    def hold(self, seconds: float) -> None:
        """Let nobody go for so long."""
        with self._lock:
            self._resume = max(self._resume, time.monotonic() + seconds)
