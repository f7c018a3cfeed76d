"""The client against ``transformers serve``: what it answers is what the model says greedily in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api.cache import AnswerCache
from harness.api.client import Client
from harness.api.endpoint import Endpoint
from harness.api.request import request_body
from harness.config import APIConfig
from harness.errors import UserError

pytestmark = pytest.mark.extended

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>"
TURNS = [["the red fox ?"], ["why ?", "it can .", "home ."], ["Grüße !"]]


@pytest.fixture
def served(make_lm: Callable[..., Any], tmp_path: Path) -> Any:
    """The folder of a small model with a chat template, and the address where it is served."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers serve needs transformers[serving]")
    from harness.models.loading import save

    folder = tmp_path / "policy"
    save(make_lm("llama", context=128), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = "from transformers.cli.transformers import main; main()"
    arguments = [
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", call, *arguments], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=120)


def greedy(folder: Path, text: str, limit: int) -> tuple[str, int, bool]:
    """What transformers generates in this process: the text, its tokens, and whether it ended by itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=limit, do_sample=False)[0, ids.shape[1] :]
    said = tokenizer.decode(out, skip_special_tokens=True).strip()
    return said, len(out), int(out[-1]) == tokenizer.eos_token_id


def test_answers_are_the_models_own(served: Any, dialogue_task: Any, tmp_path: Path) -> None:
    for protocol in ("chat", "completions"):
        compare(*served, dialogue_task, tmp_path, protocol)


def compare(folder: Path, base_url: str, dialogue_task: Any, tmp_path: Path, protocol: str) -> None:
    api = APIConfig(protocol=protocol, concurrency=2)
    client = Client(Endpoint(base_url, str(folder), api), AnswerCache(tmp_path / "cache"))
    options: dict[str, Any] = {"model": str(folder), "api": api, "max_tokens": 12, "temperature": 0.0}
    replies = client.ask([request_body(dialogue_task, {"turns": turns}, **options) for turns in TURNS])
    for turns, reply in zip(TURNS, replies, strict=True):
        text = dialogue_task.prompt({"turns": turns})
        if protocol == "chat":
            roles = ["user", "assistant", "user"][-len(turns) :]
            text = "".join(f"<{role}> {turn}\n" for role, turn in zip(roles, turns, strict=True)) + "<assistant>"
        said, count, ended = greedy(folder, text, 12)
        assert (reply.text, reply.response_tokens) == (said, count)
        assert reply.finish_reason == ("stop" if ended else "length")
    assert client.usage.uncounted == 0
    wrong = Client(Endpoint(base_url, "another", api), AnswerCache(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"refuses the request \(400 Server is pinned to"):
        wrong.ask([{**request_body(dialogue_task, {"turns": TURNS[0]}, **options), "model": "another"}])


@pytest.fixture
def dialogue_task() -> Any:
    from harness.tasks.dialogue import Dialogue

    return Dialogue()
