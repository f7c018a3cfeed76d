from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.models.loading import load_scorer, save
from harness.models.scorer import Scorer
from harness.training import preferences, updates
from harness.training.preferences import (
    Comparison,
    TokenPair,
    _add_gradients,
    learn_preferences,
    report_card,
    shift_scores,
)


def settings(**changes: Any) -> Comparison:
    optimizer = OptimizerConfig(lr=3e-3, warmup=0.0)
    return Comparison(**{"epochs": 1, "batch_size": 4, "optimizer": optimizer, **changes})


def ignore(*_: Any, **__: Any) -> None:
    """Takes metrics and progress."""


@pytest.fixture
def pairs(ragged):
    prompts, responses = ragged
    return [TokenPair(p, a, b) for p, a, b in zip(prompts, responses, responses[1:] + responses[:1], strict=True)]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("margin", "centering"), [(0.0, 0.0), (0.5, 0.01)])
def test_the_loss_is_bradley_terry_on_the_plain_classifiers_scores(
    make_scorer, pairs, hardware, naive, margin, centering
):
    scorer = make_scorer()

    def plain(tokens: list[int]) -> float:
        with torch.inference_mode():
            return float(scorer.model(torch.tensor([tokens])).logits[0, 0])

    chosen, rejected = [plain(p.prompt + p.chosen) for p in pairs], [plain(p.prompt + p.rejected) for p in pairs]
    expected = naive.preference_loss(chosen, rejected, [margin] * 5, centering)
    loss, accuracy = _add_gradients(scorer, pairs, settings(margin=margin, centering=centering), hardware)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert accuracy == sum(c > r for c, r in zip(chosen, rejected, strict=True)) / 5


def test_accumulation_gives_the_gradients_of_one_batch(make_scorer, pairs, hardware):
    scorer, found = make_scorer(), {}
    for size in (None, 1, 2):  # 5 pairs in twos: the last piece is smaller and must weigh less
        scorer.model.zero_grad()
        measured = _add_gradients(scorer, pairs, settings(micro_batch_size=size, centering=0.01), hardware)
        found[size] = (measured, gradients(scorer.model))
    for size in (1, 2):
        assert found[size][0] == pytest.approx(found[None][0], rel=1e-5)
        for name, gradient in found[size][1].items():
            torch.testing.assert_close(gradient, found[None][1][name], atol=1e-5, rtol=1e-4)


def test_several_rounds_give_the_gradients_of_one_batch(make_scorer, pairs, hardware, monkeypatch):
    scorer, found, passes = make_scorer(), [], []
    whole = preferences.pair_scores
    monkeypatch.setattr(
        preferences, "pair_scores", lambda model, prompts, *a: passes.append(len(prompts)) or whole(model, prompts, *a)
    )
    for small in (False, True):
        if small:
            monkeypatch.setattr(updates, "GRAPH_NUMBERS", 1)
            monkeypatch.setattr(updates, "PARAMETERS_PER_GRAPH_NUMBER", 10**9)
        scorer.model.zero_grad()
        found.append((_add_gradients(scorer, pairs, settings(centering=0.01), hardware), gradients(scorer.model)))
    assert (sorted(passes[:2]), passes[2:]) == ([2, 3], [1] * 5)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-4)


def planted(count: int, seed: int) -> list[TokenPair]:
    """More tokens 40 are better; nothing else matters."""
    rng, pairs = Random(seed), []
    while len(pairs) < count:
        prompt = [rng.randrange(50, 90) for _ in range(rng.randint(1, 5))]
        a, b = ([*rng.choices([40, 41, 42], k=rng.randint(2, 5)), 0] for _ in range(2))
        if a.count(40) != b.count(40):
            pairs.append(TokenPair(prompt, *sorted([a, b], key=lambda ids: -ids.count(40))))
    return pairs


def test_it_learns_a_planted_preference(make_scorer, hardware):
    scorer = make_scorer(width=32, spread=1.0)
    rows: list[Any] = []
    result = learn_preferences(
        scorer,
        planted(400, seed=0),
        settings(epochs=6, batch_size=40),
        hardware=hardware,
        seed=0,
        log=rows.append,
        advance=ignore,
    )
    fresh = planted(200, seed=1)
    scores = Scorer(*scorer, hardware).scores(
        [p.prompt for p in fresh] * 2, [p.chosen for p in fresh] + [p.rejected for p in fresh]
    )
    assert (scores[:200] > scores[200:]).mean() > 0.95
    assert result["steps"] == 60
    assert result["accuracy"] > 0.95
    assert result["loss"] < 0.3 < rows[0]["loss"]
    assert rows[-1]["step"] == 59


def test_halves_at_the_same_time_give_the_scorer_of_one_after_the_other(make_scorer):
    weights = []
    for workers in (1, 2, 2):
        scorer, hardware = make_scorer(spread=1.0), Hardware("cpu", "fp32", 1, workers)
        learn_preferences(scorer, planted(20, 0), settings(), hardware=hardware, seed=3, log=ignore, advance=ignore)
        weights.append(torch.cat([p.detach().flatten() for p in scorer.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_the_same_seed_gives_the_same_scorer(make_scorer, hardware):
    weights = []
    for seed in (3, 3, 4):
        scorer = make_scorer(spread=1.0)
        learn_preferences(scorer, planted(20, 0), settings(), hardware=hardware, seed=seed, log=ignore, advance=ignore)
        weights.append(torch.cat([p.detach().flatten() for p in scorer.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class TestShift:
    def test_references_average_zero(self, make_scorer, hardware, ragged):
        scorer = Scorer(*make_scorer(), hardware)
        before = scorer.scores(*ragged)
        result = shift_scores(scorer, *ragged)
        np.testing.assert_allclose(scorer.scores(*ragged), before - before.mean(), atol=1e-6)
        assert scorer.scores(*ragged).mean() == pytest.approx(0.0, abs=1e-6)
        assert result == {"shift": pytest.approx(before.mean()), "scale": 1.0}

    def test_shifting_twice_is_shifting_once(self, make_scorer, hardware, ragged):
        scorer = Scorer(*make_scorer(), hardware)
        first = shift_scores(scorer, *ragged)
        assert shift_scores(scorer, *ragged) == first

    def test_with_scale_they_have_standard_deviation_one_and_the_order_stays(self, make_scorer, hardware, ragged):
        scorer = Scorer(*make_scorer(), hardware)
        before = scorer.scores(*ragged)
        result = shift_scores(scorer, *ragged, scale=True)
        after = scorer.scores(*ragged)
        np.testing.assert_allclose(after, (before - before.mean()) / before.std(), atol=1e-5)
        assert result["scale"] == pytest.approx(before.std())

    def test_equal_scores_cannot_be_scaled_and_stay_finite(self, make_scorer, hardware, ragged):
        scorer = Scorer(*make_scorer(), hardware)
        with torch.no_grad():
            scorer.model.score.weight.zero_()
        assert shift_scores(scorer, *ragged, scale=True) == {"shift": 0.0, "scale": 1.0, "unscaled": 0.0}
        assert (scorer.scores(*ragged) == 0).all()

    @pytest.mark.parametrize("mean", [0.3, 300.0])
    def test_what_rounding_makes_of_equal_scores_is_no_deviation(self, make_scorer, hardware, mean, monkeypatch):
        """Rows of other lengths in a batch move the last digits of a score in fp32, which keeps seven of them."""
        scorer = Scorer(*make_scorer(), hardware)
        weight = scorer.model.score.weight.clone()
        scores = mean * (1 + 1e-7 * np.array([-1.0, 0.0, 1.0]))
        monkeypatch.setattr(scorer, "scores", lambda *_: scores)
        result = shift_scores(scorer, [[5, 6]] * 3, [[7]] * 3, scale=True)
        assert result == {"shift": pytest.approx(mean), "scale": 1.0, "unscaled": pytest.approx(scores.std())}
        assert torch.equal(scorer.model.score.weight, weight)

    def test_nothing_has_no_mean(self, make_scorer, hardware):
        scorer = Scorer(*make_scorer(), hardware)
        with pytest.raises(RunFailed, match="no reference, and no pair, to score; give"):
            shift_scores(scorer, [], [])

    def test_other_tools_see_our_scores_up_to_one_constant(self, make_scorer, hardware, ragged, tmp_path):
        """The scale is in the head, so a plain transformers classifier ranks and spaces responses as we do."""
        from transformers import AutoModelForSequenceClassification

        scorer = Scorer(*make_scorer(), hardware)
        shift = shift_scores(scorer, *ragged, scale=True)["shift"]
        save(load_type(scorer), tmp_path / "saved")
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        with torch.inference_mode():
            theirs = [float(plain(torch.tensor([p + r])).logits[0, 0]) for p, r in zip(*ragged, strict=True)]
        np.testing.assert_allclose(np.array(theirs) - scorer.scores(*ragged), shift, atol=1e-4)
        reloaded = Scorer(*load_scorer(tmp_path / "saved"), hardware)
        np.testing.assert_allclose(reloaded.scores(*ragged), scorer.scores(*ragged), atol=1e-6)


def load_type(scorer: Scorer) -> Any:
    from harness.models.loading import LanguageModel

    return LanguageModel(scorer.model, scorer.codec)


class TestReportCard:
    margins = np.array([2.0, 1.0, -0.5, 0.0])
    scores = np.array([3.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.5, 0.0])
    lengths = np.array([9, 7, 5, 1, 5, 5, 6, 1])

    def card(self, **changes: Any) -> dict[str, Any]:
        given = {"oracle": None, "clusters": ["a", "b", "c", "d"], "seed": 0, **changes}
        return report_card(given.pop("margins", self.margins), given.pop("scores", self.scores), self.lengths, **given)

    def test_by_hand(self):
        card = self.card()
        assert card["pairs"] == 4
        assert card["accuracy"]["estimate"] == pytest.approx(100 * (1 + 1 + 0 + 0.5) / 4)
        assert 0 <= card["accuracy"]["low"] <= 62.5 <= card["accuracy"]["high"] <= 100
        assert card["margin"] == pytest.approx(2.5 / 4)
        # Each confidence is alone in its bin of tenths, and the tie sits at 1/2 with outcome 1/2.
        sigma = [1 / (1 + math.exp(-m)) for m in (2.0, 1.0, 0.5, 0.0)]
        gaps = [abs(sigma[0] - 1), abs(sigma[1] - 1), abs(sigma[2] - 0), 0.0]
        assert card["ece"] == pytest.approx(sum(gaps) / 4)
        assert sum(row["n"] for row in card["reliability"]) == 4
        assert card["length_correlation"] == pytest.approx(1.0), "the same ranks"
        assert "oracle_accuracy" not in card

    def test_the_gap_to_the_oracle_is_paired(self):
        card = self.card(oracle=np.array([1.0, 0.0, 1.0, 0.5]))
        assert card["oracle_accuracy"] == 62.5
        assert card["oracle_gap"]["estimate"] == pytest.approx(0.0)
        same = self.card(oracle=np.array([1.0, 1.0, 0.0, 0.5]))["oracle_gap"]
        assert (same["low"], same["high"]) == (0.0, 0.0), "the same verdicts: no gap in any resample"

    def test_pairs_of_one_prompt_are_one_draw(self):
        """A thousand copies of two prompts' pairs tell no more than the two prompts."""
        margins = np.tile([1.0, -1.0], 500)
        own = report_card(
            margins, np.zeros(2000), np.ones(2000), oracle=None, clusters=[str(i) for i in range(1000)], seed=0
        )
        shared = report_card(margins, np.zeros(2000), np.ones(2000), oracle=None, clusters=["a", "b"] * 500, seed=0)
        assert own["accuracy"]["high"] - own["accuracy"]["low"] < 8
        assert shared["accuracy"]["high"] - shared["accuracy"]["low"] > 50

    def test_it_can_be_written_as_json(self):
        import json

        json.dumps(self.card(scores=np.zeros(8), oracle=np.ones(4)), allow_nan=False)
        assert self.card(scores=np.zeros(8))["length_correlation"] is None


def test_training_does_not_reach_the_policy_it_started_from(make_lm, make_scorer, hardware):
    lm, scorer = make_lm(seed=5), make_scorer(seed=5)
    before = copy.deepcopy(lm.model.state_dict())
    learn_preferences(scorer, planted(8, 0), settings(), hardware=hardware, seed=0, log=ignore, advance=ignore)
    assert all(torch.equal(before[name], value) for name, value in lm.model.state_dict().items())
