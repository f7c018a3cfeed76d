"""A generative judge: how it is asked, how its answers are read, and what becomes of one that prefers a place."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.config import APIConfig
from harness.errors import RunFailed
from harness.reward_bench import command
from harness.reward_bench.config import ScorerConfig
from harness.reward_bench.judge import PairJudge, read_verdict
from harness.reward_bench.records import read_bench_records
from harness.reward_bench.report import report

KEY = "sk-very-secret-0123456789"
MAPPED = "data.pairs_columns={turns: context, chosen: chosen, rejected: rejected, id: id, subset: kind}"


def answers_of(request: dict[str, Any]) -> tuple[str, str]:
    """Both answers as the judge reads them."""
    text = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    match = re.search(r"=== Answer A ===\n(.*)\n\n=== Answer B ===\n(.*)\n\n=== End ===", text, flags=re.DOTALL)
    assert match is not None
    return match.group(1), match.group(2)


def judged(server: Any, task: Any, found: Any, tmp_path: Path, **options: Any) -> Any:
    scorer = ScorerConfig(kind="judge", base_url=server.base_url, name="m", **options)
    done: list[int] = []
    verdicts = PairJudge(scorer, task, tmp_path / "cache").judge(found.pairs, done.append)
    assert sum(done) == len(found.pairs)
    return verdicts


def fair(request: dict[str, Any]) -> str:
    """Prefers the answer with a bird in it, wherever it stands; the chosen ones have one."""
    return "A" if "bird" in answers_of(request)[0] else "B"


def test_a_fair_judge(endpoint: Any, dialogue: Any, preferences: Any, tmp_path: Path) -> None:
    server = endpoint(fair)
    verdicts = judged(server, dialogue, preferences, tmp_path)
    assert verdicts.margins.tolist() == [1.0] * 12
    assert verdicts.scores is None
    assert not verdicts.flips.any()
    assert verdicts.facts["first_preferred"] == 50.0
    assert verdicts.facts["usage"]["answers"] == 24
    made = report(preferences, verdicts, counts=[2], resamples=100)
    assert (made["accuracy"]["estimate"], made["flip_rate"]["estimate"], made["ece"]) == (100.0, 0.0, None)
    asked = {answers_of(request) for request in server.requests}
    assert asked == {order for pair in preferences.pairs for order in (
        (pair.chosen, pair.rejected), (pair.rejected, pair.chosen))}  # fmt: skip
    body = server.requests[0]
    assert (body["max_tokens"], body["temperature"]) == (16, 0)
    assert "=== Prompt ===\nA: the fox runs ?\nB: home .\nA: why does bird" in body["messages"][0]["content"]


def test_a_judge_that_prefers_a_place(endpoint: Any, dialogue: Any, preferences: Any, tmp_path: Path) -> None:
    verdicts = judged(endpoint(lambda request: "Answer A."), dialogue, preferences, tmp_path)
    assert verdicts.margins.tolist() == [0.0] * 12
    assert verdicts.flips.all()
    assert verdicts.facts["first_preferred"] == 100.0
    made = report(preferences, verdicts, counts=[2], resamples=100)
    assert (made["accuracy"]["estimate"], made["flip_rate"]["estimate"]) == (50.0, 100.0)


def test_ties_and_answers_without_a_verdict(endpoint: Any, dialogue: Any, preferences: Any, tmp_path: Path) -> None:
    """C is a tie; no letter is none. The right answer is seen where it stands first, and not elsewhere: half a vote."""

    def said(request: dict[str, Any]) -> str:
        return "A" if "bird" in answers_of(request)[0] else ("C" if "0" in answers_of(request)[0] else "Hard to say.")

    verdicts = judged(endpoint(said), dialogue, preferences, tmp_path)
    assert verdicts.margins.tolist() == [0.5] * 12
    assert not verdicts.flips.any()
    assert verdicts.facts["first_preferred"] == 75.0
    assert verdicts.facts["ties"] == 2  # the wrong answers 0 and 10
    assert verdicts.facts["no_verdict"] == {"count": 10, "shown": ["Hard to say."] * 5}


def test_a_judge_without_any_verdict_fails(endpoint: Any, dialogue: Any, preferences: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"m named A, B or C in no answer; the first is 'No idea.'"):
        judged(endpoint(lambda request: "No idea."), dialogue, preferences, tmp_path)


def test_completions_and_a_criterion(endpoint: Any, dialogue: Any, preferences: Any, tmp_path: Path) -> None:
    server = endpoint(fair)
    api = APIConfig(protocol="completions", options={"stop": ["\n"]})
    judged(server, dialogue, preferences, tmp_path, api=api, criterion="Birds are better.", answer_tokens=1)
    body = server.requests[0]
    assert body["prompt"].endswith("\n\nLetter:")
    assert "Decide which one is better. Birds are better.\n" in body["prompt"]
    assert (body["max_tokens"], body["stop"]) == (1, ["\n"])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("**C**", "C"),
        ("[[A]]", "A"),
        ("Answer B", "B"),
        ("Verdict: A", "A"),
        ("Both are polite, but one is wrong.\n\nB", "B"),
        ("I think answer A is better than the other.", "A"),
        ("The better answer is **B** since it is true.", "B"),
        ("A is better.", "A"),
        ("**A** because it is clear.", "A"),
        ("A\n\nReason: clear.", "A"),
        ("**A**\n\nAnswer B is rude.", "A"),
        ("C - neither says why.", "C"),
        ("A is better than answer B.", "A"),
        ("Answer B is clearly better than A, since it is true.", "B"),
        ("B is better. A is worse.", "B"),
        ("My final verdict is: **B**", "B"),
        ("The winner is B: it names the bird.", "B"),
        ("Answer A is short. Answer B is rude.", None),
        # What an answer is like is no verdict, nor is one that has another letter beside it.
        ("A beats answer B.", None),
        ("Clearly, answer B is worse.", None),
        ("I would reject answer B.", None),
        ("While answer A is longer, the other is right.", None),
        ("**A** is rude.", None),
        ("The worse answer is B.", None),
        ("The better answer is not B.", None),
        ("The better answer is A or B.", None),
        ("The answer is a bit short.", None),
        ("I do not think that A is better.", None),
        ("One could say that A is better, but the other is right.", None),
        ("A is better in tone, but worse in facts.", None),
        ("Is A better? Answer B is better?", None),
        ("A\n\nNo, answer B is better.", None),
        ("A\n\nOr rather:\n\nB", None),
        ("A better reply would name the bird.", None),
        ("Neither", None),
        ("", None),
        ("Because", None),
    ],
)
def test_reading_a_verdict(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def test_the_command(
    endpoint: Any, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("HYDRA_FULL_ERROR", "TOKENIZERS_PARALLELISM", cli.STATUS_FOLDER):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HARNESS_API_KEY", KEY)
    server = endpoint(fair, [{"status": 500, "error": {"error": {"message": KEY}}}])
    given = (f"data.pairs_path={pairs_file}", MAPPED, "scorer.kind=judge", "scorer.name=org/m", "resamples=100")
    api = ("scorer.api.backoff_seconds=0", "scorer.api.prompt_price=1", "scorer.api.response_price=1")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["harness.reward_bench", *given, *arguments])
        return command.main()

    assert run(f"scorer.base_url={server.base_url}", *api) == 0
    out = capsys.readouterr().out
    assert "accuracy 100.0 [51.0, 100.0] on 12 pairs of 4 prompts, 0.0 % flipped with the order" in out
    (record,) = read_bench_records(Path("runs"))
    assert (record["kind"], record["candidate"], record["status"]) == ("judge", "org/m", "ok")
    assert record["report"]["usage"]["retries"] == 1
    assert record["report"]["usage"]["cost"] > 0
    table = Path("runs/leaderboard/reward_bench.csv").read_text()
    assert "first_preferred" in table
    texts = [path.read_text(errors="replace") for path in Path("runs").rglob("*") if path.is_file()]
    assert not any(KEY in text for text in (*texts, out))
    for typed, message in MISTAKES.items():
        assert run(*typed) == 2
        assert capsys.readouterr().err.rstrip("\n") == message
    assert len(list(Path("runs/reward_bench").glob("*.json"))) == 1


MISTAKES: dict[tuple[str, ...], str] = {
    (): "scorer.base_url is missing; give the endpoint's address: scorer.base_url=http://127.0.0.1:8000/v1",
    ("scorer.base_url=http://127.0.0.1:9/v1",): (
        "scorer.base_url=http://127.0.0.1:9/v1 cannot be reached (Connection refused); start the server, or correct it"
    ),
    ("scorer.base_url=http://127.0.0.1:9/v1", "scorer.path=x"): (
        "scorer.path=x is not read by scorer.kind=judge; give scorer.name, or leave it out"
    ),
    (f"scorer.base_url=http://x:{KEY}@h/v1",): (
        "scorer.base_url holds more than an address, and records would keep it;"
        " give a key in the environment variable that api.key_variable names"
    ),
    ("scorer.base_url=http://127.0.0.1:9/v1", "scorer.api.timeout_seconds=0"): (
        "scorer.api.timeout_seconds=0.0 must be above 0; give a larger number"
    ),
}
