"""Every model that a run leaves has a card that agrees with its record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.models.content import content_identity
from harness.records import read_records

pytestmark = pytest.mark.extended


def card(folder: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(folder / "README.md")


def results(folder: Path) -> dict[str, float]:
    return {result.metric_name: result.metric_value for result in card(folder).data.eval_results}


def test_every_saved_model_has_one(our_models: dict[str, Path]) -> None:
    assert set(our_models) == {"sft", "reward_model", "judge", "ppo"}
    for name, folder in our_models.items():
        found = card(folder)
        assert found.data.license == "mit"
        assert found.data.pipeline_tag == ("text-generation" if name in ("sft", "ppo") else "text-classification")
        assert "python -m harness experiment=smoke" in found.text
        assert folder.parent.name in found.text, "the stage that made it"


@pytest.mark.parametrize(("stage", "candidate"), [("sft", "sft"), ("ppo", "ours")])
def test_a_policys_scores_are_its_records(
    our_run: Path, our_models: dict[str, Path], stage: str, candidate: str
) -> None:
    (record,) = (r for r in read_records(our_run / "records") if r["candidate"] == candidate)
    found = results(our_models[stage])
    for name, metric in record["metrics"].items():
        assert found[name] == pytest.approx(metric["after"], abs=1e-4)
    assert found["win rate against references"] == pytest.approx(record["win_rates"]["reference"]["value"], abs=1e-4)
    assert f"content {record['data_hash']}" in card(our_models[stage]).text


def test_a_scorers_accuracy_is_its_report_cards(our_run: Path, our_models: dict[str, Path]) -> None:
    (record,) = (r for r in read_records(our_run / "records") if r["candidate"] == "ours")
    for stage, accuracy in (("reward_model", "rm_accuracy"), ("judge", "judge_accuracy")):
        (value,) = results(our_models[stage]).values()
        assert value == pytest.approx(record["scalars"][accuracy], abs=1e-4)


def test_a_card_does_not_make_it_another_model(our_models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(our_models["sft"], copy)
    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    assert content_identity(str(copy)) == content_identity(str(our_models["sft"]))


def test_a_given_models_licence_is_handed_on_and_a_failed_job_leaves_cards_too(
    harness: Callable[..., int], our_models: dict[str, Path], tmp_path: Path
) -> None:
    given = ("experiment=smoke", "sft=load", f"sft.path={our_models['sft']}", "feedback.min_pairs=64", "judge=none")
    given = (*given, "feedback.noise=0", "feedback.indifference=1000", "evaluation.fixed_rows=[references,sft]")
    assert harness(*given, f"output_dir={tmp_path}") == 1, "no pair is informative"
    (model,) = (tmp_path / "stages").glob("sft-*/model")
    assert card(model).data.license == "mit"
    assert "made elsewhere and taken as it is" in card(model).text
