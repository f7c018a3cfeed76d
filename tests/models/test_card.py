"""Cards as the hub's own client reads them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.models.card import CardFacts, Measured, stated_license, write_card

FACTS = CardFacts(
    name="translate-sft-0123abcd",
    role="a policy",
    pipeline="text-generation",
    task="translation",
    data="my data: DE|EN",
    data_hash="89ab",
    template="{source}\nGerman:",
    command="python -m harness 'candidate=a b'",
    license="cc-by-4.0",
    base_model=None,
    measured=[
        Measured("bleu", "bleu", 12.34567, 10.0, 14.5, "nrefs:1|tok:13a"),
        Measured("win_rate", "win rate against references", 50.0),
        Measured("accuracy", "accuracy on 9 held-out pairs", 71.5, split="validation"),
    ],
    usage="By a pipeline.",
    facts={"seed": 1, "record": None},
)


def read(folder: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(folder / "README.md")


def test_the_hubs_client_reads_every_number_and_field_back(tmp_path: Path) -> None:
    write_card(tmp_path, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    card, data = read(tmp_path), read(tmp_path).data
    assert str(card).encode() == (tmp_path / "README.md").read_bytes(), "as the client itself writes it"
    assert (data.license, data.pipeline_tag, data.library_name) == ("cc-by-4.0", "text-generation", "transformers")
    assert (data.model_name, data.base_model) == (FACTS.name, None)
    assert [(r.metric_type, r.metric_name, r.metric_value, r.dataset_split) for r in data.eval_results] == [
        ("bleu", "bleu", 12.3457, "test"),
        ("win_rate", "win rate against references", 50.0, "test"),
        ("accuracy", "accuracy on 9 held-out pairs", 71.5, "validation"),
    ]
    result = data.eval_results[0]
    assert (result.task_type, result.dataset_name, result.dataset_revision) == ("translation", FACTS.data, "89ab")
    assert result.dataset_type == "my-data--DE-EN"


def test_a_card_that_says_the_same_is_left_alone(tmp_path: Path) -> None:
    write_card(tmp_path, FACTS)
    before = (tmp_path / "README.md").stat()
    write_card(tmp_path, FACTS)
    assert (tmp_path / "README.md").stat().st_ino == before.st_ino
    write_card(tmp_path, replace(FACTS, license="mit"))
    assert read(tmp_path).data.license == "mit"


def test_what_people_read_says_data_command_and_licence(tmp_path: Path) -> None:
    write_card(tmp_path, FACTS)
    text = read(tmp_path).text
    assert "```sh\npython -m harness 'candidate=a b'\n```" in text
    assert "| data | my data: DE\\|EN (content 89ab) |" in text
    assert "| licence | cc-by-4.0 |" in text
    assert "| bleu | 12.35 | [10.00, 14.50] | test | nrefs:1\\|tok:13a |" in text
    assert "```\n{source}\nGerman:\n```" in text
    assert "record" not in text, "what is not known is left out"


def test_without_scores_there_is_no_model_index(tmp_path: Path) -> None:
    write_card(tmp_path, replace(FACTS, measured=[]))
    assert read(tmp_path).data.eval_results is None
    assert "## Scores" not in read(tmp_path).text


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("# No metadata\n", None),
        ("---\n[broken\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_of_the_model_that_it_comes_from(tmp_path: Path, text: str | None, license: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert stated_license(tmp_path) == license
