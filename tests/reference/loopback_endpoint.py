"""A small server that speaks OpenAI's protocol on the loopback address, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Fault = Mapping[str, Any]


class LoopbackEndpoint:
    """Answers ``/v1/chat/completions`` and ``/v1/completions``.

    Args:
        say: the request's body -> what to answer.
        faults: for each request in the order of arrival, what goes wrong: ``status`` with ``headers`` and ``error``
            (its body), ``raw`` (bytes instead of JSON), ``cut`` (the connection ends in the middle), ``sleep``,
            ``drip`` (a byte every so many seconds), ``reply`` (fields that replace those of a good answer). An empty
            one, and all requests after the last, are answered well.
    """

    def __init__(self, say: Callable[[Body], str] = lambda body: "fine .", faults: list[Fault] | None = None) -> None:
        self.say, self.faults = say, list(faults or [])
        self.requests: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = self._now = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def arrives(self, path: str, body: Body, headers: dict[str, str]) -> Fault:
        with self.lock:
            self.requests.append({"path": path, **body})
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.faults.pop(0) if self.faults else {}

    def leaves(self) -> None:
        with self.lock:
            self._now -= 1


def answer(path: str, body: Body, text: str) -> Body:
    """A good answer, with one token per word."""
    said = body["prompt"] if "prompt" in body else " ".join(message["content"] for message in body["messages"])
    words = text.split()
    limit = body.get("max_tokens", len(words))
    shown = " ".join(words[:limit])
    choice: Body = {"index": 0, "finish_reason": "stop" if len(words) <= limit else "length"}
    choice |= {"message": {"role": "assistant", "content": shown}} if "chat" in path else {"text": shown}
    counts = {"prompt_tokens": len(said.split()), "completion_tokens": min(len(words), limit)}
    return {"object": "x", "model": f"{body['model']}-served", "choices": [choice], "usage": counts}


def _handler(endpoint: LoopbackEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = endpoint.arrives(self.path, body, dict(self.headers.items()))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
                self._answer(body, fault)

        do_GET = do_POST

        def _answer(self, body: Body, fault: Fault) -> None:
            time.sleep(fault.get("sleep", 0.0))
            endpoint.leaves()  # before its answer does: who has it asks the next at once
            status = fault.get("status", 200)
            content = {**answer(self.path, body, endpoint.say(body)), **fault.get("reply", {})}
            raw = fault.get("raw")
            if raw is None:
                raw = json.dumps(
                    content if status == 200 else fault.get("error", {"error": {"message": "no"}})
                ).encode()
            self.send_response(status)
            for name, value in fault.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if fault.get("cut"):
                self.wfile.write(raw[: len(raw) // 2])
                return
            if "drip" in fault:
                for byte in raw:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(fault["drip"])
                return
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests look at what arrived."""

    return Handler
