"""``python -m harness.reward_bench`` as a user types it, with mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import config
from harness.reward_bench import command
from harness.reward_bench.records import read_bench_records
from harness.usage import group_options

CONF = Path(config.__file__).parent.parent / "conf"
OVERLAYS = group_options(bench=True)["pairs"]
MAPPED = "data.pairs_columns={turns: context, chosen: chosen, rejected: rejected, id: id, subset: kind}"


@pytest.fixture
def bench(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command in this process and in a folder of its own; returns the exit status."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return in_process(command.main)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_composes(name: str) -> None:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from harness.reward_bench.config import RewardBenchConfig

    text = (CONF / "pairs" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert yaml.safe_load(text)["data"]["name"] == name
    config.register_schemas()
    config.register_schemas({"reward_bench": RewardBenchConfig})
    with initialize_config_module("harness.conf", version_base="1.3"):
        made = OmegaConf.to_object(compose("reward_bench", overrides=[f"pairs={name}"]))
    assert isinstance(made, RewardBenchConfig)


def test_a_reward_model_gets_its_record_and_is_asked_once(
    bench: Callable[..., int], pairs_file: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"data.pairs_path={pairs_file}", MAPPED, f"scorer.path={ours}", "hardware.threads=1", "resamples=100")
    assert bench(*given) == 0
    out = capsys.readouterr().out
    assert "easy" in out
    (record,) = read_bench_records(Path("runs"))
    assert (record["status"], record["kind"], record["data"], record["model"]) == ("ok", "classifier", "pairs", "ours")
    assert record["report"]["pairs"] == 12
    assert set(record["report"]["subsets"]) >= {"easy", "hard"}
    (folder,) = Path("runs/stages").glob("reward_bench-*")
    lines = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"pairs:p{row}" for row in range(12)]
    assert all(line["margin"] == pytest.approx(line["chosen"] - line["rejected"]) for line in lines)
    moved = ours.parent.parent / "moved"
    ours.parent.rename(moved)
    assert bench(*given[:2], f"scorer.path={moved / 'model'}", *given[3:], "candidate=again") == 0
    assert "= reward_bench" in capsys.readouterr().out
    assert sorted(made["candidate"] for made in read_bench_records(Path("runs"))) == ["again", "ours"]


MISTAKES = {
    "scorer.pth=x": "scorer.pth=x is not a configuration key; did you mean scorer.path?",
    "sft.epochs=1": "sft.epochs=1 is not a configuration key; --help lists the keys",
    "scorer.kind=oracle": "scorer.kind=oracle is not a choice; choose classifier, judge",
    "scorer.name=m": ("scorer.name=m is not read by scorer.kind=classifier; set scorer.kind=judge, or leave it out"),
    "scorer.batch_size=0": "scorer.batch_size=0 must be at least 1; give 1 or more",
    "best_of_n=[1]": "best_of_n=1 must be at least 2; give 2 or more",
    "data.limit=1": "data.limit=1 must be at least 2; give 2 or more",
    "pairs=nope": f"pairs=nope is not a choice; choose {', '.join(OVERLAYS)}",
    "data.pairs_path=nowhere.jsonl": "data.pairs_path=nowhere.jsonl is no file; give the file of preferences",
    "scorer.path=./nowhere": "scorer.path=./nowhere is no folder; give the folder of the reward model",
    "data.pairs_columns.chosen=nope": (
        "data.pairs_columns.chosen=nope is not a column; the columns are: id, context, chosen, rejected, kind"
    ),
    "data.pairs_columns.score=kind": (
        "data.pairs_columns.score=kind is not a name of ours; use chosen, id, rejected, subset, turns"
    ),
    "leaderboard=nope.build": (
        "leaderboard=nope.build is no function that can be imported; give package.module.function"
    ),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_message(
    typed: str, bench: Callable[..., int], pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"data.pairs_path={pairs_file}", MAPPED, f"scorer.path={tmp_path}"]
    assert bench(*given, typed) == 2
    captured = capsys.readouterr()
    assert captured.err.rstrip("\n") == MISTAKES[typed]
    assert not list(Path.cwd().rglob("*.json"))


def test_nothing_given_says_what_is_missing(bench: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench() == 2
    assert capsys.readouterr().err.startswith("data.pairs_path is missing; name the file")


def test_a_model_that_cannot_be_loaded_leaves_a_failed_record(
    bench: Callable[..., int], pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert bench(f"data.pairs_path={pairs_file}", MAPPED, f"scorer.path={tmp_path / 'empty'}") == 2
    assert "could not be loaded" in capsys.readouterr().err
    (record,) = read_bench_records(Path("runs"))
    assert (record["status"], record["report"]) == ("failed", {})
    assert "could not be loaded" in str(record["reason"])


def test_a_sweep_examines_each(bench: Callable[..., int], pairs_file: Path, ours: Path, pooled: Path) -> None:
    given: tuple[Any, ...] = (f"data.pairs_path={pairs_file}", MAPPED, "resamples=100", "tracker=quiet")
    assert bench("-m", *given, f"scorer.path={ours},{pooled}", "hardware.threads=1") == 0
    assert {record["model"] for record in read_bench_records(Path("runs"))} == {"ours", "pooled"}
