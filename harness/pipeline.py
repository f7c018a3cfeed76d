"""One job from its configuration to its records: build the graph, run what is missing, write records, show a table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.adapting import require_adaptable
from harness.ahead import working_ahead
from harness.cards import write_cards
from harness.config import APIModelConfig, Config, ControlledDataConfig, LocalDataConfig, TaskConfig
from harness.context import Job
from harness.data.checks import check_columns
from harness.errors import RunFailed, UserError
from harness.evaluation.registry import metrics_for
from harness.graph import BESIDE, Graph, build_graph, in_turn, planned_stages
from harness.hardware import Hardware
from harness.plan import plan_rows
from harness.progress import Progress
from harness.push import push_models, require_account
from harness.recording import fail, reason, record, refuse, write
from harness.request import Request
from harness.rollouts.engines import require_engine
from harness.stages import Stage, StageRunner, all_stages
from harness.types import Task


def make_job(config: Config) -> Job:
    """The task, the world and the hardware that the configuration names.

    Raises:
        UserError: a class, a function, a model or a metric that is named does not exist or cannot be loaded, or the
            data's files or columns do not fit.
    """
    task = make_task(config.task)
    check_columns(config.data, task)
    if isinstance(config.data, LocalDataConfig) and config.data.source == "local":
        from harness.data.local import require_rows

        require_rows(config.data)
    world = None
    if config.data.source == "controlled" and config.task.world is not None:
        mixture = config.data.mixture if isinstance(config.data, ControlledDataConfig) else {}
        world = _class("task.world", config.task.world)(**({"mixture": mixture} if mixture else {}))
    _class("algorithm._target_", config.algorithm._target_)
    leaderboard_function("evaluation.leaderboard", config.evaluation.leaderboard)
    if config.evaluation.extra_metrics:
        metrics_for(config.task.metrics, config.evaluation.extra_metrics)
    hardware = Hardware.resolve(config.hardware)
    _require_models(config)
    require_adaptable(config, hardware)
    require_engine(config, hardware)
    return Job(config, task, world, hardware)


def make_task(config: TaskConfig) -> Task:
    """The task that ``task._target_`` names.

    Raises:
        UserError: there is no such class, or it does not take these options.
    """
    task_class = _class("task._target_", config._target_)
    try:
        task: Task = task_class(
            template=config.template,
            metrics=list(config.metrics),
            main_metric=config.main_metric,
            **config.options,
        )
    except TypeError as error:
        rule = f"does not fit {config._target_} ({error})"
        raise UserError("task.options", config.options, rule, "give the options that the task takes") from error
    return task


def _require_models(config: Config) -> None:
    """Find out now, not after minutes of work, that a model which was named cannot be loaded or cannot take part."""
    from harness.given import require_base, require_given

    if isinstance(config.model, APIModelConfig):
        from harness.api.stage import model_endpoint

        model_endpoint(config.model).require_reachable()
    models = [("model.name", config.model)]
    if config.judge.source == "train":
        models.append(("judge.model.name", config.judge.model))
    for key, model in models:
        if model.kind == "hf":
            require_base(config, key, model)
    require_given(config)


def _class(key: str, name: str) -> Any:
    from hydra.utils import get_class

    try:
        return get_class(name)
    except Exception as error:
        raise UserError(key, name, "is no class that can be imported", "give package.module.Class") from error


def leaderboard_function(key: str, name: str) -> Callable[[Path, Path], Any]:
    """The function that rebuilds the leaderboard: (output_dir, folder) -> its table.

    Raises:
        UserError: naming ``key``: there is none of that name.
    """
    from hydra.utils import get_method

    try:
        found: Callable[[Path, Path], Any] = get_method(name)
    except Exception as error:
        rule = "is no function that can be imported"
        raise UserError(key, name, rule, "give package.module.function") from error
    return found


def prepare(request: Request) -> tuple[Job, Graph]:
    """What a request asks for, examined as far as that goes without work; if refused, it has its place in a sweep."""
    config = request.config
    try:
        job = make_job(config)
        graph = build_graph(job)
        if config.hub.push and not config.plan:
            require_account(request)
    except Exception as error:
        refuse(request, error)
        raise
    return job, graph


def run(request: Request, job: Job, graph: Graph, progress: Progress) -> None:
    """Run one job to its records, or show its plan.

    Each row's record is written as soon as its evaluation is finished: whatever stops the candidate, the controls that
    it would have been compared with stay.

    Args:
        request: the configuration, and the command that repeats it.
        job: what the stages are made of.
        graph: the stages.
        progress: where the plan, messages and results of stages are shown.

    Raises:
        UserError: a stage finds that the configuration cannot be run as it is.
        RunFailed: a stage fails.
    """
    config = request.config
    output_dir = Path(config.output_dir)
    runner = StageRunner(output_dir, progress, job.hardware.prepare)
    stages = {stage.fingerprint: stage for stage in planned_stages(graph)}
    finished = frozenset(name for name, stage in stages.items() if runner.cached(stage) is not None)
    if config.plan:
        rows = plan_rows(job, graph, finished)
        progress.plan(rows)
        progress.memory(rows)
        return
    progress.message(f"{config.task.name} · {request.candidate} · seed {config.seed} · {job.hardware.description()}")
    if (caution := job.hardware.caution()) is not None:
        progress.warning(caution)
    announced = progress.mode != "quiet" and len(finished) < len(stages)
    missing = _missing(graph, runner)
    ahead = _work_ahead(job, graph, missing, finished if announced else None)
    if announced and ahead is None:
        progress.plan(plan_rows(job, graph, finished))
    try:
        with working_ahead(ahead, progress):  # it starts up, and shows the plan, while the data is made
            runner.run(graph.parts["data"])  # every record tells of the data, whatever of the rest is still there
            if "answers" in graph.parts:  # a wrong key or address shows before the judge takes its time
                runner.run(graph.parts["answers"])
            _make_rows(request, job, graph, runner, aided=ahead is not None)
    except Exception as error:
        fail(request, job, graph, error, runner)
        write_cards(request, graph, runner, None, None)
        raise
    if config.hub.push:
        push_models(request, graph, runner, progress)


def _make_rows(request: Request, job: Job, graph: Graph, runner: StageRunner, *, aided: bool) -> None:
    """The evaluations of all rows and of the candidate, each with its record.

    SFT continued, whose turn comes after the candidate's, is made all the same where that one fails but SFT stands.

    Args:
        aided: a second process makes the candidate's models meanwhile. Feedback, which is sampled in two threads,
            takes both cores better than the reward model after it: rows wait for the one and are made beside the other.
    """
    first, tried = graph.parts.get("feedback") if aided else None, set[str]()

    def make(row: str | None, stage: Stage) -> None:
        if aided:
            _make_meanwhile(graph, runner, stage, tried, yielding_to=first)
        finished = runner.run(stage, yielding_to=first)
        made = record(request, job, graph, stage, finished, runner, row)
        write(Path(request.config.output_dir), made)
        write_cards(request, graph, runner, row, made)

    def make_last() -> None:
        try:
            make(BESIDE, graph.rows[BESIDE])
        except Exception as error:  # the candidate has a record of its own, or gets one
            fail(request, job, graph, error, runner, BESIDE)
            raise

    try:
        for row, stage in in_turn(graph):
            if row != BESIDE:
                make(row, stage)
    except Exception:
        if BESIDE in graph.rows and runner.cached(graph.parts["sft"]) is not None:
            with suppress(Exception):  # what failed first is what the job fails of
                make_last()
        raise
    if BESIDE in graph.rows:
        make_last()


def _missing(graph: Graph, runner: StageRunner) -> set[str]:
    """Fingerprints of the stages that have to be made for a job's rows."""
    return {stage.fingerprint for _, last in in_turn(graph) for stage in runner.missing(last)}


def _make_meanwhile(
    graph: Graph, runner: StageRunner, stage: Stage, tried: set[str], *, yielding_to: Stage | None = None
) -> None:
    """For as long as the other process makes what ``stage`` needs: SFT continued, then its evaluation.

    A failure is told when their turn comes, and keeps no other row from being made.

    Args:
        tried: fingerprints of what was begun here; grows.
    """
    for other in (graph.parts.get(BESIDE), graph.rows.get(BESIDE)):
        if other is None or other.fingerprint in tried or runner.cached(graph.rows[BESIDE]) is not None:
            continue
        if runner.waits(stage) and not runner.waits(other):
            tried.add(other.fingerprint)
            with suppress(Exception):
                runner.run(other, yielding_to=yielding_to)


def _work_ahead(
    job: Job, graph: Graph, missing: set[str], finished: frozenset[str] | None
) -> Callable[[Progress], None] | None:
    """What a second process can do meanwhile: the candidate's own models, while the judge and the controls are made.

    Whichever process has to wait for the other continues SFT. Where the plan is to be announced the second does that
    too: of a model that was trained before it takes seconds of imports, in which this process makes the data.

    Args:
        missing: fingerprints of the stages that have to be made.
        finished: of those that are cached, for the plan; None: it is not to be announced.
    """
    last = next((name for name in ("reward_model", "sft") if name in graph.parts), None)
    if job.hardware.workers < 2 or last is None or job.config.rollout.engine == "vllm":  # one is enough
        return None
    own = {stage.fingerprint for stage in all_stages(graph.parts[last])}
    if BESIDE in graph.rows:
        own |= {graph.parts[BESIDE].fingerprint, graph.rows[BESIDE].fingerprint}
    if not (missing & own and missing - own):
        return None
    return partial(_run_ahead, job.config, last, finished)


def _run_ahead(config: Config, name: str, finished: frozenset[str] | None, progress: Progress) -> None:
    """Make one part of a job and what it needs, then best-of-n, which completes a reward model's card, and the policy.

    SFT is continued, where that is asked for, while another process makes what comes next, or at last.

    Args:
        config: of the job.
        name: of the part.
        finished: the stages that were cached when the job began, for the plan; None: it is not to be shown.
        progress: shows all of that.
    """
    job = make_job(config)
    runner, graph = StageRunner(Path(config.output_dir), progress, job.hardware.prepare), build_graph(job)
    if finished is not None:
        try:
            progress.plan(plan_rows(job, graph, finished))
        except Exception as error:  # the work is what it is here for
            progress.warning(f"no plan can be shown: {reason(error)}")
    missing = _missing(graph, runner)
    stages = (graph.parts[name], graph.rows.get("best-of-n"), graph.parts["algorithm"], graph.rows.get(BESIDE))
    tried: set[str] = set()
    for stage in stages:
        if stage is not None and stage.fingerprint in missing:
            _make_meanwhile(graph, runner, stage, tried)
            try:
                runner.run(stage)
            except (RunFailed, UserError):  # the process that needs the stage says so
                raise
            except Exception as error:
                progress.warning(f"{stage.label} failed ({reason(error)}); it is tried once more where it is needed")
                raise


def publish(config: Config, progress: Progress) -> None:
    """Rebuild the leaderboard from all records and show it; one process at a time, so that the last sees them all."""
    output_dir = Path(config.output_dir)
    if not any((output_dir / "records").glob("*.json")):
        return
    folder = output_dir / "leaderboard"
    table = rebuild(output_dir, leaderboard_function("evaluation.leaderboard", config.evaluation.leaderboard))
    progress.table(table.to_dict("records"), table.attrs.get("main_metrics"))
    progress.files(
        {"table": folder / "leaderboard.csv", "page": folder / "index.html", "records": output_dir / "records"}
    )


def rebuild(output_dir: Path, build: Callable[[Path, Path], Any]) -> Any:
    """The leaderboard anew, from all records of an output folder; returns its table."""
    from filelock import FileLock

    with FileLock(output_dir / ".leaderboard.lock"):
        return build(output_dir, output_dir / "leaderboard")
