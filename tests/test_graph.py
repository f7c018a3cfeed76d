"""What of the configuration decides which stage, and what a candidate is called."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in_vllm import stand_in

from harness import pipeline
from harness.config import register_schemas
from harness.errors import RunFailed, UserError
from harness.graph import Graph, build_graph, in_turn, planned_stages
from harness.pipeline import make_job
from harness.progress import Progress
from harness.request import Request
from harness.rollouts import engines
from harness.stages import Stage, StageRunner


def config(*overrides: str) -> Any:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    register_schemas()
    given = ["experiment=smoke", "hardware.threads=1", "hardware.device=cpu", *overrides]
    with initialize_config_module("harness.conf", version_base="1.3"):
        return OmegaConf.to_object(compose("config", overrides=given))


def graph(*overrides: str) -> Graph:
    return build_graph(make_job(config(*overrides)))


def changed(*overrides: str) -> set[str]:
    """The parts, rows and ``candidate`` whose fingerprints these overrides change."""
    named = [
        {
            **{name: stage.fingerprint for name, stage in made.parts.items()},
            **{f"row {name}": stage.fingerprint for name, stage in made.rows.items()},
            "candidate": made.candidate.fingerprint,
        }
        for made in (graph(), graph(*overrides))
    ]
    return {name for name in named[0] if named[0][name] != named[1][name]}


ROWS = {
    f"row {name}" for name in ("references", "base", "sft", "sft-more", "best-of-n", "copy-input", "empty", "longest")
}


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["evaluation.curve_prompts=4"], {"row best-of-n"}),
        (["evaluation.best_of_n=2"], {"row best-of-n"}),
        (["evaluation.batch_size=8"], {*ROWS, "candidate"}),
        (["evaluation.leaderboard=harness.leaderboard.build.frame"], set()),
        (["rollout.batch_size=8"], {"feedback", "reward_model", "algorithm", "row sft", "row best-of-n", "candidate"}),
        (["task.metrics=[rougeL]"], {*ROWS, "candidate"}),
        (["feedback.metric=f1"], set()),
        (["algorithm.kl_coef=0.3"], {"algorithm", "candidate"}),
    ],
)
def test_a_setting_changes_what_it_decides(overrides: list[str], names: set[str]) -> None:
    assert changed(*overrides) == names


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("rollout.engine", {"feedback", "reward_model", "algorithm", "row sft", "row best-of-n", "candidate"}),
        ("evaluation.engine", {"row base", "row sft", "row sft-more", "row best-of-n", "candidate"}),
    ],
)
def test_who_samples_is_known_to_the_stages_that_sample(
    monkeypatch: pytest.MonkeyPatch, key: str, names: set[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", stand_in())
    assert changed(f"{key}=compiled") == changed(f"{key}=vllm") == names
    overrides = [f"{key}=vllm"]
    first = graph(*overrides).candidate.fingerprint
    assert graph(f"{key}=compiled").candidate.fingerprint != first
    assert graph(*overrides, "rollout.engine_memory=0.6").candidate.fingerprint == first
    monkeypatch.setattr(engines, "vllm_version", lambda: "0.99")
    assert graph(*overrides).candidate.fingerprint != first


def test_the_prompt_decides_every_evaluation() -> None:
    found = changed("task.template='{source} Summary:'")
    assert {*ROWS, "candidate", "sft", "judge"} <= found
    assert "data" not in found


def test_a_metric_of_ones_own_counts_by_content(tmp_path: Path) -> None:
    source = """
import datasets
import evaluate

class Length(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"letters": sum(map(len, predictions)) / len(predictions)}
"""
    found = []
    for folder, text in (("a", source), ("b", source), ("c", source + "# changed")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "letters.py"
        path.write_text(text)
        found.append(graph(f"evaluation.extra_metrics=[{path}]").rows["references"].fingerprint)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (
            ["task=qa", "seed=3", "hardware.threads=1", "tracker=quiet", "output_dir=x", "hydra/launcher=joblib"],
            "default",
        ),
        (["task=qa", "task.template=T {question}"], "task.template=T {question}"),
        (["sft.epochs=2", "algorithm=none"], "algorithm=none,sft.epochs=2"),
        (["data=local", "data.path=/a/b/mine", "data.pairs_path='/a/b/pairs.jsonl'"], None),
        (["model=hf", "model.name=org/small"], "model.name=small,model=hf"),
        (["sft=load", "sft.path=/r/stages/sft-01234567/model"], "sft.path=sft-01234567,sft=load"),
    ],
)
def test_what_a_candidate_is_called(overrides: list[str], name: str | None) -> None:
    expected = name or "data.pairs_path=pairs.jsonl,data.path=mine,data=local"
    assert Request(config(), overrides, "").candidate == expected


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("model.base_url=http://127.0.0.1:8000/v1", "model.base_url=127.0.0.1:8000"),
        ("data.path=/a/my files", "data.path=my files"),
        ("data.files.test=/b/x=1, (2).csv", "data.files.test=x=1, (2).csv"),
        ("algorithm.kl_coef=1e-4", "algorithm.kl_coef=0.0001"),
        ("algorithm.optimizer.lr=2e-5", "algorithm.optimizer.lr=2e-05"),
        ("sft.packing=True", "sft.packing=true"),
        ("algorithm.prompt_splits=[rl, sft]", "algorithm.prompt_splits=[rl,sft]"),
        ("task.template='T {question}'", "task.template='T {question}'"),
    ],
)
def test_a_sweep_calls_a_candidate_as_a_single_run_does(override: str, name: str) -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    quoted = override if "(" not in override else override.replace("=", "='", 1) + "'"
    ((job,),) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([quoted]), None)
    assert [Request(config(), given, "").candidate for given in ([quoted], job)] == [name, name]


def test_continued_sft_comes_after_the_candidate_and_best_of_n_before_it() -> None:
    made = graph()
    turns = [row for row, _ in in_turn(made)]
    assert turns == ["references", "copy-input", "empty", "longest", "base", "sft", "best-of-n", None, "sft-more"]
    work = [stage.fingerprint for stage in planned_stages(made)]
    assert work.index(made.parts["algorithm"].fingerprint) < work.index(made.parts["sft-more"].fingerprint)
    few = graph("evaluation.fixed_rows=[references,sft]")
    assert [row for row, _ in in_turn(few)] == ["references", "sft", None]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process makes anything."""
    monkeypatch.setattr(StageRunner, "waits", lambda *_: False)


@pytest.mark.parametrize(
    ("rows", "made"),
    [
        ("[best-of-n,sft-more]", ["reward_model", "best-of-n", "ppo", "sft-more"]),
        ("[sft-more]", ["reward_model", "ppo", "sft-more"]),
        ("[]", ["reward_model", "ppo"]),
    ],
)
def test_a_second_process_makes_the_candidates_models_and_then_the_last_row(
    monkeypatch: pytest.MonkeyPatch, alone: None, rows: str, made: list[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(StageRunner, "run", lambda _, stage: asked.append(stage.config.get("row") or stage.name))
    pipeline._run_ahead(config(f"evaluation.fixed_rows={rows}"), "reward_model", None, Progress("quiet"))
    assert asked == made


@pytest.mark.parametrize(
    ("others", "made"),
    [
        ({"reward_model"}, ["sft", "sft-more"]),  # SFT continued, and its evaluation
        ({"reward_model", "judge"}, ["sft"]),  # which the judge scores
        ({"reward_model", "sft-more"}, ["sft"]),
        ({"data"}, []),
        ({"judge"}, ["sft"]),
        (set(), []),
    ],
)
def test_sft_is_continued_while_another_process_makes_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, others: set[str], made: list[str]
) -> None:
    """Others: what the other process makes just then."""
    plan, asked = graph("evaluation.fixed_rows=[best-of-n,sft-more]"), []

    def held(_: StageRunner, stage: Stage) -> bool:
        return bool(others & {stage.config.get("row") or stage.name})

    monkeypatch.setattr(StageRunner, "_is_locked", held)
    monkeypatch.setattr(StageRunner, "cached", lambda *_: None)
    monkeypatch.setattr(StageRunner, "run", lambda _, stage, **__: asked.append(stage.config.get("row") or stage.name))
    tried: set[str] = set()
    for _ in range(2):  # each is begun once
        pipeline._make_meanwhile(plan, StageRunner(Path(), Progress("quiet")), plan.rows["best-of-n"], tried)
    assert asked == made


def test_a_control_that_fails_meanwhile_keeps_no_other_row_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made, done, failed = graph("evaluation.fixed_rows=[references,sft,best-of-n,sft-more]"), [], []

    def run(_: StageRunner, stage: Stage, yielding_to: Stage | None = None) -> None:
        name = stage.config.get("row", stage.name)
        if (name in ("sft", "sft-more") and stage.name != "evaluation") or name == "sft-more":
            raise RunFailed("as this test wants it")
        done.append(name)

    monkeypatch.setattr(StageRunner, "run", run)
    monkeypatch.setattr(StageRunner, "cached", lambda *_: None)
    monkeypatch.setattr(StageRunner, "_is_locked", lambda _, stage: stage.name == "reward_model")
    for name in ("record", "write", "write_cards"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    monkeypatch.setattr(pipeline, "fail", lambda *given: failed.append(given[-1]))
    runner, request = StageRunner(Path(), Progress("quiet")), Request(config(), [], "")
    with pytest.raises(RunFailed):
        pipeline._make_rows(request, make_job(config()), made, runner, aided=True)
    assert done == ["references", "sft", "best-of-n", None]
    assert failed == ["sft-more"]


@pytest.mark.parametrize("aided", [False, True])
def test_rows_wait_for_feedback_alone_and_only_beside_a_second_process(
    monkeypatch: pytest.MonkeyPatch, alone: None, aided: bool
) -> None:
    made, done = graph("evaluation.fixed_rows=[references,sft]"), []

    def run(_: StageRunner, stage: Stage, yielding_to: Stage | None = None) -> None:
        done.append((stage.config["row"], yielding_to))

    monkeypatch.setattr(StageRunner, "run", run)
    for name in ("record", "write", "write_cards"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    request = Request(config(), [], "")
    pipeline._make_rows(request, make_job(config()), made, StageRunner(Path(), Progress("quiet")), aided=aided)
    assert done == [(row, made.parts["feedback"] if aided else None) for row in ("references", "sft", None)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_process_shows_the_plan_and_works_on_where_it_cannot(
    monkeypatch: pytest.MonkeyPatch, alone: None, fails: bool
) -> None:
    asked, screen = [], io.StringIO()
    monkeypatch.setattr(StageRunner, "run", lambda _, stage: asked.append(stage.name))
    if fails:
        monkeypatch.setattr(pipeline, "plan_rows", lambda *_: 1 / 0)
    made, data = config("evaluation.fixed_rows=[]"), graph().parts["data"].fingerprint
    pipeline._run_ahead(made, "reward_model", frozenset({data}), Progress("plain", stream=screen))
    said = screen.getvalue()
    assert ("no plan can be shown: ZeroDivisionError: division by zero" in said) == fails
    rows = [line.split() for line in said.splitlines()]
    assert ([row[2] for row in rows if row[:2] == ["data", data]] == ["yes"]) != fails
    assert any(row[:1] == ["reward_model"] and row[2] == "no" for row in rows) != fails
    assert asked == ["reward_model", "ppo"]


def test_a_failed_record_knows_its_judge_and_its_data_as_soon_as_these_are_there(tmp_path: Path) -> None:
    from harness import recording
    from harness.records import read_records
    from harness.stages import MANIFEST, write_json

    job = make_job(config(f"output_dir={tmp_path}"))
    made, request = build_graph(job), Request(job.config, [], "")
    runner = StageRunner(tmp_path, Progress("quiet"))

    def failed() -> Any:
        recording.fail(request, job, made, ValueError("x"), runner)
        (record,) = read_records(tmp_path / "records")
        return record["status"], record["judge_fingerprint"], record["data_hash"]

    judge = made.parts["judge"].fingerprint
    assert failed() == ("failed", judge, None)
    folder = runner.directory(made.parts["data"])
    folder.mkdir(parents=True)
    rest = {"fingerprint": "", "line": "", "wall_seconds": 1.0, "peak_memory_mb": 1.0}
    write_json(folder / MANIFEST, {**rest, "summary": {"report": {"content_hash": "0123456789abcdef01"}}})
    assert failed() == ("failed", judge, "0123456789abcdef")


@pytest.mark.parametrize("given", ["data.limits.test=1", "+data.max_rows.test=1"])
def test_a_limit_of_one_test_prompt_is_refused_before_any_work(given: str, tmp_path: Path) -> None:
    from harness.validation import validate

    mapped = ["data.columns.question=q", "data.columns.context=c", "data.columns.response=a"]
    with pytest.raises(UserError, match=r"=1 leaves one test prompt, too few for an interval"):
        validate(config("task=qa", "data=local", f"data.path={tmp_path}", *mapped, "feedback=metric",
                        "judge.responses=samples", given))  # fmt: skip


def test_data_with_one_test_prompt_end_at_the_data_stage(tmp_path: Path) -> None:
    """However often the prompt is repeated; with two that differ the stage is finished."""

    def rows(split: str, questions: list[str]) -> None:
        lines = [json.dumps({"q": f"What is {name}?", "c": f"{name} is {name}.", "a": name}) for name in questions]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    mapped = ["data.columns.question=q", "data.columns.context=c", "data.columns.response=a"]
    given = ["task=qa", "data=local", f"data.path={tmp_path}", *mapped, "feedback=metric", "judge.responses=samples"]
    rows("train", [f"w{number} x{number} y{number}" for number in range(60)])
    rows("validation", ["v1", "v2"])
    for questions, fits in ((["t1"], False), (["t1", "t1"], False), (["t1", "t2"], True)):
        rows("test", questions)
        stage = graph(*given).parts["data"]
        runner = StageRunner(tmp_path / "runs", Progress("quiet"))
        if fits:
            runner.run(stage)
        else:
            with pytest.raises(UserError, match=r"data\.path=.* gives one test prompt, too few for an interval"):
                runner.run(stage)
        assert (runner.cached(stage) is not None) == fits


def test_a_line_of_a_metric_without_an_interval() -> None:
    from types import SimpleNamespace

    from harness.evaluation.stage import _line

    metric = {"after": 2.0, "delta": 1.0, "low": None, "high": None}
    job: Any = SimpleNamespace(config=SimpleNamespace(task=SimpleNamespace(main_metric="f1")))
    summary = {"metrics": {"f1": metric}, "win_rates": {"judge": None, "reference": None}}
    assert _line(job, summary) == "f1 2.00 (+1.00)"
