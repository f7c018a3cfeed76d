"""One job from its configuration to its records: build the graph, run what is missing, write records, show a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.cards import write_cards
from harness.config import Config
from harness.context import Job
from harness.errors import UserError
from harness.evaluation.registry import metrics_for
from harness.graph import build_graph
from harness.hardware import Hardware
from harness.plan import plan_rows
from harness.progress import Progress
from harness.push import push_models, require_account
from harness.recording import fail, record, refuse, write
from harness.request import Request
from harness.stages import StageRunner, all_stages


def make_job(config: Config) -> Job:
    """The task, the world and the hardware that the configuration names.

    Raises:
        UserError: a class, a function, a model or a metric that is named does not exist or cannot be loaded.
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
    _class("algorithm._target_", config.algorithm._target_)
    _leaderboard(config)
    if config.evaluation.extra_metrics:
        metrics_for(config.task.metrics, config.evaluation.extra_metrics)
    _require_models(config)
    return Job(config, task, world, Hardware.resolve(config.hardware))


def _require_models(config: Config) -> None:
    """Find out now, not after minutes of work, that a model which was named cannot be loaded: read its tokenizer."""
    from harness.given import require_given
    from harness.models.loading import load_codec

    models = [("model.name", config.model)]
    if config.judge.source == "train":
        models.append(("judge.model.name", config.judge.model))
    for key, model in models:
        if model.kind == "hf":
            load_codec(str(model.name), key=key, revision=model.revision)
    require_given(config)


def _class(key: str, name: str) -> Any:
    from hydra.utils import get_class

    try:
        return get_class(name)
    except Exception as error:
        raise UserError(key, name, "is no class that can be imported", "give package.module.Class") from error


def _leaderboard(config: Config) -> Callable[[Path, Path], Any]:
    from hydra.utils import get_method

    name = config.evaluation.leaderboard
    try:
        found: Callable[[Path, Path], Any] = get_method(name)
    except Exception as error:
        rule = "is no function that can be imported"
        raise UserError("evaluation.leaderboard", name, rule, "give package.module.function") from error
    return found


def run(request: Request, progress: Progress) -> None:
    """Run one job to its records, or show its plan.

    Each row's record is written as soon as its evaluation is finished: whatever stops the candidate, the controls that
    it would have been compared with stay.
    """
    config = request.config
    try:
        job = make_job(config)
        graph = build_graph(job)
        if config.hub.push and not config.plan:
            require_account(request)
    except Exception as error:
        refuse(request, error)
        raise
    output_dir = Path(config.output_dir)
    runner = StageRunner(output_dir, progress)
    if config.plan:
        progress.plan(plan_rows(job, graph, runner))
        return
    progress.message(f"{config.task.name} · {request.candidate} · seed {config.seed} · {job.hardware.description()}")
    planned = (stage for last in (*graph.rows.values(), graph.candidate) for stage in all_stages(last))
    if progress.mode != "quiet" and any(runner.cached(stage) is None for stage in planned):
        progress.plan(plan_rows(job, graph, runner))
    try:
        # The reward model's report card, best-of-n included, is complete before the algorithm may use it.
        for row, stage in (*graph.rows.items(), (None, graph.candidate)):
            finished = runner.run(stage)
            made = record(request, job, graph, stage, finished, runner, row)
            write(output_dir, made)
            write_cards(request, graph, runner, row, made)
    except Exception as error:
        fail(request, job, graph, error)
        write_cards(request, graph, runner, None, None)
        raise
    if config.hub.push:
        push_models(request, graph, runner, progress)


def publish(config: Config, progress: Progress) -> None:
    """Rebuild the leaderboard from all records and show it; one process at a time, so that the last sees them all."""
    from filelock import FileLock

    output_dir = Path(config.output_dir)
    if not any((output_dir / "records").glob("*.json")):
        return
    folder = output_dir / "leaderboard"
    with FileLock(output_dir / ".leaderboard.lock"):
        table = _leaderboard(config)(output_dir, folder)
    progress.table(table.to_dict("records"), table.attrs.get("main_metrics"))
    progress.files(
        {"table": folder / "leaderboard.csv", "page": folder / "index.html", "records": output_dir / "records"}
    )
