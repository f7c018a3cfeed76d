"""The whole loop, end to end at smoke size: what is run, what is shared, what is written, and how it ends.

A test that changes a setting starts from a copy of a finished run's stages, so that only what the setting changes is
made again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from smoke_run import smoke_run

from harness.errors import RunFailed, UserError
from harness.records import read_records
from harness.stages import StageRunner

TASKS = ("dialogue", "qa", "summarize", "translate")
FIXED = ("references", "base", "sft", "sft-more", "best-of-n", "copy-input", "empty", "longest")
FEW_ROWS = "evaluation.fixed_rows=[references,sft]"


def command(*arguments: str) -> list[str]:
    smoke = ("experiment=smoke", "hardware.threads=1", "hardware.precision=fp32")
    return [sys.executable, "-m", "harness", *smoke, *arguments]


def run_apart(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, started in ``folder``."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def labels(folder: Path, name: str = "") -> set[str]:
    """Finished stages of a run, those of one name where it is given."""
    found = {path.parent.name for path in (folder / "stages").glob("*/manifest.json")}
    return {label for label in found if not name or label.rpartition("-")[0] == name}


def records(folder: Path, **given: Any) -> list[Any]:
    return [r for r in read_records(folder / "records") if all(r[key] == value for key, value in given.items())]  # type: ignore[literal-required]


def candidates(folder: Path) -> list[Any]:
    return records(folder, fixed=False)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard" / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """task -> the output folder of its smoke run, made once."""
    made: dict[str, Path] = {}

    def run(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            assert smoke_run(f"task={task}", f"output_dir={folder}") == 0
            made[task] = folder
        return made[task]

    return run


@pytest.fixture
def begun(finished: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """task -> a folder of this test's own that holds the smoke run's stages, and no records."""

    def copy(task: str) -> Path:
        shutil.copytree(finished(task) / "stages", tmp_path / "runs" / "stages")
        return tmp_path / "runs"

    return copy


# ---- one run


IMPORTED = """
import sys
from harness.cli import main
status = main()
heavy = ("torch", "transformers", "datasets", "evaluate", "scipy", "pandas", "huggingface_hub.hf_api")
print("imported:", *(name for name in heavy if name in sys.modules))
raise SystemExit(status)
"""


@pytest.mark.parametrize("task", TASKS)
def test_a_run_whose_stages_are_all_cached_imports_what_the_table_takes(
    finished: Callable[[str], Path], task: str
) -> None:
    folder = finished(task)
    arguments = command(f"task={task}", f"output_dir={folder}")[3:]
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["imported:", "pandas"]


@pytest.mark.parametrize(
    "given",
    [
        *((f"task={task}",) for task in TASKS),
        ("task=qa", "model.architecture=llama", "judge.model.architecture=llama", "hardware.precision=bf16"),
        ("task=qa", "model.lora.rank=4", "model.lora.target_modules=[c_attn]", "model.lora.merge=true"),
        ("task=qa", "sft.packing=true", "judge=none"),
    ],
    ids=" ".join,
)
def test_a_plan_of_new_models_imports_nothing_heavy(given: tuple[str, ...], tmp_path: Path) -> None:
    if any("lora" in each for each in given):
        pytest.importorskip("peft")
    arguments = [*given, "plan=true", f"output_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Memory by role" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["imported:"]


@pytest.mark.extended
def test_two_stages_at_a_time_make_the_same_numbers(finished: Callable[[str], Path], tmp_path: Path) -> None:
    """The candidate's models in a second process, judge and controls in this one: the same stages, the same scores."""
    alone = finished("qa")
    done = run_apart(tmp_path, "task=qa", f"output_dir={tmp_path}", "hardware.workers=2")
    assert done.returncode == 0, done.stderr
    assert "2 stages at a time" in done.stdout
    assert labels(tmp_path) == labels(alone)
    (one,), (other,) = candidates(alone), candidates(tmp_path)
    assert one["metrics"] == other["metrics"]
    samples = [next(folder.glob(f"stages/{labels(folder, 'ppo').pop()}/probes.jsonl")) for folder in (alone, tmp_path)]
    assert samples[0].read_text() == samples[1].read_text()


@pytest.mark.extended
def test_the_loop_in_half_precision(tmp_path: Path) -> None:
    """The gates, which compare two ways to compute the same, allow for its rounding."""
    given = ("task=qa", f"output_dir={tmp_path}", FEW_ROWS, "hardware.precision=bf16")
    assert smoke_run(*given) == 0
    (record,) = candidates(tmp_path)
    assert record["status"] in ("ok", "unchanged")
    assert record["metrics"]["f1"]["after"] is not None


def test_a_second_process_starts_before_the_data_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And ends where the data cannot be made."""
    from harness import pipeline

    seen: list[str] = []

    @contextmanager
    def working_ahead(work: Any, progress: Any) -> Iterator[None]:
        assert work is not None
        seen.append("began")
        try:
            yield
        finally:
            seen.append("ended")

    def fail(self: Any, stage: Any, inputs: Any) -> None:
        seen.append(stage.name)
        raise UserError("data.sizes", 7, "is too many", "lower it")

    monkeypatch.setattr(pipeline, "working_ahead", working_ahead)
    monkeypatch.setattr(StageRunner, "_execute", fail)
    assert smoke_run("task=translate", f"output_dir={tmp_path}", "hardware.workers=2") == 2
    assert seen == ["began", "data", "ended"]


@pytest.mark.parametrize("task", TASKS)
def test_the_loop_of_every_task(task: str, finished: Callable[[str], Path]) -> None:
    folder = finished(task)
    assert {label.rpartition("-")[0] for label in labels(folder)} == {
        *("data", "sft", "feedback", "reward_model", "judge", "ppo", "evaluation"),
    }
    assert sorted(r["candidate"] for r in records(folder)) == sorted([*FIXED, "experiment=smoke"])
    (candidate,) = candidates(folder)
    assert candidate["status"] in ("ok", "unchanged", "collapsed")
    assert candidate["flags"][:1] == ["gate skipped: accuracy"]
    assert (candidate["task"], candidate["seed"], candidate["n_examples"]) == (task, 1, 32)
    assert set(candidate["fingerprints"]) >= {"data", "sft", "feedback", "reward_model", "judge", "algorithm"}
    metric = candidate["metrics"][candidate["main_metric"]]
    assert metric["delta"] == pytest.approx(metric["after"] - metric["before"])
    assert metric["low"] <= metric["delta"] <= metric["high"]
    assert {"gold", *candidate["config"]["task"]["metrics"]} <= set(candidate["metrics"])
    assert all(candidate["win_rates"][name] is not None for name in ("judge", "reference", "proxy", "gold"))
    assert all(value is not None for value in candidate["scalars"].values())
    assert {point["series"] for point in candidate["curves"]} == {
        *("proxy", "gold", "judge", "bon_proxy", "bon_gold", "bon_judge"),
    }
    labels_of = {r["candidate"]: (r["model"], r["algorithm"], r["feedback"]) for r in records(folder)}
    assert labels_of["references"] == ("", "", "")
    assert labels_of["sft-more"] == ("nano-gpt2-1x64", "", "")
    assert labels_of["experiment=smoke"] == ("nano-gpt2-1x64", "ppo", "gold")
    report = candidate["data_report"]
    assert report["test_cuts"] == {"cut_share": 0.0, "lost_answer_share": 0.0}
    assert set(report["judge_test_cuts"]) == set(report["algorithm_cuts"]) == {"cut_share", "lost_answer_share"}
    assert set(report["feedback_cuts"]) == {"train", "heldout"}
    assert set(report["judge_cuts"]) == {"backbone", "train", "heldout"}
    assert set(report["reward_model_cuts"]) == set(report["cuts"])
    for name in ("sft", "base", "ppo"):
        (record,) = records(folder, candidate="experiment=smoke" if name == "ppo" else name)
        assert record["wall_seconds"] > 0
    assert [sample["id"] for sample in candidate["samples"]] == [
        sample["id"] for sample in records(folder)[0]["samples"]
    ]


@pytest.mark.parametrize("task", TASKS)
def test_what_a_stage_leaves_behind(task: str, finished: Callable[[str], Path]) -> None:
    folder = finished(task) / "stages"
    (evaluation,) = [
        path.parent
        for path in folder.glob("evaluation-*/manifest.json")
        if not json.loads(path.read_text())["config"]["row"]
    ]
    rows = [json.loads(line) for line in (evaluation / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 32
    for row in rows:
        assert {"id", "prompt", "references", "base", "before", "after", "scores"} <= set(row)
        assert {"gold_before", "gold_after", "judge_before", "judge_after", "kl_after"} <= set(row["scores"])
    for stage in ("sft", "reward_model", "judge", "ppo"):
        for directory in folder.glob(f"{stage}-*/model"):
            names = {path.name for path in directory.iterdir()}
            assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
            assert not [name for name in names if name.endswith((".bin", ".pt"))]
        assert list(folder.glob(f"{stage}-*/metrics.jsonl"))


COLUMNS_FIRST = "rank task candidate model algorithm feedback judge data seeds status flags n_examples"
COLUMNS_LAST = """win_rate win_rate_low win_rate_high win_rate_reference win_rate_reference_low win_rate_reference_high
    win_rate_lc win_rate_proxy win_rate_gold proxy_before proxy_after kl length_before length_after repetition_before
    repetition_after eos_before eos_after rm_accuracy judge_accuracy wall_seconds device peak_memory_mb signatures
    fingerprint git_commit run_ids"""
METRICS = {
    "dialogue": ["bleu", "distinct1", "distinct2"],
    "qa": ["exact_match", "f1"],
    "summarize": ["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"],
    "translate": ["bleu", "chrf"],
}


@pytest.mark.parametrize("task", TASKS)
def test_the_table_has_its_columns_in_order(task: str, finished: Callable[[str], Path]) -> None:
    rows = table(finished(task))
    metrics = [
        f"{name}_{cell}"
        for name in [*METRICS[task], "gold"]
        for cell in ("before", "after", "delta", "delta_low", "delta_high")
    ]
    assert list(rows[0]) == [*COLUMNS_FIRST.split(), *metrics, *COLUMNS_LAST.split()]
    assert {row["candidate"] for row in rows} == {*FIXED, "experiment=smoke"}
    for row in rows:
        fixed = row["candidate"] in FIXED
        assert row["gold_after"] != ""
        assert (row["gold_before"] == "", row["gold_delta"] == "", row["win_rate"] == "") == (fixed, fixed, fixed)
    assert (finished(task) / "leaderboard" / "leaderboard.md").stat().st_size > 0
    page = (finished(task) / "leaderboard" / "index.html").read_text(encoding="utf-8")
    assert "experiment=smoke" in page


# ---- again


def files(folder: Path) -> Mapping[str, tuple[int, bytes]]:
    """Every file below a folder but locks, with the time of its last change and its contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }


def test_the_same_command_trains_nothing_and_adds_no_record(finished: Callable[[str], Path]) -> None:
    folder = finished("qa")
    before = {name: files(folder / name) for name in ("stages", "records")}
    page = files(folder / "leaderboard")
    done = run_apart(folder, "task=qa", f"output_dir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: files(folder / name) for name in ("stages", "records")} == before
    assert {name: text for name, (_, text) in files(folder / "leaderboard").items()} == {
        name: text for name, (_, text) in page.items()
    }
    assert " cached " in done.stdout
    assert "\n+ " not in done.stdout


def test_a_refused_run_leaves_the_table_as_it_is_and_does_not_show_it(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished("translate")
    before = files(folder)
    capsys.readouterr()
    assert smoke_run("task=translate", f"output_dir={folder}", "evaluation.extra_metrics=[/no/such/metric]") == 2
    said = capsys.readouterr()
    assert files(folder) == before
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


@pytest.mark.extended
def test_a_stage_that_was_thrown_away_is_made_again(finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(finished("qa"), folder)
    (thrown_away,) = (folder / "stages").glob("data-*")
    examples = {path.name: path.read_bytes() for path in thrown_away.glob("*.jsonl")}
    shutil.rmtree(thrown_away)
    done = run_apart(folder, "task=qa", f"output_dir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("+ ")] == [thrown_away.name]
    assert {path.name: path.read_bytes() for path in thrown_away.glob("*.jsonl")} == examples


def test_a_record_is_whole_without_the_folders_of_its_models(
    begun: Callable[[str], Path], finished: Callable[[str], Path]
) -> None:
    folder = begun("qa")
    for name in ("ppo", "judge", "reward_model"):
        for thrown_away in (folder / "stages").glob(f"{name}-*"):
            shutil.rmtree(thrown_away)
    done = run_apart(folder.parent, "task=qa")
    assert (done.returncode, done.stderr) == (0, "")
    assert not labels(folder, "ppo")
    (again,) = candidates(folder)
    assert again["scalars"]["rm_accuracy"] is not None
    (first,) = candidates(finished("qa"))
    for key in ("wall_seconds", "peak_memory_mb", "flags", "scalars", "report_card", "data_report"):
        assert again[key] == first[key]


def test_another_folder_and_process_give_the_same_numbers(finished: Callable[[str], Path], tmp_path: Path) -> None:
    done = run_apart(tmp_path, "task=summarize", PYTHONHASHSEED="12345")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = finished("summarize"), tmp_path / "runs"
    assert labels(first) == labels(second)
    for name in sorted(labels(first, "evaluation")):
        assert [(d / "stages" / name / "samples.jsonl").read_bytes() for d in (first,)] == [
            (second / "stages" / name / "samples.jsonl").read_bytes()
        ]
    varying = {"wall_seconds", "peak_memory_mb", "created", "config", "command", "git_commit", "overrides"}
    for a, b in zip(records(first), records(second), strict=True):
        assert {key: value for key, value in a.items() if key not in varying} == {
            key: value for key, value in b.items() if key not in varying
        }


def test_sft_continues_where_one_schedule_over_both_would_stand(finished: Callable[[str], Path]) -> None:
    rates: dict[bool, list[float]] = {}
    first, more = 512 // 32 * 6, 64 * 2 // 32
    for manifest in finished("qa").glob("stages/sft-*/manifest.json"):
        logged = [json.loads(line) for line in (manifest.parent / "metrics.jsonl").read_text().splitlines()]
        continued = "response_passes" in json.loads(manifest.read_text())["config"]
        assert logged[-1]["step"] + 1 == (more if continued else first)
        rates[continued] = [row["lr"] for row in logged]
    total = first + more
    warmup = int(0.05 * total)
    assert max(rates[False]) > 0.7e-2
    assert rates[True][0] == pytest.approx(1e-2 * more / (total - warmup))
    assert rates[True][-1] == pytest.approx(1e-2 * 1 / (total - warmup))


# ---- sweeps


def test_a_sweep_over_kl_coef_shares_all_that_it_can(begun: Callable[[str], Path]) -> None:
    folder = begun("qa")
    assert smoke_run("-m", "task=qa", f"output_dir={folder}", FEW_ROWS, "algorithm.kl_coef=0.02,0.05,0.1") == 0
    for name in ("data", "reward_model", "judge", "feedback"):
        assert len(labels(folder, name)) == 1, name
    # The other SFT folder is the fixed row sft-more, which continues the first one.
    assert (
        sum(
            "response_passes" not in json.loads(p.read_text())["config"]
            for p in folder.glob("stages/sft-*/manifest.json")
        )
        == 1
    )
    assert len(labels(folder, "ppo")) == 3
    found = {r["config"]["algorithm"]["kl_coef"]: r for r in candidates(folder)}
    assert sorted(found) == [0.02, 0.05, 0.1]
    assert len({r["judge_fingerprint"] for r in found.values()}) == 1


def test_one_failing_job_leaves_the_others_running(begun: Callable[[str], Path]) -> None:
    folder = begun("qa")
    status = smoke_run("-m", "task=qa", f"output_dir={folder}", FEW_ROWS, "feedback.min_pairs=100000,2")
    assert status == 1
    rows = {row["candidate"]: row for row in table(folder)}
    failed = next(row for name, row in rows.items() if "min_pairs=100000" in name)
    assert failed["status"].startswith("failed: too few informative pairs (")
    assert failed["status"].endswith("of feedback.min_pairs=100000)")
    assert failed["gold_after"] == ""
    good = next(row for name, row in rows.items() if "min_pairs=2" in name)
    assert good["status"] in ("ok", "unchanged", "collapsed")


@pytest.mark.extended
def test_the_joblib_launcher(begun: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    folder = begun("qa")
    done = run_apart(
        tmp_path,
        *("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "task=qa", f"output_dir={folder}", FEW_ROWS),
        "algorithm.kl_coef=0.02",
        "feedback.min_pairs=2,100000",
    )
    assert done.returncode == 1, done.stderr
    found = {r["config"]["feedback"]["min_pairs"]: r for r in candidates(folder)}
    assert found[2]["status"] in ("ok", "unchanged", "collapsed")
    assert found[100000]["status"] == "failed"
    assert {name: len(labels(folder, name)) for name in ("data", "reward_model", "judge", "ppo")} == {
        "data": 1,
        "reward_model": 1,
        "judge": 1,
        "ppo": 2,  # the smoke run's, and the one with another kl_coef
    }


def test_a_mistake_in_one_job_is_status_2_where_none_failed(
    begun: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = begun("qa")
    status = smoke_run("-m", "task=qa", f"output_dir={folder}", FEW_ROWS, "algorithm=none", "feedback.noise=0.0,2.0")
    assert status == 2
    assert capfd.readouterr().err == "feedback.noise=2.0 must lie between 0 and 1; give a share such as 0.1\n"
    (wrong,) = records(folder, status="failed")
    assert wrong["reason"] == "feedback.noise=2.0 must lie between 0 and 1; give a share such as 0.1"
    assert [r["status"] for r in candidates(folder)].count("failed") == 1
    assert len(candidates(folder)) == 2
    assert len([row for row in table(folder) if row["status"].startswith("failed")]) == 1


def test_a_leaderboard_that_fails_ends_no_sweep(
    begun: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_table.py").write_text("def build(runs, to):\n    raise ValueError('no such table')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = begun("qa")
    given = ("task=qa", f"output_dir={folder}", FEW_ROWS, "algorithm=none", "evaluation.leaderboard=own_table.build")
    assert smoke_run("-m", *given, "seed=1,1") == 1
    assert capfd.readouterr().out.count("ValueError: no such table") == 2 * 2  # the reason, and the traceback
    assert len(candidates(folder)) == 1


# ---- other set-ups


def test_without_an_algorithm_the_policy_is_unchanged(begun: Callable[[str], Path]) -> None:
    folder = begun("translate")
    assert smoke_run("task=translate", "algorithm=none", f"output_dir={folder}", FEW_ROWS) == 0
    (candidate,) = candidates(folder)
    assert (candidate["status"], candidate["algorithm"]) == ("unchanged", "none")
    assert candidate["win_rates"]["judge"] == {"value": 50.0, "low": 50.0, "high": 50.0}
    assert candidate["scalars"]["kl"] == pytest.approx(0, abs=1e-5)
    assert candidate["metrics"]["gold"]["delta"] == 0
    assert len(labels(folder, "sft")) == 2  # the smoke run's two: nothing was trained


def test_finished_models_are_taken_as_they_are(finished: Callable[[str], Path], tmp_path: Path) -> None:
    stages = finished("summarize") / "stages"
    (sft,) = [
        path.parent for path in stages.glob("sft-*/manifest.json") if "model" in json.loads(path.read_text())["config"]
    ]
    given = [f"{name}.path={next(stages.glob(f'{name}-*'))}/model" for name in ("reward_model", "judge")]
    status = smoke_run(
        *("task=summarize", "sft=load", f"sft.path={sft}/model", "reward_model=load", "judge=load", *given),
        *(f"output_dir={tmp_path}", "candidate=loaded"),
    )
    assert status == 0
    (candidate,) = candidates(tmp_path)
    (original,) = candidates(finished("summarize"))
    assert candidate["metrics"]["gold"]["before"] == pytest.approx(original["metrics"]["gold"]["before"])
    assert candidate["win_rates"]["reference"] is not None
    assert candidate["judge"] == "load"
    assert not list(tmp_path.glob("stages/judge-*/metrics.jsonl"))  # no training happened
    assert not list(tmp_path.glob("stages/reward_model-*/metrics.jsonl"))


def test_without_a_judge_its_cells_stay_empty(begun: Callable[[str], Path]) -> None:
    folder = begun("dialogue")
    assert smoke_run("task=dialogue", "judge=none", "algorithm=none", f"output_dir={folder}", FEW_ROWS) == 0
    (candidate,) = candidates(folder)
    assert (candidate["win_rates"]["judge"], candidate["win_rates"]["reference"]) == (None, None)
    assert candidate["judge_fingerprint"] is None
    assert "no judge" in candidate["flags"]
    (row,) = [row for row in table(folder) if "judge=none" in row["candidate"]]
    assert (row["win_rate"], row["win_rate_reference"], row["judge_accuracy"], row["rank"]) == ("", "", "", "")
    assert row["win_rate_gold"] != ""


@pytest.mark.extended
def test_a_model_on_disk(finished: Callable[[str], Path], tmp_path: Path) -> None:
    (base,) = {str(path) for path in (finished("qa") / "stages").glob("sft-*/base")}
    shutil.copytree(base, tmp_path / "tiny-model")
    status = smoke_run(
        *("task=qa", "model=hf", f"model.name={tmp_path}/tiny-model", "sft.max_steps=8", f"output_dir={tmp_path}/runs"),
        *("evaluation.fixed_rows=[references,base,sft]", "algorithm=none"),
    )
    assert status in (0, 1)  # so short a training may leave too few pairs that differ in gold
    (candidate,) = candidates(tmp_path / "runs")
    assert candidate["model"] == "tiny-model"
    sft = next((tmp_path / "runs" / "stages").glob("sft-*/model"))
    assert json.loads((sft / "config.json").read_text())["n_embd"] == 64


def test_a_model_that_cannot_be_loaded_is_found_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    given = ("task=qa", "model=hf", f"model.name={tmp_path}/empty", f"output_dir={tmp_path}/runs")
    assert smoke_run(*given) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith(f"model.name={tmp_path}/empty holds no config.json; give a folder")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not labels(tmp_path / "runs")


def test_a_gate_that_refuses_is_a_row_with_its_reason(begun: Callable[[str], Path]) -> None:
    folder = begun("summarize")
    status = smoke_run(
        *(
            "task=summarize",
            f"output_dir={folder}",
            "evaluation.fixed_rows=[references,sft,sft-more]",
            "reward_model.optimizer.lr=1e-9",
            "reward_model.epochs=0.1",
        ),
        "algorithm.checks.skip_gates=[]",
    )
    assert status == 1
    (candidate,) = candidates(folder)
    assert candidate["status"] == "failed"
    assert candidate["reason"].startswith(
        "gate accuracy: the reward model is no better than chance on held-out pairs ("
    )
    (row,) = [row for row in table(folder) if row["status"].startswith("failed")]
    assert row["status"] == f"failed: {candidate['reason']}"
    assert not [label for label in labels(folder, "ppo") if label not in labels(folder)]
    controls = records(folder, fixed=True)  # they stay, and the one whose turn comes last is made all the same
    assert {r["candidate"]: r["status"] for r in controls} == dict.fromkeys(("references", "sft", "sft-more"), "ok")


def test_a_control_that_fails_last_is_a_row_with_its_reason_beside_a_candidate_that_stands(
    begun: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training import sft

    def fail(*_: Any, **__: Any) -> Any:
        raise RunFailed("as this test wants it")

    folder = begun("qa")
    for manifest in list(folder.glob("stages/*/manifest.json")):
        made_of = json.loads(manifest.read_text())["config"]
        if "response_passes" in made_of or made_of.get("row") == "sft-more":
            shutil.rmtree(manifest.parent)
    monkeypatch.setattr(sft, "run_sft_more", fail)
    assert smoke_run("task=qa", f"output_dir={folder}") == 1
    assert {r["status"] for r in candidates(folder)} == {"ok"}
    (failed,) = records(folder, status="failed")
    assert (failed["candidate"], failed["reason"]) == ("sft-more", "as this test wants it")
    (row,) = [row for row in table(folder) if row["status"].startswith("failed")]
    assert (row["candidate"], row["status"]) == ("sft-more", "failed: as this test wants it")


def test_the_prompts_that_an_algorithm_uses_are_those_of_the_named_splits(
    begun: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.data.prepared import PreparedData
    from harness.training.ppo import PPO

    folder, seen = begun("summarize"), []

    def train(self: PPO, setup: Any) -> Any:
        seen.extend(setup.policy.codec.decode(setup.prompts))
        raise RuntimeError("seen")

    monkeypatch.setattr(PPO, "train", train)
    asked = ("task=summarize", f"output_dir={folder}", FEW_ROWS, "algorithm.prompt_splits=[rl,preference]")
    assert smoke_run(*asked) == 1
    (data,) = (folder / "stages").glob("data-*")
    splits = PreparedData.read(data).splits
    wanted = [example.fields["source"] for split in ("preference", "rl") for example in splits[split]]
    assert len(seen) == len(wanted) > len(splits["rl"])
    assert all(text.startswith(source[:20]) for text, source in zip(seen, wanted, strict=True))


# ---- data of one's own

WORDS = "red blue green old new small large quick slow warm cold round flat loud calm bright"
THINGS = "house boat tree road lamp stone river cloud chair glass field train clock bridge tower garden"


def sentences() -> Iterator[tuple[str, str, str]]:
    places = THINGS.split()
    for first in WORDS.split():
        for thing in places:
            yield first, thing, f"the {first} {thing} stands near the {places[len(first)]} today"


def rows_of(task: str) -> list[dict[str, Any]]:
    """256 rows in the shape that a user might bring for a task."""
    make: Mapping[str, Callable[[str, str, str], dict[str, Any]]] = {
        "dialogue": lambda first, thing, text: {
            "turns": ["Hello.", f"Where is the {first} {thing}?"],
            "replies": [f"It is near the {first} river.", "Over there."],
        },
        "qa": lambda first, thing, text: {
            "passage": text,
            "ask": f"which {thing}",
            "answers": [f"the {first} {thing}"],
        },
        "summarize": lambda first, thing, text: {
            "document": f"{text}. nobody minds.",
            "summary": f"{first} {thing} stands",
        },
        "translate": lambda first, thing, text: {"en": text, "de": f"{thing} {first} steht heute"},
    }
    return [make[task](*parts) for parts in sentences()]


COLUMNS = {
    "dialogue": {"turns": "turns", "references": "replies"},
    "qa": {"context": "passage", "question": "ask", "references": "answers"},
    "summarize": {"source": "document", "response": "summary"},
    "translate": {"source": "en", "response": "de"},
}


def write_rows(folder: Path, task: str) -> list[str]:
    """jsonl files of a task, and the overrides that read them."""
    folder.mkdir()
    rows = rows_of(task)
    for name, part in {"train": rows[:192], "validation": rows[192:224], "test": rows[224:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    mapped = [f"data.columns.{name}={column}" for name, column in COLUMNS[task].items()]
    return [f"task={task}", "data=local", f"data.path={folder}", *mapped, "judge.responses=samples", FEW_ROWS]


SHORT = ("task.max_response_tokens=16", "sft.epochs=2", "feedback.min_pairs=1", "judge.min_pairs=1")


@pytest.mark.extended
@pytest.mark.parametrize("task", TASKS)
def test_files_of_ones_own_with_a_metric_as_annotator(task: str, tmp_path: Path) -> None:
    given = write_rows(tmp_path / "mine", task)
    more = "judge.samples_per_prompt=16"  # of a backbone that knows next to nothing, which mostly says the same
    status = smoke_run(*given, "feedback=metric", *SHORT, more, f"output_dir={tmp_path}/runs")
    assert status == 0
    (candidate,) = candidates(tmp_path / "runs")
    assert (candidate["data"], candidate["feedback"]) == ("mine", "metric")
    assert candidate["n_examples"] == 32
    assert "gold" not in candidate["metrics"]
    assert candidate["win_rates"]["judge"] is not None
    report = candidate["data_report"]
    assert sum(report["counts"][split] for split in ("sft", "preference", "judge", "rl")) <= 192
    assert report["cuts"] is not None


@pytest.mark.extended
def test_preference_pairs_of_ones_own(tmp_path: Path) -> None:
    given = write_rows(tmp_path / "mine", "dialogue")
    pairs = [
        {"turns": ["Hi.", f"A {first} {thing}?"], "good": f"Yes, a {first} one.", "bad": f"What {thing} ever?"}
        for first, thing, _ in sentences()
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    mapped = [f"data.pairs_columns.{name}={column}" for name, column in PAIR_COLUMNS.items()]
    status = smoke_run(
        *(*given, "feedback=pairs", f"data.pairs_path={tmp_path}/pairs.jsonl", *mapped, "judge.responses=pairs"),
        *(*SHORT, f"output_dir={tmp_path}/runs"),
    )
    assert status == 0
    (candidate,) = candidates(tmp_path / "runs")
    assert (candidate["feedback"], candidate["judge"]) == ("pairs", "pairs")
    assert candidate["report_card"]["accuracy"]["estimate"] > 50  # chosen and rejected differ in their very words
    assert sum(candidate["data_report"]["pair_counts"].values()) == 256


PAIR_COLUMNS = {"turns": "turns", "chosen": "good", "rejected": "bad"}


# ---- interrupted


@pytest.mark.extended
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_keeps_what_is_finished(sent: signal.Signals, status: int, tmp_path: Path) -> None:
    sizes = ["sft.epochs=1000", "judge=none"]  # training that would not end by itself
    process = subprocess.Popen(
        command("task=qa", *sizes),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/stages/sft-*/metrics.jsonl")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sent)
    _, said = process.communicate(timeout=300)
    assert process.returncode == status
    assert said.strip().splitlines() == [
        "Interrupted. Finished stages and records are kept; the same command goes on from there."
    ]
    assert {label.rpartition("-")[0] for label in labels(tmp_path / "runs")} == {"data", "evaluation"}
    texts = {"references", "copy-input", "empty", "longest"}  # what was evaluated before SFT began
    assert {r["candidate"] for r in records(tmp_path / "runs")} == texts
