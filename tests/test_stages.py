"""Stages run once: what a fingerprint depends on, when outputs are valid, and who waits for whom."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from harness.errors import RunFailed, UserError
from harness.progress import Progress
from harness.stages import MANIFEST, Stage, StageRunner, Workspace, all_stages


def silent() -> Progress:
    return Progress("quiet", error_stream=StringIO())


def write_nothing(workspace: Workspace) -> dict[str, Any]:
    return {}


def stage(run: Callable[[Workspace], dict[str, Any]] = write_nothing, **given: Any) -> Stage:
    settings: dict[str, Any] = {
        "name": "sft",
        "version": 1,
        "config": {"lr": 0.1, "sizes": [1, 2]},
        "inputs": {},
        "seed": 1,
        "environment": {"threads": 1},
        **given,
    }
    return Stage(run=run, **settings)


# ---- fingerprints


def test_a_fingerprint_that_was_worked_out_by_hand() -> None:
    import hashlib

    parts = (
        '{"config":{"lr":0.1,"sizes":[1,2]},"environment":{"threads":1},"inputs":{},"name":"sft","seed":1,"version":1}'
    )
    assert stage().fingerprint == hashlib.sha256(parts.encode()).hexdigest()[:8]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "feedback"},
        {"version": 2},
        {"config": {"lr": 0.1000001, "sizes": [1, 2]}},
        {"config": {"lr": 0.1, "sizes": [2, 1]}},
        {"config": {"lr": 0.1, "sizes": [1, 2], "more": None}},
        {"inputs": {"data": stage(name="data")}},
        {"seed": 2},
        {"seed": None},
        {"environment": {"threads": 2}},
    ],
)
def test_everything_that_changes_numbers_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert stage(**change).fingerprint != stage().fingerprint


def test_a_change_is_felt_by_all_stages_after_it_and_by_none_before() -> None:
    def chain(seed: int, lr: float) -> list[Stage]:
        data = stage(name="data", seed=seed)
        sft = stage(name="sft", inputs={"data": data}, config={"lr": lr})
        return [data, sft, stage(name="ppo", inputs={"data": data, "sft": sft})]

    def same(first: list[Stage], second: list[Stage]) -> list[bool]:
        return [a.fingerprint == b.fingerprint for a, b in zip(first, second, strict=True)]

    assert same(chain(1, 0.1), chain(1, 0.1)) == [True, True, True]
    assert same(chain(1, 0.1), chain(1, 0.2)) == [True, False, False]
    assert same(chain(1, 0.1), chain(2, 0.1)) == [False, False, False]


def test_the_order_of_keys_and_the_code_do_not_matter() -> None:
    other = stage(lambda workspace: {"x": 1}, config={"sizes": [1, 2], "lr": 0.1})
    assert other.fingerprint == stage().fingerprint


def test_stages_are_listed_inputs_first_and_once() -> None:
    data = stage(name="data")
    sft = stage(name="sft", inputs={"data": data})
    ppo = stage(name="ppo", inputs={"sft": sft, "data": data})
    assert [s.name for s in all_stages(ppo)] == ["data", "sft", "ppo"]


# ---- running


def test_seeds_differ_by_purpose_stage_and_seed(tmp_path: Path) -> None:
    def seeds(name: str, seed: int) -> list[int]:
        workspace = Workspace(tmp_path, {}, seed, silent(), name)
        return [workspace.seed_for(purpose) for purpose in ("order", "head")]

    drawn = [*seeds("sft", 1), *seeds("sft", 2), *seeds("ppo", 1)]
    assert len(set(drawn)) == 6
    assert seeds("sft", 1) == drawn[:2]
    assert all(0 <= value < 2**63 for value in drawn)


def test_the_manifest_is_written_last_and_says_it_all(tmp_path: Path) -> None:
    seen: list[bool] = []

    def run(workspace: Workspace) -> dict[str, Any]:
        (workspace.directory / "model").write_text("weights")
        workspace.log({"step": 1})
        seen.append((workspace.directory / MANIFEST).exists())
        return {"accuracy": 81.5, "line": "went well"}

    made = stage(run, inputs={"data": stage(name="data")})
    finished = StageRunner(tmp_path, silent()).run(made)
    assert seen == [False]
    assert finished.directory == tmp_path / "stages" / f"sft-{made.fingerprint}"
    assert finished.summary == {"accuracy": 81.5}
    manifest = json.loads((finished.directory / MANIFEST).read_text())
    assert manifest["inputs"] == {"data": stage(name="data").label}
    assert (manifest["line"], manifest["seed"], manifest["version"]) == ("went well", 1, 1)
    assert manifest["wall_seconds"] >= 0
    assert json.loads((finished.directory / "metrics.jsonl").read_text()) == {"step": 1}
    assert sorted(path.name for path in finished.directory.iterdir()) == [MANIFEST, "metrics.jsonl", "model"]


def test_a_finished_stage_is_never_run_again_nor_are_its_inputs(tmp_path: Path) -> None:
    calls: list[str] = []

    def run(workspace: Workspace) -> dict[str, Any]:
        calls.append(workspace.name)
        return {}

    last = stage(run, name="ppo", inputs={"data": stage(run, name="data")})
    for _ in range(2):
        StageRunner(tmp_path, silent()).run(last)
    assert calls == ["data", "ppo"]


def test_a_failed_stage_leaves_no_manifest_and_is_made_anew(tmp_path: Path) -> None:
    calls: list[bool] = []

    def run(workspace: Workspace) -> dict[str, Any]:
        calls.append((workspace.directory / "half").exists())
        (workspace.directory / "half").write_text("done")
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return {}

    made = stage(run)
    with pytest.raises(RuntimeError, match="out of luck"):
        StageRunner(tmp_path, silent()).run(made)
    assert (tmp_path / "stages" / made.label / "half").exists()
    assert not list(tmp_path.rglob(MANIFEST))
    assert StageRunner(tmp_path, silent()).cached(made) is None
    StageRunner(tmp_path, silent()).run(made)
    assert calls == [False, False]  # what the interrupted run left was cleared away
    assert StageRunner(tmp_path, silent()).cached(made) is not None


def test_what_only_a_cached_stage_needs_is_not_missing(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, silent())
    model = stage(name="model", inputs={"data": stage(name="data")})
    row, other = (stage(name=name, inputs={"model": model}) for name in ("row", "other"))
    assert [each.name for each in runner.missing(row)] == ["data", "model", "row"]
    runner.run(row)
    shutil.rmtree(runner.directory(model))
    assert runner.missing(row) == []
    assert [each.name for each in runner.missing(other)] == ["model", "other"]


def test_a_manifest_that_cannot_be_read_just_now_costs_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage()
    StageRunner(tmp_path, silent()).run(made)

    def read(*_: Any, **__: Any) -> str:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read)
        with pytest.raises(OSError, match="Too many open files"):
            StageRunner(tmp_path, silent()).run(made)
    assert StageRunner(tmp_path, silent()).cached(made) is not None


def test_what_a_stage_needs_of_its_surroundings_is_made_ready_where_its_numbers_depend_on_them(tmp_path: Path) -> None:
    done: list[str] = []
    runner = StageRunner(tmp_path, silent(), lambda: done.append("ready"))

    def noted(name: str, **given: Any) -> Stage:
        return stage(lambda _: done.append(name) or {}, name=name, **given)  # type: ignore[func-returns-value]

    last = noted("sft", inputs={"data": noted("data", environment={})})
    runner.run(last)
    assert done == ["data", "ready", "sft"]
    StageRunner(tmp_path, silent(), lambda: done.append("again")).run(last)
    assert done == ["data", "ready", "sft"], "what is cached needs nothing"


def test_a_summary_that_json_does_not_know_makes_no_manifest(tmp_path: Path) -> None:
    made = stage(lambda workspace: {"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        StageRunner(tmp_path, silent()).run(made)
    assert not list(tmp_path.rglob(MANIFEST))


def test_another_stage_of_the_same_name_is_another_folder(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, silent())
    first, second = (runner.run(replace(stage(), seed=seed)) for seed in (1, 2))
    assert first.directory != second.directory


TWO_AT_ONCE = """
import sys, time
from pathlib import Path
from harness.progress import Progress
from harness.stages import Stage, StageRunner

folder, name = Path(sys.argv[1]), sys.argv[2]

def run(workspace):
    with (folder / "worked").open("a") as file:
        file.write(name + "\\n")
    deadline = time.monotonic() + 60
    while not (folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"by": name}

class Watched(Progress):
    def message(self, text):
        (folder / "waiting").write_text(text)

made = Stage("sft", 1, {}, {}, 1, {}, run)
print(StageRunner(folder, Watched("quiet")).run(made).summary["by"])
"""


def test_of_two_processes_one_works_and_the_other_reuses(tmp_path: Path) -> None:
    """Whoever holds the lock works until the other says that it waits; both then have the same outputs."""
    started = [
        subprocess.Popen([sys.executable, "-c", TWO_AT_ONCE, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    worked = (tmp_path / "worked").read_text().split()
    assert len(worked) == 1
    assert answers == worked * 2
    assert "waiting for the process that makes it" in (tmp_path / "waiting").read_text()


def test_a_stage_yields_to_one_that_another_process_makes_once_its_inputs_are_there(tmp_path: Path) -> None:
    begun, waited, seen, done = Event(), Event(), StringIO(), []

    def run(workspace: Workspace) -> dict[str, Any]:
        begun.set()
        assert waited.wait(120)
        done.append("the other")
        return {}

    class Watched(Progress):
        def waiting(self, name: str) -> None:
            assert done == ["input"]
            seen.write(name)
            waited.set()

    def noted(name: str, **given: Any) -> Stage:
        return stage(lambda _: done.append(name) or {}, name=name, **given)  # type: ignore[func-returns-value]

    made = stage(run)
    maker = Thread(target=StageRunner(tmp_path, silent()).run, args=(made,))
    maker.start()
    assert begun.wait(120)
    runner, row = StageRunner(tmp_path, Watched("quiet")), noted("row", inputs={"input": noted("input")})
    runner.run(row, yielding_to=made)
    maker.join(120)
    assert done == ["input", "the other", "row"]
    assert seen.getvalue() == made.label
    untouched = stage(seed=2)
    runner.run(noted("second"), yielding_to=untouched)
    assert runner.cached(untouched) is None
    assert seen.getvalue() == made.label


def test_a_finished_stage_yields_to_none_and_asks_for_no_inputs(tmp_path: Path) -> None:
    from filelock import FileLock

    other, row = stage(seed=2), stage(inputs={"input": stage(seed=3)})
    first = StageRunner(tmp_path, silent()).run(row)
    shutil.rmtree(StageRunner(tmp_path, silent()).directory(row.inputs["input"]))
    with FileLock(tmp_path / "stages" / f".{other.label}.lock"):
        assert StageRunner(tmp_path, silent()).run(row, yielding_to=other) == first
    assert StageRunner(tmp_path, silent()).cached(row.inputs["input"]) is None


# ---- what was lost


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "cannot be read (Expecting value"),
        (lambda text: text[: len(text) // 2], "cannot be read ("),
        (lambda text: "[" * 9000, "cannot be read ("),
        (lambda text: "[]", "is no manifest"),
        (lambda text: text.replace('"wall_seconds"', '"seconds"'), "lacks wall_seconds"),
    ],
    ids=["empty", "cut", "deep", "list", "key"],
)
def test_a_stage_with_a_damaged_manifest_is_made_anew_and_said_once(
    damage: Callable[[str], str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    last = stage(lambda workspace: calls.append("run") or {})  # type: ignore[func-returns-value]
    first = StageRunner(tmp_path, silent()).run(last)
    path = first.directory / MANIFEST
    path.write_text(damage(path.read_text()))
    progress, said = silent(), []
    monkeypatch.setattr(progress, "warning", said.append)
    runner = StageRunner(tmp_path, progress)
    assert runner.cached(last) is None
    assert runner.run(last).summary == {}
    assert calls == ["run", "run"]
    assert len(said) == 1
    assert said[0].startswith(f"{path} {words}")
    assert said[0].endswith("; the stage counts as unfinished, and is made anew")


def test_a_stage_whose_files_are_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    def train(workspace: Workspace) -> dict[str, Any]:
        for name in ("model/config.json", "model/weights", "metrics.jsonl"):
            (workspace.directory / name).parent.mkdir(exist_ok=True)
            (workspace.directory / name).write_text("{}")
        return {}

    sft = stage(train)
    folder = StageRunner(tmp_path, silent()).run(sft).directory
    (folder / "metrics.jsonl").unlink()  # which only people read
    StageRunner(tmp_path, silent()).run(stage(name="a", inputs={"sft": sft}))
    shutil.rmtree(folder / "model")
    later = stage(name="b", inputs={"sft": sft})
    with pytest.raises(UserError) as caught:
        StageRunner(tmp_path, silent()).run(later)
    rule = "lacks model/config.json and 1 more files; delete that folder, and the stage is made anew"
    assert str(caught.value) == f"{folder} {rule}"
    shutil.rmtree(folder)
    StageRunner(tmp_path, silent()).run(later)


def test_what_led_to_a_stage_is_known_when_its_folders_are_gone(tmp_path: Path) -> None:
    data = stage(lambda _: {"rows": 3}, name="data")
    sft = stage(lambda _: {"loss": 2.5}, inputs={"data": data})
    rm = stage(lambda _: {"accuracy": 80}, name="reward_model", inputs={"sft": sft})
    last = stage(lambda _: {"score": 1}, name="evaluation", inputs={"data": data, "rm": rm})
    StageRunner(tmp_path, silent()).run(rm)
    shutil.rmtree(tmp_path / "stages" / sft.label)  # known from the reward model when the evaluation is made
    StageRunner(tmp_path, silent()).run(last)
    whole = StageRunner(tmp_path, silent()).history(last)
    for gone in (rm, data):
        shutil.rmtree(tmp_path / "stages" / gone.label)
    runner = StageRunner(tmp_path, silent())
    assert runner.cached(rm) is None
    assert runner.history(last) == whole
    assert {each.name: whole[each.fingerprint]["summary"] for each in (data, sft, rm, last)} == {
        "data": {"rows": 3},
        "sft": {"loss": 2.5},
        "reward_model": {"accuracy": 80},
        "evaluation": {"score": 1},
    }
    assert all(set(known) == {"wall_seconds", "peak_memory_mb", "summary"} for known in whole.values())


@pytest.mark.parametrize(
    ("error", "tries"), [(UserError("k", 1, "is wrong", "mend it"), 1), (RunFailed("x"), 1), (OSError("disk"), 2)]
)
def test_a_job_tries_again_only_what_may_go_well(error: Exception, tries: int, tmp_path: Path) -> None:
    tried = []

    def run(_: Workspace) -> dict[str, Any]:
        tried.append(1)
        raise error

    progress = silent()
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            StageRunner(tmp_path, progress).run(stage(run))
    assert len(tried) == tries
    with pytest.raises(type(error), match=str(error)):  # another job tries it all the same
        StageRunner(tmp_path, silent()).run(stage(run))
    assert len(tried) == tries + 1
