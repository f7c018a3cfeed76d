"""From what a job's stages left behind to its records: one per row of the table, of failed jobs too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.context import Job
from harness.errors import RunFailed, UserError
from harness.evaluation.stage import TEXT_ROWS, read_lines
from harness.graph import Graph
from harness.needs import needs_feedback, trains
from harness.provenance import git_commit, hardware_facts, versions
from harness.records import SCHEMA, Record, run_id, write_record
from harness.request import Request, folder_label
from harness.stages import Finished, Stage, StageRunner, all_stages

LONGEST_REASON = 300
"""Characters of a message of others' code in the table; the traceback that is shown has all of it."""


def record(
    request: Request, job: Job, graph: Graph, stage: Stage, evaluation: Finished, runner: StageRunner, row: str | None
) -> Record:
    """The record of one row of the table, from the manifests of the stages that led to it.

    Of a stage whose folder was deleted since, those after it keep what the record needs; one of which nothing is known
    any more is named in a flag.

    Args:
        request: with the configuration, the overrides and the command that the record keeps.
        job: with the task's version and the hardware.
        graph: the stages.
        stage: the row's evaluation.
        evaluation: what it left.
        runner: finds the manifests.
        row: the fixed row, or None for the candidate. A fixed row has the seed of its own stage, no algorithm, and, but
            for best-of-n, no feedback.
    """
    config, summary = job.config, evaluation.summary
    led_here = {before.fingerprint: before for before in all_stages(stage)}
    known = runner.history(stage)
    parts = {
        name: known[part.fingerprint]["summary"] for name, part in graph.parts.items() if part.fingerprint in known
    }
    gone = [before.label for fingerprint, before in led_here.items() if fingerprint not in known]
    card = dict(parts.get("reward_model", {}).get("report_card") or {})
    bon = runner.cached(graph.rows["best-of-n"]) if row is None and "best-of-n" in graph.rows else None
    if bon is not None:
        card["best_of_n_gain"] = bon.summary["best_of_n_gain"]
    judge_card = parts.get("judge", {}).get("report_card") or {}
    scalars: Any = {
        **dict.fromkeys(_SCALARS),
        **summary["scalars"],
        "rm_accuracy": (card.get("accuracy") or {}).get("estimate"),
        "judge_accuracy": (judge_card.get("accuracy") or {}).get("estimate"),
    }
    identity: Record = _identity(request, job, graph, stage, row)
    if "answers" in parts:
        identity["api"] = parts["answers"]["usage"]
    return {
        **identity,
        "status": summary.get("status", "ok"),
        "reason": summary.get("reason"),
        "flags": [*summary.get("flags", []), *([f"without {', '.join(gone)}, deleted"] if gone else [])],
        "data_hash": _data_hash(parts["data"]["report"]),
        "wall_seconds": round(sum(known[name]["wall_seconds"] for name in led_here if name in known), 1),
        "peak_memory_mb": max(known[name]["peak_memory_mb"] for name in led_here if name in known),
        "n_examples": summary["n_examples"],
        "metrics": summary["metrics"],
        "win_rates": summary["win_rates"],
        "scalars": scalars,
        "report_card": card,
        "data_report": {
            **_data_report(parts, summary),
            "gold_bleu_correlation": _correlation(graph, runner, led_here),
            "judge_report_card": judge_card,
        },
        "curves": summary.get("curves", []) + (bon.summary["curves"] if bon is not None else []),
        "samples": _samples(evaluation.directory, config.evaluation.samples_in_record),
    }


def _data_report(parts: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the data stage found and dropped, with what the stages after it cut, made of it and learned from it."""
    feedback = parts.get("feedback")
    return {
        **parts["data"]["report"],
        "cuts": parts.get("sft", {}).get("cuts"),
        **{
            f"{name}_cuts": parts.get(name, {}).get("cuts")
            for name in ("feedback", "reward_model", "judge", "algorithm")
        },
        "test_cuts": summary.get("test_cuts"),
        "judge_test_cuts": summary.get("judge_test_cuts"),
        "sft_validation_loss": parts.get("sft", {}).get("validation_loss"),
        "feedback": None if feedback is None else {name: feedback[name] for name in ("train", "heldout")},
    }


_SCALARS = (
    "proxy_before",
    "proxy_after",
    "kl",
    "length_before",
    "length_after",
    "repetition_before",
    "repetition_after",
    "eos_before",
    "eos_after",
    "rm_accuracy",
    "judge_accuracy",
)


def _identity(request: Request, job: Job, graph: Graph, stage: Stage, row: str | None) -> Any:
    """What says which piece of work a record is about."""
    seed = job.config.seed if row is None or stage.seed is None else stage.seed
    judge = graph.parts.get("judge")
    led_here = {before.fingerprint for before in all_stages(stage)}
    return {
        **_request_identity(request, row, seed, stage.fingerprint),
        "judge_fingerprint": judge.fingerprint if judge is not None else None,
        "task_version": job.task.version,
        "fingerprints": {name: part.fingerprint for name, part in graph.parts.items() if part.fingerprint in led_here},
        "hardware": hardware_facts(job.hardware),
        "device": job.hardware.device,
    }


def _request_identity(request: Request, row: str | None, seed: int, fingerprint: str) -> Any:
    """The part of a record's identity that needs no more than the configuration."""
    config, candidate = request.config, row or request.candidate
    return {
        "schema": SCHEMA,
        "run_id": run_id(config.task.name, candidate, seed, fingerprint),
        "task": config.task.name,
        "candidate": candidate,
        "fixed": row is not None,
        "seed": seed,
        "model": "" if row in TEXT_ROWS else _model_label(config),
        "algorithm": "" if row is not None or not trains(config) else config.algorithm.name,
        "feedback": config.feedback.kind if row in (None, "best-of-n") and needs_feedback(config) else "",
        "judge": config.judge.source if config.judge.source != "train" else config.judge.responses,
        "data": config.data.name or (Path(config.data.path).name if config.data.path else config.data.source),
        "main_metric": config.task.main_metric,
        "config": asdict(config),
        "overrides": request.overrides,
        "fingerprint": fingerprint,
        "versions": versions(),
        "git_commit": git_commit(),
        "command": request.command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def fail(
    request: Request, job: Job, graph: Graph, error: BaseException, runner: StageRunner, row: str | None = None
) -> None:
    """Give a failed job, or a row of it, its place in the table: beside what was scored on the same data.

    Args:
        request: with the configuration, whose ``output_dir`` the record is written to.
        job: with the task's version and the hardware.
        graph: the stages.
        error: why it failed; its text becomes the record's reason. A record of a success stays as it is.
        runner: finds the data's manifest, whose hash says which rows it stands beside.
        row: the fixed row that failed, or None for the candidate.
    """
    stage = graph.candidate if row is None else graph.rows[row]
    data = runner.cached(graph.parts["data"])
    data_hash = None if data is None else _data_hash(data.summary["report"])
    _write_failed(request, {**_identity(request, job, graph, stage, row), "data_hash": data_hash}, error)


def _data_hash(report: Mapping[str, Any]) -> str:
    return str(report["content_hash"])[:16]


def refuse(request: Request, error: BaseException) -> None:
    """Give a job that could not even be planned its place in a sweep's table; a single run's message is enough."""
    config = request.config
    if config.plan or not request.sweep:
        return
    canonical = json.dumps({**asdict(config), "output_dir": None}, sort_keys=True, default=str)
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    identity = {
        **_request_identity(request, None, config.seed, fingerprint),
        "judge_fingerprint": None,
        "data_hash": None,
        "task_version": 0,
        "fingerprints": {},
        "hardware": asdict(config.hardware),
        "device": config.hardware.device,
    }
    _write_failed(request, identity, error)


def _write_failed(request: Request, identity: Any, error: BaseException) -> None:
    failed: Any = {
        **identity,
        "status": "failed",
        "reason": reason(error),
        "flags": [],
        "wall_seconds": 0.0,
        "peak_memory_mb": None,
        "n_examples": 0,
        "metrics": {},
        "win_rates": dict.fromkeys(("judge", "reference", "lc", "proxy", "gold")),
        "scalars": dict.fromkeys(_SCALARS),
        "report_card": {},
        "data_report": {},
        "curves": [],
        "samples": [],
    }
    write(Path(request.config.output_dir), failed)


def reason(error: BaseException) -> str:
    """One line that says why a job failed: a message of ours whole, of others' code the beginning.

    >>> reason(RuntimeError("no such kernel" + "\\nand where else it would have been" * 99))
    'RuntimeError: no such kernel'
    >>> len(reason(ValueError("x" * 5000))) < 2 * LONGEST_REASON
    True
    """
    if isinstance(error, (RunFailed, UserError)):
        return " ".join(str(error).split())
    first = next(iter(str(error).strip().splitlines()), "")
    shown = first if len(first) <= LONGEST_REASON else f"{first[:LONGEST_REASON]} …"
    return f"{type(error).__name__}: {shown}"


def write(output_dir: Path, made: Record) -> None:
    folder = output_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / f"{made['run_id']}.json", made)


def _model_label(config: Config) -> str:
    """The base model, or, where it is not known, the SFT policy that was given."""
    model = config.model
    if model.kind == "nano" and config.sft.source == "load":
        return folder_label(str(config.sft.path))
    if model.kind == "nano":
        return f"nano-{model.architecture}-{model.layers}x{model.width}"
    return Path(str(model.name)).name


def _correlation(graph: Graph, runner: StageRunner, led_here: Container[str]) -> float | None:
    sft = graph.rows.get("sft")
    found = runner.cached(sft) if sft is not None and sft.fingerprint in led_here else None
    return None if found is None else found.summary.get("gold_bleu_correlation")


def _samples(directory: Path, count: int) -> list[Any]:
    rows = read_lines(directory / "samples.jsonl")[:count]
    return [{key: value for key, value in row.items() if not key.startswith("after_")} for row in rows]
