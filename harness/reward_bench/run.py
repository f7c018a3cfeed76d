"""One job of the reward bench: read the preferences, ask the reward model, measure, and keep a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.api.stage import CACHE
from harness.hardware import Hardware
from harness.models.content import content_identity
from harness.pipeline import leaderboard_function, make_task
from harness.progress import Progress
from harness.provenance import git_commit, hardware_facts, versions
from harness.recording import reason
from harness.reward_bench.config import RewardBenchConfig
from harness.reward_bench.judge import PairJudge, judge_identity, scorer_endpoint
from harness.reward_bench.preferences import Preferences, read_preferences
from harness.reward_bench.records import SCHEMA, BenchRecord, run_id, write_bench_record
from harness.reward_bench.report import report
from harness.reward_bench.verdicts import Examined, Verdicts
from harness.stages import Finished, Stage, StageRunner, Workspace
from harness.types import Task

VERSION = 5


@dataclass(frozen=True)
class Examination:
    """One job, resolved."""

    config: RewardBenchConfig
    overrides: Sequence[str]
    command: str
    task: Task
    found: Preferences
    hardware: Hardware
    stage: Stage

    @property
    def candidate(self) -> str:
        """``candidate``, else the reward model's name."""
        return self.config.candidate or model_label(self.config)

    @property
    def data(self) -> str:
        return self.config.data.name or Path(str(self.config.data.pairs_path)).name.split(".")[0]


def examination(config: RewardBenchConfig, overrides: Sequence[str], command: str) -> Examination:
    """Read and check all that is cheap to check, before any model is loaded.

    Raises:
        UserError: the task, the preferences, the device or the leaderboard's function is wrong.
    """
    task = make_task(config.task)
    leaderboard_function("leaderboard", config.leaderboard)
    found = read_preferences(config.data, task)
    hardware = Hardware.resolve(config.hardware)
    if config.scorer.kind == "judge":
        scorer_endpoint(config.scorer).require_reachable()
    identity = {
        "scorer": scorer_identity(config),
        "task": {
            "name": task.name,
            "version": task.version,
            "template": config.task.template,
            "options": config.task.options,
        },
        "data": found.report["content_hash"],
        "subsets": _digest(found.subsets),
        "resamples": config.resamples,
        "best_of_n": list(config.best_of_n),
    }
    run = partial(_run, config=config, task=task, found=found, hardware=hardware)
    environment = {} if config.scorer.kind == "judge" else hardware.environment()  # a judge computes nothing here
    stage = Stage("reward_bench", VERSION, identity, {}, None, environment, run)
    return Examination(config, overrides, command, task, found, hardware, stage)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def scorer_identity(config: RewardBenchConfig) -> dict[str, Any]:
    """What of the scorer decides its verdicts: contents, not paths."""
    scorer = config.scorer
    if scorer.kind == "judge":
        return judge_identity(scorer)
    return {
        "kind": scorer.kind,
        "content": content_identity(str(scorer.path), scorer.revision, key="scorer.path"),
        "format": scorer.format,
        "max_tokens": scorer.max_tokens,
    }


def model_label(config: RewardBenchConfig) -> str:
    """A folder's name (the stage's, for a model of ours), the hub id, or the endpoint's name of it."""
    if config.scorer.kind == "judge":
        name = str(config.scorer.name)
        return Path(name).name if name.startswith("/") else name
    path = Path(str(config.scorer.path))
    if not path.expanduser().is_dir():
        return str(config.scorer.path)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def run(job: Examination, progress: Progress) -> None:
    """Run one job to its record; a job that fails leaves one too."""
    output_dir = Path(job.config.output_dir)
    progress.message(f"{job.data} · {job.candidate} · {job.hardware.description()}")
    if (caution := job.hardware.caution()) is not None:
        progress.warning(caution)
    try:
        finished = StageRunner(output_dir, progress, job.hardware.prepare).run(job.stage)
    except Exception as error:
        write_bench_record(output_dir, _failed(job, error))
        raise
    write_bench_record(output_dir, _record(job, finished))
    for name, part in finished.summary["report"]["subsets"].items():
        of = f"({part['pairs']} pairs of {part['prompts']} prompts)"
        progress.message(f"  {name:<24} {_shown(part['accuracy'])}  {of}")


def load(config: RewardBenchConfig, task: Task, hardware: Hardware) -> Examined:
    """The examined reward model."""
    if config.scorer.kind == "judge":
        return PairJudge(config.scorer, task, Path(config.output_dir) / CACHE)
    from harness.reward_bench.classifier import load_classifier

    return load_classifier(config.scorer, task, hardware)


def _run(
    workspace: Workspace, *, config: RewardBenchConfig, task: Task, found: Preferences, hardware: Hardware
) -> dict[str, Any]:
    """The stage: verdicts into ``verdicts.jsonl``, the report into the summary."""
    examined = load(config, task, hardware)
    with workspace.progress.stage("reward bench", len(found.pairs), "pairs") as bar:
        verdicts = examined.judge(found.pairs, bar.update)
    _write_verdicts(workspace.directory / "verdicts.jsonl", found, verdicts)
    made = report(found, verdicts, counts=config.best_of_n, resamples=config.resamples)
    line = f"accuracy {_shown(made['accuracy'])} on {made['pairs']} pairs of {made['prompts']} prompts"
    if made["flip_rate"] is not None:
        line += f", {made['flip_rate']['estimate']:.1f} % flipped with the order"
    return {"report": made, "line": line}


def _write_verdicts(path: Path, found: Preferences, verdicts: Verdicts) -> None:
    """One line per pair, with every number that was measured on it."""
    count = len(found.pairs)
    with path.open("w", encoding="utf-8") as file:
        for row, pair in enumerate(found.pairs):
            line: dict[str, Any] = {"id": pair.id, "margin": float(verdicts.margins[row])}
            if verdicts.scores is not None:
                line |= {"chosen": float(verdicts.scores[row]), "rejected": float(verdicts.scores[count + row])}
            if verdicts.flips is not None:
                line["flipped"] = bool(verdicts.flips[row])
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _record(job: Examination, finished: Finished) -> BenchRecord:
    manifest, made = finished.manifest, finished.summary["report"]
    identity: BenchRecord = _identity(job)
    return {
        **identity,
        "status": "ok",
        "reason": None,
        "flags": flags(made),
        "report": made,
        "wall_seconds": manifest["wall_seconds"],
        "peak_memory_mb": manifest["peak_memory_mb"],
    }


def _failed(job: Examination, error: BaseException) -> BenchRecord:
    identity: BenchRecord = _identity(job)
    return {
        **identity,
        "status": "failed",
        "reason": reason(error),
        "flags": [],
        "report": {},
        "wall_seconds": 0.0,
        "peak_memory_mb": None,
    }


def _identity(job: Examination) -> Any:
    """The part of a record that says which piece of work it is about."""
    config = job.config
    return {
        "schema": SCHEMA,
        "run_id": run_id(job.data, job.candidate, job.stage.fingerprint),
        "candidate": job.candidate,
        "kind": config.scorer.kind,
        "model": model_label(config),
        "task": job.task.name,
        "data": job.data,
        "data_hash": job.found.report["content_hash"],
        "data_report": job.found.report,
        "config": asdict(config),
        "overrides": list(job.overrides),
        "command": job.command,
        "fingerprint": job.stage.fingerprint,
        "versions": versions(),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware_facts(job.hardware),
        "device": job.hardware.device,
    }


def flags(made: dict[str, Any]) -> list[str]:
    """What to know before reading a row."""
    found = []
    changed = (made.get("batch_invariance") or {}).get("verdicts_changed")
    if changed:
        found.append(f"{changed} verdicts depend on the batch")
    for name, share in (("prompts", made.get("prompt_cut_share")), ("responses", made.get("response_cut_share"))):
        if share:
            found.append(f"{100 * share:.1f} % of {name} cut")
    if silent := (made.get("no_verdict") or {}).get("count"):
        found.append(f"{silent} of {2 * made['pairs']} answers without a verdict")
    return found


def _shown(interval: dict[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    ends = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
    return f"{interval['estimate']:.1f}{ends}"
