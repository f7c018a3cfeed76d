"""A model behind an endpoint as a row of the table: what runs, what is kept, and what is refused."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.api.checks import refuse_secrets
from harness.errors import SecretGiven
from harness.records import read_records

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python -m harness experiment=smoke model=api`` in a folder of its own; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "TOKENIZERS_PARALLELISM", cli.STATUS_FOLDER):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HARNESS_API_KEY", KEY)

    def run(*arguments: str) -> int:
        given = ["experiment=smoke", "hardware.threads=1", "model=api", "model.name=m", *arguments]
        monkeypatch.setattr(sys, "argv", ["harness", *given])
        return cli.main()

    return run


def polite(request: dict[str, Any]) -> str:
    return f"Thank you , I see : {request['messages'][-1]['content']}"


@pytest.mark.extended
def test_an_endpoint_is_a_row_without_training(
    harness: Callable[..., int], endpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = endpoint(polite, [{"status": 500, "error": {"error": {"message": f"bad {KEY}"}}}])
    given = ("task=dialogue", f"model.base_url={server.base_url}", "model.api.backoff_seconds=0")
    prices = ("model.api.prompt_price=2", "model.api.response_price=4")
    assert harness(*given, *prices) == 0
    out = capsys.readouterr()
    stages = {path.parent.name.rpartition("-")[0] for path in Path("runs/stages").glob("*/manifest.json")}
    assert stages == {"data", "answers", "judge", "evaluation"}
    records = {record["candidate"]: record for record in read_records(Path("runs/records"))}
    name = f"experiment=smoke,model.base_url={server.base_url[7:-3]},model.name=m,model=api"
    assert set(records) == {name, "references", "copy-input", "empty", "longest"}
    made = records[name]
    assert (made["status"], made["algorithm"], made["feedback"], made["model"]) == ("ok", "", "", "m")
    assert made["metrics"]["bleu"]["before"] is None
    assert made["metrics"]["gold"]["after"] is not None
    assert made["win_rates"]["judge"] is None
    assert made["win_rates"]["reference"] is not None
    usage = made["api"]
    assert (usage["answers"], usage["asked"], usage["retries"], usage["models"]) == (32, 32, 1, ["m-served"])
    assert usage["cost"] == pytest.approx((2 * usage["prompt_tokens"] + 4 * usage["response_tokens"]) / 1e6)
    assert len(server.requests) == 33
    assert {request["max_tokens"] for request in server.requests} == {made["config"]["task"]["max_response_tokens"]}
    assert {request["temperature"] for request in server.requests} == {0}
    assert server.requests[-1]["messages"][-1]["role"] == "user"
    with Path("runs/leaderboard/leaderboard.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["candidate"] == name)
    assert row["rank"]
    assert (row["bleu_before"], row["win_rate"]) == ("", "")
    texts = [path.read_text(errors="replace") for path in Path("runs").rglob("*") if path.is_file()]
    assert len(texts) > 40
    assert not any(KEY in text for text in (*texts, out.out, out.err))
    # Another seed asks nothing: greedy answers do not depend on it. Nor does a judge's absence.
    assert harness(*given, "seed=2") == 0
    assert harness(*given, "judge=none", "model.api.concurrency=1") == 0
    assert len(server.requests) == 33


def test_drawn_answers_depend_on_the_seed(harness: Callable[..., int], endpoint: Any) -> None:
    server = endpoint(polite)
    given = ("task=dialogue", f"model.base_url={server.base_url}", "judge=none", "evaluation.temperature=0.7")
    assert harness("-m", *given, "seed=1,2", "evaluation.fixed_rows=[references]") == 0
    assert sorted({request["seed"] for request in server.requests}) == [1, 2]
    assert len(server.requests) == 64


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["model.api.options={temperature: null}"], [{"seed": 1}, {"seed": 2}]),
        (["model.api.options={temperature: null, seed: null}"], [{}, {}]),
        (["evaluation.temperature=0.7", "model.api.options.seed=null"], [{"temperature": 0.7}, {"temperature": 0.7}]),
        (["model.api.options={seed: null, n: null}"], [{"temperature": 0.0}]),
    ],
    ids=str,
)
def test_seeds_are_samples_of_their_own_wherever_chance_is(
    given: list[str], sent: list[dict[str, Any]], harness: Callable[..., int], endpoint: Any
) -> None:
    server = endpoint(polite)
    shared = ("task=dialogue", f"model.base_url={server.base_url}", "judge=none", "evaluation.fixed_rows=[]")
    for seed in (1, 2):
        assert harness(*shared, *given, f"seed={seed}") == 0
    told = [{name: request[name] for name in ("seed", "temperature") if name in request} for request in server.requests]
    assert told == [each for each in sent for _ in range(32)]


@pytest.mark.parametrize("option", ["temperature=1", "seed=3", "n=2", "max_tokens=5", "stream=true", "model=x"])
def test_what_has_a_key_of_its_own_is_no_option(
    option: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness("task=dialogue", URL, f"+model.api.options.{option}") == 2
    remedies = {
        "temperature": "set evaluation.temperature",
        "seed": "set seed",
        "max_tokens": "set task.max_response_tokens",
        "model": "set model.name",
    }
    remedy = remedies.get(option.partition("=")[0], "leave it out: one answer is read whole")
    rule = "would say otherwise than the keys that the record and the seeds go by"
    assert capsys.readouterr().err == f"model.api.options.{option.replace('true', 'True')} {rule}; {remedy}\n"


def test_a_failing_endpoint_keeps_its_record_and_its_answers(
    harness: Callable[..., int], endpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = endpoint(polite, [{}] * 5 + [{"status": 401, "error": {"error": {"message": f"no {KEY}"}}}])
    given = ("task=dialogue", f"model.base_url={server.base_url}", "model.api.concurrency=1")
    assert harness(*given) == 2
    assert "holds a key that the server does not accept (401 no …)" in capsys.readouterr().err
    (record,) = read_records(Path("runs/records"))
    assert record["status"] == "failed"
    assert not list(Path("runs/stages").glob("judge-*"))  # the answers come before what takes time
    assert len(list(Path("runs/answers").glob("*/*.json"))) == 5
    assert harness(*given) == 0
    assert len(server.requests) == 6 + 27
    assert not any(KEY in path.read_text(errors="replace") for path in Path("runs").rglob("*") if path.is_file())


def test_the_plan_asks_nothing(harness: Callable[..., int], endpoint: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = endpoint(polite)
    assert harness("task=qa", f"model.base_url={server.base_url}", "plan=true") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:] if line.startswith(("answers", "judge", "sft", "data"))] == [
        *("data", "judge", "answers"),
    ]
    assert server.requests == []


URL = "model.base_url=http://127.0.0.1:9/v1"
MISTAKES = {
    (): "model.base_url is missing; give the endpoint's address: model.base_url=http://127.0.0.1:8000/v1",
    ("model.base_url=ftp://x/v1",): (
        "model.base_url=ftp://x/v1 is no address; write http://HOST:PORT/v1 or https://HOST/v1"
    ),
    (f"model.base_url=http://me:{KEY}@x/v1",): (
        "model.base_url holds more than an address, and records would keep it;"
        " give a key in the environment variable that api.key_variable names"
    ),
    (f'"model.base_url=http://x/v1?key={KEY}"',): None,
    (URL, f"model.api.options.api_key={KEY}"): (
        "model.api.options.api_key would be kept in records;"
        " give a key in the environment variable that api.key_variable names"
    ),
    (URL, "sft.epochs=2"): "sft.epochs=2 decides nothing with model=api, which trains nothing; leave it out",
    (URL, "algorithm=ppo"): "algorithm=ppo decides nothing with model=api, which trains nothing; leave it out",
    (URL, "model.api.concurrency=0"): "model.api.concurrency=0 must be above 0; give a larger number",
    (URL, "model.api.protocol=soap"): "model.api.protocol=soap is not a choice; choose chat, completions",
    (URL, "model.kind=hf"): "model.kind=hf does not fit the other keys; choose it as model=hf",
    (URL, "model.api.retries=3"): None,
    (URL,): (
        "model.base_url=http://127.0.0.1:9/v1 cannot be reached (Connection refused); start the server, or correct it"
    ),
}


@pytest.mark.parametrize("typed", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_message(
    typed: tuple[str, ...], harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.strip('"') if "?" not in argument else argument.replace('"', "'") for argument in typed]
    assert harness("task=dialogue", *given) == 2
    captured = capsys.readouterr()
    if MISTAKES[typed] is not None:
        assert captured.err.rstrip("\n") == MISTAKES[typed]
    assert captured.err.count("\n") == 1
    assert not [path for path in Path.cwd().rglob("*") if path.is_file()]


SECRETS = [
    f"model.base_url=http://me:{KEY}@x/v1",
    f"model.api.options={{api_key: {KEY}}}",
    f"model.api.options={{x: {{api_key: '{KEY}'}}}},{{}}",
    f"model.api.options.headers={{Authorization: {KEY}}}",
    f"model.api.options.headers.Authorization={KEY}",
    f"+model.api.options.access_token={KEY}",
    f"model.api.options.secret_key={KEY},other",
    f"model.api={{options: {{list: [{{X-Api-Key: {KEY}}}]}}}}",
    f'model={{base_url: "http://h/v1?k={KEY}"}}',
    f'model={{"base_url": "http://h/v1?k={KEY}"',
    f'model={{"api_key": "{KEY}"',
    f"model.api_key={KEY}",
    f"model.api.key_variable={KEY}",
    f"+hub.token={KEY}",
]


@pytest.mark.parametrize("given", SECRETS)
def test_a_secret_is_written_nowhere(
    given: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness("-m", "task=dialogue", given, "seed=1,2") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "and records would keep it" in captured.err or "would be kept in records" in captured.err
    assert KEY not in captured.err + captured.out
    assert not [path for path in Path.cwd().rglob("*") if path.is_file()]


ENDPOINT = f"""\
# @package _global_
defaults:
  - override /model: api
model:
  name: m
  base_url: http://127.0.0.1:9/v1
  api:
    options: {{api_key: {KEY}}}
"""
SWEPT = f"""\
# @package _global_
hydra:
  sweeper:
    params:
      +model.api.options: "{{api_key: {KEY}}},{{}}"
"""
EXPORTED = f"""\
# @package _global_
hydra:
  job:
    env_set: {{HARNESS_API_KEY: {KEY}}}
"""


@pytest.mark.parametrize(
    ("overlay", "given"),
    [
        (ENDPOINT, ["-m", "seed=1,2"]),
        (ENDPOINT, ["hydra.output_subdir=.hydra"]),
        (ENDPOINT, ["-m", "experiment=mine,smoke", "hydra.output_subdir=.hydra"]),
        (SWEPT, ["-m"]),
        (EXPORTED, ["-m", "seed=1,2"]),
        (EXPORTED, ["hydra.output_subdir=.hydra"]),
    ],
)
@pytest.mark.parametrize("where", ["--config-dir=own", "hydra.searchpath=[file://{}/own]"])
def test_a_secret_in_a_file_of_the_users_own_is_written_nowhere(
    where: str,
    overlay: str,
    given: list[str],
    in_process: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(overlay)
    chosen = [] if any(argument.startswith("experiment=") for argument in given) else ["experiment=mine"]
    assert in_process(cli.main)(where.format(tmp_path), "task=qa", *chosen, *given) == 2
    captured = capsys.readouterr()
    key = "hydra.job.env_set.HARNESS_API_KEY" if overlay == EXPORTED else "model.api.options.api_key"
    assert captured.err.startswith(f"{key} would be kept in ")
    assert captured.err.count("\n") == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "own" not in path.parts]
    assert not any(KEY in path.read_text() for path in files)
    assert not files or "experiment=mine,smoke" in given  # a sweep is written down before it chooses a job's overlay


def test_a_key_that_a_file_refers_to_stays_where_it_is(
    in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``multirun.yaml`` keeps the reference as it stands; the job, whose record would keep what it stands for, ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OWN_KEY", KEY)
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(ENDPOINT.replace(KEY, '"${oc.env:OWN_KEY}"'))
    assert in_process(cli.main)("-m", "--config-dir=own", "experiment=mine", "task=qa") == 2
    assert capsys.readouterr().err.startswith("model.api.options.api_key would be kept in records")
    assert [path.name for path in Path("runs").rglob("*") if path.is_file()] == ["multirun.yaml"]
    assert KEY not in Path("runs/multirun.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_completion_tokens": 5, "stop_token_ids": [1], "skip_special_tokens": False, "tokenizer": "x"}, None),
        ({"response_format": {"properties": {"key": {"type": "string"}, "keywords": {}}}, "api_key": None}, None),
        (
            {"prompt_cache_key": "a", "author": "b", "return_tokens_as_token_ids": True, "logit_bias": {"50256": -1}},
            None,
        ),
        ({"extra": [{"deep": {"oauth": "x"}}]}, "model.api.options.extra.deep.oauth"),
        ({"Password": 12345}, "model.api.options.Password"),
        ({"headers": {"Cookie": "x"}}, "model.api.options.headers.Cookie"),
        ({"eos_token": "</s>", "stop_token": "a", "token_healing": 1, "custom_token_bans": "1", "monkey": 1}, None),
        ({"jwt_token": "x"}, "model.api.options.jwt_token"),
        ({"access_token_2": "x"}, "model.api.options.access_token_2"),
        ({"openai_key": "x"}, "model.api.options.openai_key"),
    ],
)
def test_what_only_sounds_like_a_secret_is_let_pass(options: dict[str, Any], wrong: str | None) -> None:
    found = []
    try:
        refuse_secrets("model.api.options", options)
    except SecretGiven as error:
        found.append(error.key)
    assert found == ([] if wrong is None else [wrong])


def test_the_record_of_an_endpoint_reads_back(harness: Callable[..., int], endpoint: Any) -> None:
    """The protocol ``completions`` for models that continue text; words count where there is no judge."""
    server = endpoint(lambda body: "in Paris now")
    given = (f"model.base_url={server.base_url}", "model.api.protocol=completions", "judge=none")
    assert harness("task=qa", *given, "algorithm=none", "evaluation.fixed_rows=[references]") == 0
    assert {request["path"] for request in server.requests} == {"/v1/completions"}
    assert server.requests[0]["prompt"].endswith(":")
    (folder,) = (path for path in Path("runs/stages").glob("answers-*") if path.is_dir())
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {line["text"] for line in lines} == {"in Paris now"}
    made = next(record for record in read_records(Path("runs/records")) if not record["fixed"])
    assert made["scalars"]["length_after"] == 3
    assert "no judge" in made["flags"]
