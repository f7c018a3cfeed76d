"""A saved model's card: what it is, what it scored, on which data, by which command, under which licence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

UNKNOWN_LICENSE = "unknown"
"""The hub's word for a licence that nobody stated."""
CARD = "README.md"


class Measured(NamedTuple):
    """A number for the card.

    Args:
        metric: the hub's name of the metric, where it has one.
        name: what people read.
        value: on the table's scale.
        low, high: its 95 % interval; None where there is none.
        signature: how it was computed.
        split: of the data that it was measured on.
    """

    metric: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    signature: str = ""
    split: str = "test"


@dataclass(frozen=True)
class CardFacts:
    """All that a card says.

    Args:
        name: of the model.
        role: what it is, as the rest of a sentence that starts with "This is".
        pipeline: the hub's name of the task that a pipeline does with it.
        task: the hub's name of the task that it was measured on.
        data: name of the data.
        data_hash: of their content.
        template: the prompt's wording.
        command: what made it.
        license: the hub's identifier.
        base_model: hub id or name of what it was trained from; None where that is a new model.
        measured: its scores.
        usage: how it is used, in Markdown.
        library: the hub's name of what loads it.
        facts: further lines of the table of facts.
    """

    name: str
    role: str
    pipeline: str
    task: str
    data: str
    data_hash: str
    template: str
    command: str
    license: str
    base_model: str | None
    measured: Sequence[Measured]
    usage: str
    library: str = "transformers"
    facts: Mapping[str, object] = field(default_factory=dict)


def write_card(folder: Path, facts: CardFacts) -> None:
    """Put the card beside the model, whole or not at all: two processes may write it. One that says the same stays."""
    path, text = folder / CARD, model_card(facts)
    if path.is_file() and path.read_bytes() == text.encode():
        return
    temporary = folder / f".{CARD}.{os.getpid()}.tmp"
    temporary.write_bytes(text.encode())
    temporary.replace(path)


def model_card(facts: CardFacts) -> str:
    """The card's text, which ``huggingface_hub.ModelCard`` reads; its metadata hold the scores as ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData  # a ModelCard would bring all of the hub's client along

    results = [
        EvalResult(
            task_type=facts.task,
            dataset_type=_identifier(facts.data),
            dataset_name=facts.data,
            dataset_split=found.split,
            dataset_revision=facts.data_hash or None,
            metric_type=found.metric,
            metric_name=found.name,
            metric_value=round(found.value, 4),
        )
        for found in facts.measured
    ]
    data = ModelCardData(
        model_name=facts.name,
        library_name=facts.library,
        pipeline_tag=facts.pipeline,
        license=facts.license,
        base_model=facts.base_model,
        tags=["rlhf", "rlhf-harness"],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}"


def stated_license(folder: Path) -> str | None:
    """The licence that the card of a model on disk states; None where there is no card or it says nothing."""
    if not (folder / CARD).is_file():
        return None
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        found = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.license
    except (ValueError, YAMLError):  # the card's metadata are no mapping, or no YAML
        return None
    return None if found is None or found == UNKNOWN_LICENSE else str(found)


def _body(facts: CardFacts) -> str:
    lines = [f"# {facts.name}", "", f"This is {facts.role}.", ""]
    if facts.measured:
        lines += ["## Scores", "", "| metric | value | 95 % interval | split | signature |", "|---|---|---|---|---|"]
        lines += [_row(found) for found in facts.measured]
        lines += ["", "Intervals are over prompts and say nothing of another training seed.", ""]
    table = {"data": f"{facts.data} (content {facts.data_hash})", "licence": facts.license, **facts.facts}
    lines += ["## How it was made", "", _fenced(facts.command, "sh"), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in table.items() if value not in (None, "")]
    lines += ["", "The licences of the data and of the base model apply besides.", ""]
    lines += ["## How it is used", "", facts.usage, "", "Prompts were made from:", "", _fenced(facts.template), ""]
    return "\n".join(lines)


def _row(found: Measured) -> str:
    interval = "" if found.low is None or found.high is None else f"[{found.low:.2f}, {found.high:.2f}]"
    return f"| {found.name} | {found.value:.2f} | {interval} | {found.split} | {_cell(found.signature)} |"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _fenced(text: str, language: str = "") -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _identifier(name: str) -> str:
    """A name as the hub takes it in a place for identifiers."""
    return "".join(letter if letter.isalnum() or letter in "-_./" else "-" for letter in name) or "unknown"
