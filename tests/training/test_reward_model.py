from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.config import ModelConfig, PPOConfig, RewardModelConfig, ValueConfig
from harness.context import model_directory
from harness.data.prompts import CutReport
from harness.errors import UserError
from harness.feedback.pairs import LabelledPair, write_pairs
from harness.models.loading import save
from harness.models.scorer import Scorer
from harness.training.reward_model import examine, require_value_of_its_own, run_reward_model, shift_on_references
from harness.types import Example


def make_job() -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(task=SimpleNamespace(max_response_tokens=6), model=ModelConfig(kind="nano")),
        prompts=lambda examples, codec: ([example.fields["text"] for example in examples], CutReport(0.0, 0.0)),
    )


def example(number: int, *references: str) -> Example:
    return Example(id=str(number), fields={"text": f"the fox {number}"}, response="", references=list(references))


def pairs(ragged: Any, agrees: Any = None) -> list[LabelledPair]:
    prompts, responses = ragged
    return [
        LabelledPair(str(row), str(row // 2), "", "", prompts[row], responses[row], responses[(row + 1) % 5], agrees)
        for row in range(5)
    ]


def test_references_average_zero_afterwards(make_scorer, hardware, codec, ragged):
    scorer = Scorer(*make_scorer(), hardware)
    examples = [example(1, "runs home .", "other"), example(2), example(3, "sings and sings and sings and sings")]
    found = shift_on_references(scorer, make_job(), examples, pairs(ragged), scale=False)
    # Of the two references that are read the second has more than six tokens.
    assert found["cuts"] == {"cut_share": 0.0, "lost_answer_share": 0.0, "response_cut_share": 0.5}
    scores = scorer.score_texts(
        ["the fox 1", "the fox 3"], ["runs home .", "sings and sings and sings and sings"], max_tokens=6
    )
    assert scores.mean() == pytest.approx(0.0, abs=1e-6)
    assert abs(scores[0]) > 0.01


def test_without_references_the_chosen_responses_average_zero(make_scorer, hardware, ragged):
    scorer = Scorer(*make_scorer(), hardware)
    shift_on_references(scorer, make_job(), [example(1)], pairs(ragged), scale=True)
    scores = scorer.scores(*ragged)
    assert scores.mean() == pytest.approx(0.0, abs=1e-6)
    assert scores.std() == pytest.approx(1.0, abs=1e-5)


def test_the_report_card_is_of_these_pairs(make_scorer, hardware, ragged):
    scorer = Scorer(*make_scorer(), hardware)
    prompts, responses = ragged
    chosen, rejected = scorer.scores(*ragged), scorer.scores(prompts, responses[1:] + responses[:1])
    card = examine(scorer, pairs(ragged, agrees=1.0), seed=2**40)
    assert card["pairs"] == 5
    assert card["accuracy"]["estimate"] == pytest.approx(100 * np.mean(chosen > rejected))
    assert card["margin"] == pytest.approx(np.mean(chosen - rejected))
    assert card["oracle_accuracy"] == 100
    assert card["oracle_gap"]["estimate"] == pytest.approx(100 - card["accuracy"]["estimate"])
    assert "oracle_gap" not in examine(scorer, pairs(ragged), seed=0)


def test_pairs_of_one_prompt_are_one_draw_whatever_their_ids(make_scorer, hardware, ragged, monkeypatch):
    seen: list[list[str]] = []
    monkeypatch.setattr("harness.training.reward_model.report_card", lambda *_, clusters, **__: seen.append(clusters))
    examine(Scorer(*make_scorer(), hardware), pairs(ragged), seed=0)
    assert seen == [["0", "0", "1", "1", "2"]]


@pytest.mark.parametrize("known", [None, 0.25])
def test_a_given_reward_model_is_shifted_unless_it_brings_its_own_shift(
    make_scorer, make_lm, hardware, ragged, tmp_path, known
):
    given = make_scorer()
    given.model.config.reward_shift = known
    save(given, tmp_path / "given")
    for name in ("sft", "feedback"):
        (tmp_path / name).mkdir()
    save(make_lm(), model_directory(tmp_path / "sft"))
    for name in ("pairs.jsonl", "heldout.jsonl"):
        write_pairs(tmp_path / "feedback" / name, pairs(ragged))
    job = make_job()
    job.hardware, job.data = hardware, lambda workspace: SimpleNamespace(splits={"preference": [], "validation": []})
    job.config.task.max_prompt_tokens = 6
    job.config.reward_model = RewardModelConfig(source="load", path=str(tmp_path / "given"))
    inputs = {name: SimpleNamespace(directory=tmp_path / name) for name in ("sft", "feedback")}
    workspace: Any = SimpleNamespace(directory=tmp_path, inputs=inputs, seed_for=lambda purpose: 0)
    run_reward_model(workspace, job)
    mean = Scorer.load(model_directory(tmp_path), hardware).scores(*ragged).mean()
    plain = Scorer(*make_scorer(), hardware).scores(*ragged).mean()
    assert mean == pytest.approx(0.0 if known is None else plain - known, abs=1e-5)


@pytest.mark.parametrize(("kind", "foreign"), [("separate", False), ("head", True), ("head", False)])
def test_a_value_that_can_be_read_is_let_through(kind, foreign):
    require_value_of_its_own(with_value(kind), foreign=foreign)


def test_a_value_network_from_a_reward_model_of_another_tokenizer_is_refused():
    with pytest.raises(
        UserError, match=r"^algorithm\.value\.kind=separate starts as the reward model, whose tokenizer"
    ):
        require_value_of_its_own(with_value("separate"), foreign=True)


def with_value(kind: str) -> Any:
    return SimpleNamespace(algorithm=PPOConfig(value=ValueConfig(kind=kind)))
