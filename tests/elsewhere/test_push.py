"""Pushing to a hub on the loopback address, through the hub's own client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.records import read_records

pytestmark = pytest.mark.extended

TOKENS = {"hf_writer": "ada", "hf_reader": "bob"}
"""Token -> account. Bob's may only read."""


class UploadHub:
    """The part of a hub that takes uploads: accounts, repositories, and commits of small files."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.broken = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.reply(*hub.get(self.path, self.account()))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply(*hub.post(self.path.partition("?")[0], body, self.account()))

            def account(self) -> str | None:
                return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

            def reply(self, status: int, answer: Any) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def get(self, path: str, account: str | None) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            if account is None:
                return 401, {"error": "Invalid username or password."}
            return 200, {"name": account, "type": "user", "orgs": [{"name": "lab"}]}
        return 404, {"error": "not here"}

    def post(self, path: str, body: bytes, account: str | None) -> tuple[int, Any]:
        if account != "ada":
            return 403, {"error": "read-only token"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization'] or account}/{asked['name']}"
            known = repo in self.repositories
            self.repositories.setdefault(repo, asked)
            return (409 if known else 200), {"url": f"{self.address}/{repo}", "name": repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path and not self.broken:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.messages.append(line["value"]["summary"])
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.files.setdefault(repo, {})[line["value"]["path"]] = content
            return 200, {"commitUrl": f"{self.address}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40}
        return 400, {"error": "the disk is full"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    """A running hub, to which the client in this process talks with Ada's token."""
    made = UploadHub()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def scoring(our_models: dict[str, Path], tmp_path: Path) -> list[str]:
    """A job that scores two finished policies: seconds, and all that is pushed."""
    given = ["experiment=smoke", "algorithm=load", f"algorithm.path={our_models['ppo']}", "judge=none", "sft=load"]
    given += [f"sft.path={our_models['sft']}", "evaluation.fixed_rows=[references]", f"output_dir={tmp_path}/runs"]
    return [*given, "candidate=mine", "hub=push", "hub.license=mit"]


def test_models_and_their_cards_are_pushed(
    harness: Callable[..., int], hub: UploadHub, scoring: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert harness(*scoring, "hub.repo=ada/policy", "hub.parts=[algorithm,sft]") == 0
    assert {repo: asked["visibility"] for repo, asked in hub.repositories.items()} == {
        "ada/policy": "private",
        "ada/policy-sft": "private",
    }
    assert hub.messages[0].startswith("mine: load-")
    for repo, stage in (("ada/policy", "load"), ("ada/policy-sft", "sft")):
        (folder,) = (tmp_path / "runs" / "stages").glob(f"{stage}-*/model")
        assert hub.files[repo] == {path.name: path.read_bytes() for path in folder.iterdir()}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in hub.files["ada/policy"].items():
        (copy / name).write_bytes(content)
    assert AutoModelForCausalLM.from_pretrained(copy).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(copy).eos_token is not None
    card = ModelCard.load(copy / "README.md")
    assert card.data.license == "mit"
    assert card.data.eval_results
    said = capfd.readouterr().out
    assert f"to {hub.address}/ada/policy\n" in said
    kept = "".join(path.read_text() for path in (tmp_path / "runs").rglob("*.json*"))
    assert "hf_writer" not in said + kept + card.content


def test_a_second_push_is_a_commit_to_the_same_repository(
    harness: Callable[..., int], hub: UploadHub, scoring: list[str]
) -> None:
    for _ in range(2):
        assert harness(*scoring, "hub.repo=lab/policy", "hub.private=false") == 0
    assert len(hub.messages) == 2
    assert hub.repositories["lab/policy"]["visibility"] == "public"


REFUSED: dict[str, tuple[list[str], str | None, str]] = {
    "no token": (
        ["hub.repo=ada/policy"],
        None,
        "hub.push=true needs a token and finds none; log in with `hf auth login`, or set HF_TOKEN",
    ),
    "a token that is not known": (
        ["hub.repo=ada/policy"],
        "hf_nobody",
        "hub.push=true has a token that the hub does not accept; log in with `hf auth login`, or set HF_TOKEN anew",
    ),
    "another's namespace": (
        ["hub.repo=eve/policy"],
        "hf_writer",
        "hub.repo=eve/policy is in nobody's namespace that ada may write to; choose one of ada, lab",
    ),
    "no repository": (["hub.repo=policy"], "hf_writer", "hub.repo=policy is no repository; write OWNER/NAME"),
    "a part that this job has not": (
        ["hub.repo=ada/policy", "hub.parts=[reward_model]"],
        "hf_writer",
        "hub.parts=reward_model is no model of this job; choose among algorithm, sft",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pushed_is_said_before_any_work(
    name: str,
    harness: Callable[..., int],
    hub: UploadHub,
    scoring: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given, token, message = REFUSED[name]
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert harness(*scoring, *given) == 2
    assert capfd.readouterr().err == message + "\n"
    assert not (tmp_path / "runs" / "stages").exists()


def test_offline_is_said_before_any_work(
    harness: Callable[..., int],
    hub: UploadHub,
    scoring: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert harness(*scoring, "hub.repo=ada/policy") == 2
    assert capfd.readouterr().err == (
        "hub.push=true needs the hub, and HF_HUB_OFFLINE is set; unset it, or leave hub=push out\n"
    )


def test_a_hub_that_does_not_answer_is_said_before_any_work(
    harness: Callable[..., int],
    hub: UploadHub,
    scoring: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the port of `discard`
    assert harness(*scoring, "hub.repo=ada/policy") == 2
    error = capfd.readouterr().err
    assert error.startswith("hub.repo=ada/policy could not be pushed (")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("token", "broken", "message"),
    [
        ("hf_reader", False, "hub.repo=lab/policy is not ours to write to (403); use a token with the right to write"),
        ("hf_writer", True, "hub.repo=lab/policy could not be pushed ("),
    ],
)
def test_a_push_that_fails_leaves_the_result(
    harness: Callable[..., int],
    hub: UploadHub,
    scoring: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    token: str,
    broken: bool,
    message: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.broken = broken
    assert harness(*scoring, "hub.repo=lab/policy") == 2
    error = capfd.readouterr().err
    assert error.startswith(message)
    assert len(error.splitlines()) == 1
    (record,) = (r for r in read_records(tmp_path / "runs" / "records") if not r["fixed"])
    assert record["status"] == "ok"


def test_a_sweep_names_its_jobs_in_the_repository(
    harness: Callable[..., int], hub: UploadHub, scoring: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert harness("-m", *scoring, "seed=1,2", "hub.repo=ada/policy") == 2
    assert "hub.repo=ada/policy would take the models of every job of the sweep" in capfd.readouterr().err
    assert not hub.repositories
    assert harness("-m", *scoring, "seed=1,2", "hub.repo=ada/policy-${seed}") == 0
    assert set(hub.repositories) == {"ada/policy-1", "ada/policy-2"}
