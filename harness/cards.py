"""Which saved models get a card, and what of the records and manifests stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.card_usage import Saved, usage
from harness.config import Config
from harness.context import model_directory
from harness.graph import Graph
from harness.models.card import CARD, UNKNOWN_LICENSE, CardFacts, Measured, stated_license, write_card
from harness.models.kept import adapter_folder
from harness.needs import loaded_paths
from harness.provenance import git_commit, versions
from harness.records import Record
from harness.request import Request
from harness.stages import Finished, StageRunner

TASKS = {"summarize": "summarization", "translate": "translation", "qa": "question-answering"}
"""Our tasks by the hub's names; the others are ``text-generation``."""
ROLES = {
    "sft": "a policy after supervised fine-tuning on demonstrations",
    "sft-more": "a control: supervised fine-tuning continued for as many responses as the algorithm trained on",
    "algorithm": "the final policy of a run with the algorithm `{algorithm}`",
    "reward_model": "a reward model: Bradley–Terry on preference pairs",
    "judge": "a judge: a reward model that scores policies and is never optimised against",
}


def write_cards(request: Request, graph: Graph, runner: StageRunner, row: str | None, made: Record | None) -> None:
    """Cards for the models behind one row of the table; those of a candidate hold the reward model and the judge.

    Args:
        request: with the command.
        graph: the stages.
        runner: finds what they left.
        row: the fixed row, or None for the candidate.
        made: its record; None where the job failed: whatever is finished and has no card yet gets one without scores.
    """
    if made is None:
        names = [name for name in ROLES if not _has_card(graph, runner, name)]
    else:
        names = ["algorithm", "reward_model", "judge"] if row is None else [row]
    for name in names:
        stage = graph.parts.get(name)
        finished = None if stage is None else runner.cached(stage)
        if finished is not None and model_directory(finished.directory).is_dir():
            write_card(model_directory(finished.directory), card_facts(request, graph, runner, name, finished, made))


def card_facts(
    request: Request, graph: Graph, runner: StageRunner, name: str, finished: Finished, made: Record | None
) -> CardFacts:
    """What the card of one part's model says.

    Args:
        request: with the command that the card repeats.
        graph: the stages.
        runner: finds the data's manifest, whose hash the card states.
        name: of the part, a key of ``ROLES``.
        finished: its stage.
        made: the record of its row; None where the job failed. A policy's scores are the record's, and without one
            there are none; those of a reward model and a judge are their own report card's.
    """
    config = request.config
    data = runner.cached(graph.parts["data"])
    scorer = name in ("reward_model", "judge")
    measured = _examined(finished) if scorer else [] if made is None else _scored(made)
    return CardFacts(
        name=f"{config.task.name}-{name.replace('_', '-')}-{finished.manifest['fingerprint']}",
        role=_role(config, name),
        pipeline="text-classification" if scorer else _pipeline(config, finished),
        task="text-classification" if scorer else TASKS.get(config.task.name, "text-generation"),
        data=config.data.name or Path(str(config.data.path or config.data.source)).name,
        data_hash="" if data is None else str(data.summary["report"]["content_hash"])[:16],
        template=config.task.template,
        command=request.command,
        license=license_of(config, name),
        base_model=_base_model(config, name),
        measured=measured,
        usage=usage(_saved(finished, scorer=scorer), config.task.max_response_tokens),
        library="peft" if _is_adapter(finished) else "transformers",
        facts={
            "task": config.task.name,
            "seed": finished.manifest["seed"],
            "stage": f"{finished.manifest['stage']}-{finished.manifest['fingerprint']}",
            "record": None if made is None else made["run_id"],
            "status": None if made is None else made["status"],
            "commit": git_commit(),
            "versions": ", ".join(f"{package} {version}" for package, version in versions().items()),
        },
    )


def license_of(config: Config, name: str) -> str:
    """``hub.license``, else what the card of the model that it comes from says, else ``unknown``."""
    if config.hub.license:
        return config.hub.license
    sources = [loaded_paths(config).get("algorithm.path" if name == "algorithm" else f"{name}.path")]
    model = config.judge.model if name == "judge" else config.model
    sources += [loaded_paths(config).get("sft.path") if name != "judge" else None]
    sources += [model.name if model.kind == "hf" else None]
    stated = (stated_license(Path(source).expanduser()) for source in sources if source)
    return next((found for found in stated if found), UNKNOWN_LICENSE)


def _has_card(graph: Graph, runner: StageRunner, name: str) -> bool:
    stage = graph.parts.get(name)
    return stage is not None and (model_directory(runner.directory(stage)) / CARD).is_file()


def _role(config: Config, name: str) -> str:
    loaded = loaded_paths(config)
    if name == "algorithm" and "algorithm.path" in loaded:
        return "a policy that another trainer finished, as it was scored"
    if f"{name}.path" in loaded:
        return f"{ROLES[name]}, made elsewhere and taken as it is"
    return ROLES[name].format(algorithm=config.algorithm.name)


def _base_model(config: Config, name: str) -> str | None:
    """The hub id of what it was trained from; a folder on one machine means nothing on another."""
    model = config.judge.model if name == "judge" else config.model
    known = f"{name}.path" not in loaded_paths(config) and (name == "judge" or config.sft.source == "train")
    local = model.name is None or Path(model.name).expanduser().exists()
    return model.name if known and model.kind == "hf" and not local else None


def _saved(finished: Finished, *, scorer: bool = False) -> Saved:
    return Saved.read(model_directory(finished.directory), adapter=_is_adapter(finished), scorer=scorer)


def _pipeline(config: Config, finished: Finished) -> str:
    """The hub has tasks of their own for encoder–decoder models that translate or summarise."""
    own = {name: tag for name, tag in TASKS.items() if name in ("summarize", "translate")}
    return own.get(config.task.name, "text-generation") if _saved(finished).apart else "text-generation"


def _is_adapter(finished: Finished) -> bool:
    return adapter_folder(finished.directory) == model_directory(finished.directory)


def _scored(made: Record) -> list[Measured]:
    """A policy's scores on the test prompts, from its row's record."""
    found = [
        Measured(name, name, metric["after"], metric["after_low"], metric["after_high"], metric["signature"])
        for name, metric in made["metrics"].items()
        if metric["after"] is not None
    ]
    for key, name in (("reference", "win rate against references"), ("judge", "win rate against the SFT policy")):
        rate: Any = made["win_rates"].get(key)
        if rate is not None:
            found.append(Measured("win_rate", name, rate["value"], rate["low"], rate["high"], "judge"))
    return found


def _examined(finished: Finished) -> list[Measured]:
    """A reward model's accuracy on held-out pairs, from its report card."""
    card = finished.summary.get("report_card")
    if not card:
        return []
    accuracy = card["accuracy"]
    name = f"accuracy on {card['pairs']} held-out pairs of {card['prompts']} prompts"
    return [
        Measured(
            "accuracy",
            name,
            accuracy["estimate"],
            accuracy["low"],
            accuracy["high"],
            "chosen above rejected",
            "validation",
        )
    ]
