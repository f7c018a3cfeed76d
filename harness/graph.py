"""The stage graph of one candidate: what depends on what, and what of the configuration decides each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from harness.config import APIModelConfig, FinishedPolicyConfig, HubDataConfig
from harness.context import Job
from harness.evaluation.stage import TEXT_ROWS
from harness.models.content import content_identity, files_identity, model_identity
from harness.needs import needs_feedback, needs_reward_model, takes_finished_policy
from harness.rollouts.engines import engine_identity
from harness.stages import Stage, all_stages

BESIDE = "sft-more"
"""The row that is made last, or while a process waits for another: no other needs it, and it has to train."""


class Graph(NamedTuple):
    """The candidate's last stage, its parts by name, and the fixed rows' evaluations in the table's order."""

    candidate: Stage
    parts: dict[str, Stage]
    rows: dict[str, Stage]


def in_turn(graph: Graph) -> Iterator[tuple[str | None, Stage]]:
    """The evaluations of the rows, and of the candidate as None, in the order in which they are made.

    The reward model's report card, best-of-n included, is complete before the algorithm may use it.
    """
    yield from ((row, stage) for row, stage in graph.rows.items() if row != BESIDE)
    yield None, graph.candidate
    if BESIDE in graph.rows:
        yield BESIDE, graph.rows[BESIDE]


def planned_stages(graph: Graph) -> Iterator[Stage]:
    """Every stage of a job in the order of work; what several rows need comes more than once."""
    return (stage for _, last in in_turn(graph) for stage in all_stages(last))


def build_graph(job: Job) -> Graph:
    """All stages of a job. Nothing runs; paths stay out of the fingerprints, contents go in."""
    from harness.training.algorithm import make_algorithm

    if isinstance(job.config.model, APIModelConfig):
        return _endpoint_graph(job)
    environment = job.hardware.environment()
    parts: dict[str, Stage] = {"data": _data(job)}
    parts["sft"] = _sft(job, parts, environment)
    if needs_feedback(job.config):
        parts["feedback"] = _feedback(job, parts, environment)
    if needs_reward_model(job.config):
        parts["reward_model"] = _reward_model(job, parts, environment)
    if job.config.judge.source != "none":
        parts["judge"] = _judge(job, parts, environment)
    finished = takes_finished_policy(job.config)
    parts["algorithm"] = (_finished_policy if finished else _algorithm)(job, parts, environment)
    passes = make_algorithm(job.config.algorithm).response_passes()
    if "sft-more" in job.config.evaluation.fixed_rows and passes:
        parts["sft-more"] = _sft_more(job, parts, environment, passes)
    rows = _fixed_rows(job, parts, environment)
    needs = tuple(name for name in ("sft", "reward_model", "algorithm") if name in parts)
    candidate = _evaluation(job, parts, environment, None, needs, rows)
    return Graph(candidate, parts, rows)


def _endpoint_graph(job: Job) -> Graph:
    """The stages of a candidate behind an endpoint: its answers to the test prompts, the judge, and the evaluation."""
    environment = job.hardware.environment()
    parts: dict[str, Stage] = {"data": _data(job)}
    parts["answers"] = _answers(job, parts)
    if job.config.judge.source != "none":
        parts["judge"] = _judge(job, parts, environment)
    rows = _fixed_rows(job, parts, environment)
    return Graph(_evaluation(job, parts, environment, None, ("answers",), rows), parts, rows)


def _answers(job: Job, parts: dict[str, Stage]) -> Stage:
    from harness.api.stage import VERSION, answers_identity, answers_seed, api_model, run_answers

    temperature = job.config.evaluation.temperature
    config = {"model": answers_identity(api_model(job)), "temperature": temperature, **_prompting(job)}
    seed = answers_seed(api_model(job), temperature, job.config.seed)
    return Stage("answers", VERSION, config, {"data": parts["data"]}, seed, {}, partial(run_answers, job=job))


def _prompting(job: Job) -> dict[str, Any]:
    """What of the task decides tokens."""
    task = job.config.task
    return {
        "template": task.template,
        "options": task.options,
        "max_prompt_tokens": task.max_prompt_tokens,
        "max_response_tokens": task.max_response_tokens,
    }


def _data(job: Job) -> Stage:
    from harness.data.stage import ROWS_VERSION, VERSION, run_data

    config = asdict(job.config.data)
    for name in ("path", "files", "pairs_path", "workers", "name"):
        config.pop(name)
    config["task"] = {"name": job.task.name, "version": job.task.version}
    if job.config.data.source == "controlled":
        assert job.world is not None
        config["world"] = {"name": job.world.name, "version": job.world.version}
        for name in ("columns", "pairs_columns", "shares", "limits", "max_bad_rows", "max_turns"):
            config.pop(name)
        if not config.get("mixture"):
            config.pop("mixture", None)  # the world's own, which its version stands for
    else:
        config.pop("sizes")
        config["rows_version"] = ROWS_VERSION
        for name in ("revision", "pairs_revision", "streaming"):
            config.pop(name, None)  # the commit stands for the revision
        config["files"] = _row_contents(job)
    return Stage("data", VERSION, config, {}, job.config.data.seed, {}, partial(run_data, job=job))


def _row_contents(job: Job) -> dict[str, str]:
    """What identifies the rows: the contents of files, or the commits of repositories on the hub."""
    from harness.data.files import find_files

    data = job.config.data
    if isinstance(data, HubDataConfig):
        from harness.data.hub import repositories

        found = {name: f"{repository.name}@{repository.commit}" for name, repository in repositories(data).items()}
        if data.pairs_path and "pairs" not in found:
            found["pairs"] = content_identity(data.pairs_path)
        return found | {f"files.{split}": file for split, file in data.files.items()}
    found = {str(key): files_identity(paths) for key, paths in find_files(str(data.path), data.files or None).items()}
    if data.pairs_path:
        found["pairs"] = content_identity(data.pairs_path)
    return found


def _sft(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.training.sft import VERSION, run_sft

    sft = asdict(job.config.sft)
    path = sft.pop("path")
    sft["content"] = content_identity(path) if job.config.sft.source == "load" else None
    config = {"sft": sft, "model": model_identity(job.config.model), **_prompting(job)}
    return Stage(
        "sft", VERSION, config, {"data": parts["data"]}, job.config.seed, environment, partial(run_sft, job=job)
    )


def _sft_more(job: Job, parts: dict[str, Stage], environment: dict[str, Any], passes: int) -> Stage:
    from harness.training.sft import MORE_VERSION, run_sft_more

    sft = asdict(job.config.sft)
    for name in ("path", "epochs", "max_steps", "source"):
        sft.pop(name)
    config = {"sft": sft, "response_passes": passes}
    inputs = {"data": parts["data"], "sft": parts["sft"]}
    run = partial(run_sft_more, job=job, response_passes=passes)
    return Stage("sft", MORE_VERSION, config, inputs, job.config.seed, environment, run)


def _feedback(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.feedback.stage import VERSION, run_feedback

    feedback = asdict(job.config.feedback)
    feedback["metric"] = (job.config.feedback.metric or job.smooth_metric()) if feedback["kind"] == "metric" else None
    config = {"feedback": feedback, **_prompting(job)}
    if feedback["kind"] != "pairs":
        config["rollout_batch_size"] = job.config.rollout.batch_size
        config |= engine_identity(job.config.rollout.engine)
    inputs = {"data": parts["data"], "sft": parts["sft"]}
    return Stage("feedback", VERSION, config, inputs, job.config.seed, environment, partial(run_feedback, job=job))


def _reward_model(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.training.reward_model import VERSION, run_reward_model

    config = asdict(job.config.reward_model)
    path = config.pop("path")
    config["content"] = content_identity(path) if job.config.reward_model.source == "load" else None
    inputs: dict[str, Stage] = {name: parts[name] for name in ("data", "sft", "feedback") if name in parts}
    return Stage(
        "reward_model", VERSION, config, inputs, job.config.seed, environment, partial(run_reward_model, job=job)
    )


def _judge(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.training.judge import VERSION, run_judge

    config = asdict(job.config.judge)
    path, seed = config.pop("path"), config.pop("seed")
    loads = job.config.judge.source == "load"
    if loads:  # the rest decides the report card
        config = {
            name: config[name] for name in ("source", "responses", "samples_per_prompt", "heldout_pairs", "annotator")
        }
    config["content"] = content_identity(str(path)) if loads else None
    metric = config["annotator"].pop("metric")
    model = None if loads else model_identity(job.config.judge.model, key="judge.model")
    config |= {"model": model, **_prompting(job)}
    if job.world is None and job.config.judge.responses == "samples" and not loads:
        config["metric"] = metric or job.smooth_metric()
    return Stage("judge", VERSION, config, {"data": parts["data"]}, seed, environment, partial(run_judge, job=job))


def _algorithm(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.training.algorithm import VERSION, run_algorithm

    config = {"algorithm": asdict(job.config.algorithm), "rollout": _rollout(job)}
    inputs = {name: parts[name] for name in ("data", "sft", "feedback", "reward_model")}
    run = partial(run_algorithm, job=job)
    return Stage(job.config.algorithm.name, VERSION, config, inputs, job.config.seed, environment, run)


def _rollout(job: Job) -> dict[str, Any]:
    """What of the rollouts' settings decides what is sampled."""
    rollout = asdict(job.config.rollout)
    rollout.pop("engine_memory")
    return rollout | engine_identity(rollout.pop("engine"))


def _finished_policy(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> Stage:
    from harness.training.finished import VERSION, FinishedPolicy

    given = job.config.algorithm
    assert isinstance(given, FinishedPolicyConfig)
    config = {"content": content_identity(str(given.path)), **_prompting(job)}
    run = partial(FinishedPolicy(given).adopt, job=job)
    return Stage(given.name, VERSION, config, {"sft": parts["sft"]}, job.config.seed, environment, run)


def _fixed_rows(job: Job, parts: dict[str, Stage], environment: dict[str, Any]) -> dict[str, Stage]:
    """The fixed rows that were asked for; ``references`` and ``sft`` always, since others are compared with them."""
    rows: dict[str, Stage] = {}
    wanted = list(job.config.evaluation.fixed_rows)
    if "base" in wanted and job.config.sft.source == "load" and job.config.model.kind == "nano":
        wanted.remove("base")  # a finished policy was given: what it was trained from is not known
    if "longest" in wanted and job.config.data.source != "controlled" and not job.config.data.shares.get("sft"):
        wanted.remove("longest")  # no demonstration to take it from
    for row in TEXT_ROWS:
        if row in wanted or row == "references":
            rows[row] = _evaluation(job, parts, environment, row, (), rows)
    if "sft" not in parts:
        return rows
    for row, needs in (
        ("base", ("sft",)),
        ("sft", ("sft",)),
        ("sft-more", ("sft-more",)),
        ("best-of-n", ("sft", "reward_model")),
    ):
        if (row in wanted or row == "sft") and all(name in parts for name in needs):
            rows[row] = _evaluation(job, parts, environment, row, needs, rows)
    return rows


def _evaluation(
    job: Job,
    parts: dict[str, Stage],
    environment: dict[str, Any],
    row: str | None,
    needs: tuple[str, ...],
    rows: dict[str, Stage],
) -> Stage:
    from harness.evaluation.registry import metric_identity
    from harness.evaluation.stage import VERSION, run_evaluation

    evaluation = asdict(job.config.evaluation)
    engine = evaluation.pop("engine")
    if row not in TEXT_ROWS and "answers" not in parts:
        evaluation |= engine_identity(engine)
    for name in ("fixed_rows", "leaderboard", "samples_in_record"):
        evaluation.pop(name)
    evaluation["extra_metrics"] = [metric_identity(name) for name in evaluation["extra_metrics"]]
    if row != "best-of-n":
        for name in ("best_of_n", "curve_best_of", "curve_prompts"):
            evaluation.pop(name)
    config = {"row": row, "evaluation": evaluation, "metrics": job.config.task.metrics, **_prompting(job)}
    if row in ("sft", "best-of-n", None) and "answers" not in parts:
        config["rollout"] = _rollout(job)
    inputs = {"data": parts["data"], **{name: parts[name] for name in needs}}
    if "judge" in parts:
        inputs["judge"] = parts["judge"]
    if row != "references":
        inputs["references_row"] = rows["references"]
    if row is None and "sft" in rows:
        inputs["sft_row"] = rows["sft"]
    if row is None and "base" in rows:
        inputs["base_row"] = rows["base"]  # its responses stand beside the candidate's in samples.jsonl
    seed = job.config.data.seed if row in TEXT_ROWS else job.config.seed
    return Stage("evaluation", VERSION, config, inputs, seed, environment, partial(run_evaluation, job=job, row=row))
