"""One job from its configuration to its records: build the graph, run what is missing, write records, show a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.context import Job
from harness.errors import UserError
from harness.graph import Graph, build_graph
from harness.hardware import Hardware
from harness.plan import plan_rows
from harness.progress import Progress
from harness.provenance import git_commit, hardware_facts, versions
from harness.records import SCHEMA, Record, run_id, write_record
from harness.stages import Finished, Stage, StageRunner, all_stages


@dataclass(frozen=True)
class Request:
    """What was asked for: the configuration, the overrides that made it, and the command that repeats it."""

    config: Config
    overrides: list[str]
    command: str

    @property
    def candidate(self) -> str:
        """``candidate``, else the sorted overrides that tell candidates apart, else ``default``."""
        if self.config.candidate:
            return self.config.candidate
        same = ("task", "seed", "output_dir", "hardware", "tracker", "hydra", "plan", "candidate")
        telling = sorted(
            o for o in self.overrides if o.lstrip("+~").split("=")[0].split(".")[0].split("/")[0] not in same
        )
        return ",".join(telling) or "default"


def make_job(config: Config) -> Job:
    """The task, the world and the hardware that the configuration names.

    Raises:
        UserError: a class that is named does not exist, or a model that is named cannot be loaded.
    """
    task_config = config.task
    task_class = _class("task._target_", task_config._target_)
    try:
        task = task_class(
            template=task_config.template,
            metrics=list(task_config.metrics),
            main_metric=task_config.main_metric,
            **task_config.options,
        )
    except TypeError as error:
        rule = f"does not fit {task_config._target_} ({error})"
        raise UserError("task.options", task_config.options, rule, "give the options that the task takes") from error
    world = None
    if config.data.source == "controlled" and task_config.world is not None:
        world = _class("task.world", task_config.world)()
    _require_models(config)
    return Job(config, task, world, Hardware.resolve(config.hardware))


def _require_models(config: Config) -> None:
    """Find out now, not after minutes of work, that a model which was named cannot be loaded: read its tokenizer."""
    from harness.models.loading import load_codec

    models = [("model.name", config.model)]
    if config.judge.source == "train":
        models.append(("judge.model.name", config.judge.model))
    for key, model in models:
        if model.kind == "hf":
            load_codec(str(model.name), key=key, revision=model.revision)


def _class(key: str, name: str) -> Any:
    from hydra.utils import get_class

    try:
        return get_class(name)
    except Exception as error:
        raise UserError(key, name, "is no class that can be imported", "give package.module.Class") from error


def run(request: Request, progress: Progress) -> None:
    """Run one job to its records and the rebuilt leaderboard, or show its plan."""
    config = request.config
    job = make_job(config)
    graph = build_graph(job)
    output_dir = Path(config.output_dir)
    runner = StageRunner(output_dir, progress)
    if config.plan:
        progress.plan(plan_rows(job, graph, runner))
        return
    progress.message(f"{config.task.name} · {request.candidate} · seed {config.seed} · {job.hardware.description()}")
    try:
        # The reward model's report card, best-of-n included, is complete before the algorithm may use it.
        finished = {row: runner.run(stage) for row, stage in graph.rows.items()}
        candidate = runner.run(graph.candidate)
    except (UserError, Exception) as error:
        fail(request, error, graph=graph, job=job)
        raise
    for row, stage in graph.rows.items():
        write(output_dir, record(request, job, graph, stage, finished[row], runner, row))
    write(output_dir, record(request, job, graph, graph.candidate, candidate, runner, None))


def record(
    request: Request, job: Job, graph: Graph, stage: Stage, evaluation: Finished, runner: StageRunner, row: str | None
) -> Record:
    """The record of one row of the table, from the manifests of the stages that led to it."""
    config, summary = job.config, evaluation.summary
    led_here = {before.fingerprint: runner.cached(before) for before in all_stages(stage)}
    manifests = [found.manifest for found in led_here.values() if found is not None]
    of = {name: part for name, part in graph.parts.items() if part.fingerprint in led_here}
    parts = {name: found.summary for name, part in of.items() if (found := runner.cached(part)) is not None}
    card = dict(parts.get("reward_model", {}).get("report_card") or {})
    bon = runner.cached(graph.rows["best-of-n"]) if row is None and "best-of-n" in graph.rows else None
    if bon is not None:
        card["best_of_n_gain"] = bon.summary["best_of_n_gain"]
    judge_card = parts.get("judge", {}).get("report_card") or {}
    report = {
        **parts["data"]["report"],
        "cuts": parts.get("sft", {}).get("cuts"),
        "sft_validation_loss": parts.get("sft", {}).get("validation_loss"),
        "gold_bleu_correlation": _correlation(graph, runner),
        "feedback": {name: parts["feedback"][name] for name in ("train", "heldout")} if "feedback" in parts else None,
        "judge_report_card": judge_card,
    }
    scalars: Any = {
        **dict.fromkeys(_SCALARS),
        **summary["scalars"],
        "rm_accuracy": (card.get("accuracy") or {}).get("estimate"),
        "judge_accuracy": (judge_card.get("accuracy") or {}).get("estimate"),
    }
    identity: Record = _identity(request, job, graph, stage, row)
    return {
        **identity,
        "status": summary.get("status", "ok"),
        "reason": summary.get("reason"),
        "flags": summary.get("flags", []),
        "data_hash": parts["data"]["report"]["content_hash"][:16],
        "wall_seconds": round(sum(manifest["wall_seconds"] for manifest in manifests), 1),
        "peak_memory_mb": max(manifest["peak_memory_mb"] for manifest in manifests),
        "n_examples": summary["n_examples"],
        "metrics": summary["metrics"],
        "win_rates": summary["win_rates"],
        "scalars": scalars,
        "report_card": card,
        "data_report": report,
        "curves": summary.get("curves", []) + (bon.summary["curves"] if bon is not None else []),
        "samples": _samples(evaluation.directory, config.evaluation.samples_in_record),
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
    config = job.config
    candidate = row or request.candidate
    seed = config.seed if row is None or stage.seed is None else stage.seed
    judge = graph.parts.get("judge")
    led_here = {before.fingerprint for before in all_stages(stage)}
    return {
        "schema": SCHEMA,
        "run_id": run_id(config.task.name, candidate, seed, stage.fingerprint),
        "task": config.task.name,
        "candidate": candidate,
        "fixed": row is not None,
        "seed": seed,
        "model": _model_label(config),
        "algorithm": config.algorithm.name,
        "feedback": config.feedback.kind,
        "judge": config.judge.source if config.judge.source != "train" else config.judge.responses,
        "data": config.data.name or (Path(config.data.path).name if config.data.path else config.data.source),
        "judge_fingerprint": judge.fingerprint if judge is not None else None,
        "task_version": job.task.version,
        "main_metric": config.task.main_metric,
        "config": asdict(config),
        "overrides": request.overrides,
        "fingerprints": {name: part.fingerprint for name, part in graph.parts.items() if part.fingerprint in led_here},
        "fingerprint": stage.fingerprint,
        "versions": versions(),
        "git_commit": git_commit(),
        "command": request.command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware_facts(job.hardware),
        "device": job.hardware.device,
    }


def fail(request: Request, error: BaseException, *, graph: Graph | None = None, job: Job | None = None) -> None:
    """Give a failed job its place in the table. Where not even the graph could be built there is none to give."""
    if graph is None or job is None:
        return
    failed: Any = {
        **_identity(request, job, graph, graph.candidate, None),
        "status": "failed",
        "reason": reason(error),
        "flags": [],
        "data_hash": None,
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
    """One line that says why a job failed."""
    from harness.errors import RunFailed

    text = " ".join(str(error).split())
    return text if isinstance(error, (RunFailed, UserError)) else f"{type(error).__name__}: {text}"


def write(output_dir: Path, made: Record) -> None:
    folder = output_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / f"{made['run_id']}.json", made)


def publish(config: Config, progress: Progress) -> None:
    """Rebuild the leaderboard from all records and show it."""
    from hydra.utils import get_method

    output_dir = Path(config.output_dir)
    if not any((output_dir / "records").glob("*.json")):
        return
    folder = output_dir / "leaderboard"
    table = get_method(config.evaluation.leaderboard)(output_dir, folder)
    progress.table(table.to_dict("records"), table.attrs.get("main_metrics"))
    progress.files(
        {"table": folder / "leaderboard.csv", "page": folder / "index.html", "records": output_dir / "records"}
    )


def _model_label(config: Config) -> str:
    model = config.model
    if model.kind == "nano":
        return f"nano-{model.architecture}-{model.layers}x{model.width}"
    return Path(str(model.name)).name


def _correlation(graph: Graph, runner: StageRunner) -> float | None:
    row: Mapping[str, Any] = found.summary if (found := runner.cached(graph.rows["sft"])) is not None else {}
    return row.get("gold_bleu_correlation")


def _samples(directory: Path, count: int) -> list[Any]:
    from harness.evaluation.stage import read_lines

    rows = read_lines(directory / "samples.jsonl")[:count]
    return [{key: value for key, value in row.items() if not key.startswith("after_")} for row in rows]
