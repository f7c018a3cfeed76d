"""Each gate lets a sound set-up through and stops at a planted fault."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import ChecksConfig, PPOConfig
from harness.errors import RunFailed, UserError
from harness.hardware import Hardware
from harness.models.forward import Batch, make_batch, response_logits
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling, sample
from harness.training import gates
from harness.training.preferences import report_card
from harness.training.token_logprobs import sequence_logprobs
from harness.validation import _check_ppo

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])


def test_the_gates_that_can_be_skipped_are_the_gates_that_there_are():
    checks = ChecksConfig(skip_gates=["none"])
    with pytest.raises(UserError, match=rf"choose among {', '.join(gates.GATES)}$"):
        _check_ppo(PPOConfig(episodes=128, checks=checks))
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert f"Gates to skip: {', '.join(gates.GATES)}." in page


def card(low: float) -> dict[str, Any]:
    return {"accuracy": {"estimate": low + 5, "low": low, "high": low + 10}}


def test_accuracy_needs_a_lower_bound_above_chance():
    gates.require_accuracy(card(50.1))
    for low in (50.0, 40.0):
        with pytest.raises(RunFailed, match=rf"gate accuracy: .*\({low + 5:.1f}, lower bound {low:.1f}\)"):
            gates.require_accuracy(card(low))


@pytest.mark.parametrize(("prompts", "passes"), [(2, False), (3, False), (4, True), (100, True)])
@pytest.mark.parametrize("each", [1, 50])
def test_a_few_prompts_whose_pairs_are_all_right_are_no_proof(prompts: int, passes: bool, each: int) -> None:
    """Wilson's lower bound with all n right is n / (n + 1.96²): 34.2, 43.8, 51.0 and 96.3, however many pairs each."""
    count = prompts * each
    clusters = [f"prompt {row // each}" for row in range(count)]
    all_right = report_card(
        np.ones(count), np.zeros(2 * count), np.ones(2 * count), oracle=None, clusters=clusters, seed=0
    )
    assert (all_right["pairs"], all_right["prompts"]) == (count, prompts)
    if passes:
        gates.require_accuracy(all_right)
    else:
        bound = 100 * prompts / (prompts + 1.959964**2)
        with pytest.raises(RunFailed, match=rf"\(100\.0, lower bound {bound:.1f}\)"):
            gates.require_accuracy(all_right)


FAULTS = pytest.mark.parametrize(
    "fault",
    [
        {"position_ids": lambda ids: torch.arange(ids.shape[1]).expand_as(ids)},
        {"attention_mask": torch.ones_like},
    ],
    ids=["positions that count pads", "a mask that hides nothing"],
)


class Rollout:
    """A batch that a policy sampled, as PPO's gates get it."""

    def __init__(
        self, policy: LanguageModel, prompts: list[list[int]], temperature: float, hardware: Hardware | None = None
    ) -> None:
        codec = policy.codec
        self.prompts = prompts
        self.rollout = sample(
            policy.model,
            prompts,
            Sampling(6, temperature=temperature),
            eos_id=codec.eos_id,
            pad_id=codec.pad_id,
            seed=1,
            hardware=hardware,
        )
        self.batch = make_batch(prompts, self.rollout.tokens, codec.pad_id)
        self.logprobs = self.rollout.logprobs[:, : self.batch.response_mask.shape[1]].numpy()


def logprobs_of(model: Any, batch: Batch) -> np.ndarray:
    with torch.inference_mode():
        logprobs = sequence_logprobs(response_logits(model, batch), batch.response, 0.7)
    return logprobs.masked_fill(~batch.response_mask, 0.0).numpy()


# -- sampling equals scoring -----------------------------------------------------------------------------------------


@ARCHITECTURES
def test_sampling_equals_scoring(make_lm, ragged, hardware, architecture):
    policy = make_lm(architecture)
    rollout = Rollout(policy, ragged[0], 0.7)
    gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, 0.7, hardware)


def test_another_temperature_is_found(make_lm, ragged, hardware):
    policy = make_lm()
    rollout = Rollout(policy, ragged[0], 0.7)
    with pytest.raises(RunFailed, match=r"gate logprobs: sampling and scoring differ by .* nats"):
        gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, 1.0, hardware)


class Faulty(torch.nn.Module):
    """A model with a fault in how it is called."""

    def __init__(self, model: Any, **fault: Any) -> None:
        super().__init__()
        self.model, self.fault = model, fault
        self.config = model.config
        self.base_model = self if model.base_model is model else Faulty(model.base_model, **fault)

    @property
    def device(self) -> Any:
        return self.model.device

    def forward(self, **inputs: Any) -> Any:
        return self.model(**spoiled(inputs, self.fault))


def spoiled(inputs: dict[str, Any], fault: dict[str, Any]) -> dict[str, Any]:
    return {name: fault[name](value) if name in fault else value for name, value in inputs.items()}


@ARCHITECTURES
def test_in_half_precision_sampling_may_differ_from_scoring_as_both_do_from_full_precision(
    make_lm, ragged, architecture
):
    """A peaked model's logprobs move there: much on some token, and on all together little."""
    half = Hardware("cpu", "bf16", 1)
    policy = make_lm(architecture, spread=40.0)
    rollout = Rollout(policy, ragged[0] * 6, 0.7, half)
    gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, 0.7, half)
    with torch.inference_mode(), half.autocast():
        scored = sequence_logprobs(response_logits(policy.model, rollout.batch), rollout.batch.response, 0.7)
    apart = np.abs(scored.numpy() - rollout.logprobs)[rollout.batch.response_mask.numpy()]
    assert apart.max() > 0.05
    for temperature, match in ((1.0, "sampling and scoring differ: in bf16"), (1e-3, "bf16 moves the policy's")):
        with pytest.raises(RunFailed, match=f"gate logprobs: {match}"):
            gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, temperature, half)
    rollout.logprobs[0, 0] = np.nan
    with pytest.raises(RunFailed, match="gate logprobs"):
        gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, 0.7, half)


@FAULTS
def test_a_scoring_pass_with_wrong_positions_or_no_mask_is_found_in_half_precision(make_lm, ragged, fault):
    half = Hardware("cpu", "bf16", 1)
    policy = make_lm()
    rollout = Rollout(policy, ragged[0], 0.7, half)
    broken = LanguageModel(Faulty(policy.model, **fault), policy.codec)
    with pytest.raises(RunFailed, match="gate logprobs: sampling and scoring differ"):
        gates.require_equal_logprobs(broken, rollout.batch, rollout.logprobs, 0.7, half)


@FAULTS
def test_a_scoring_pass_with_wrong_positions_or_no_mask_is_found(make_lm, ragged, hardware, fault):
    policy = make_lm()
    rollout = Rollout(policy, ragged[0], 0.7)
    broken = LanguageModel(Faulty(policy.model, **fault), policy.codec)
    with pytest.raises(RunFailed, match="gate logprobs"):
        gates.require_equal_logprobs(broken, rollout.batch, rollout.logprobs, 0.7, hardware)


def test_dropout_is_found_by_the_logprobs(make_lm, ragged, hardware):
    policy = make_lm()
    rollout = Rollout(policy, ragged[0], 0.7)
    with pytest.raises(RunFailed, match="gate logprobs"):
        gates.require_equal_logprobs(with_dropout(policy), rollout.batch, rollout.logprobs, 0.7, hardware)


def with_dropout(policy: LanguageModel) -> LanguageModel:
    model = copy.deepcopy(policy.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    torch.manual_seed(0)
    return LanguageModel(model, policy.codec)


def test_logprobs_that_are_no_number_are_found(make_lm, ragged, hardware):
    policy = make_lm()
    rollout = Rollout(policy, ragged[0], 0.7)
    rollout.logprobs[0, 0] = np.nan
    with pytest.raises(RunFailed, match="gate logprobs"):
        gates.require_equal_logprobs(policy, rollout.batch, rollout.logprobs, 0.7, hardware)


# -- ratio 1 after an update of learning rate 0 ----------------------------------------------------------------------


ONE = {"ratio_mean": 1.0, "ratio_max": 1.0, "approx_kl": 0.0}


def require_unit_ratio(model: Any, batch: Batch, *, lr: float, hardware: Hardware) -> None:
    def update() -> dict[str, float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        response_logits(model, batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return ONE

    gates.require_unit_ratio(update, lambda: logprobs_of(model, batch), hardware)


def test_an_update_of_rate_0_leaves_the_ratio_at_1(make_lm, ragged, hardware):
    policy = make_lm()
    require_unit_ratio(policy.model, Rollout(policy, ragged[0], 0.7).batch, lr=0.0, hardware=hardware)


def test_an_update_that_moves_is_found(make_lm, ragged, hardware):
    policy = make_lm()
    with pytest.raises(RunFailed, match=r"gate ratio: after an update with lr 0 a ratio is off by"):
        require_unit_ratio(policy.model, Rollout(policy, ragged[0], 0.7).batch, lr=1e-2, hardware=hardware)


def test_dropout_is_found_by_the_ratio(make_lm, ragged, hardware):
    policy = make_lm()
    batch = Rollout(policy, ragged[0], 0.7).batch
    with pytest.raises(RunFailed, match="gate ratio"):
        require_unit_ratio(with_dropout(policy).model, batch, lr=0.0, hardware=hardware)


def test_the_tolerance_of_half_precision_is_wider(hardware):
    values = iter([np.zeros((2, 3)), np.full((2, 3), 5e-3)] * 2)
    gates.require_unit_ratio(lambda: ONE, lambda: next(values), Hardware("cuda", "bf16", 1))
    with pytest.raises(RunFailed, match="gate ratio: after an update"):
        gates.require_unit_ratio(lambda: ONE, lambda: next(values), hardware)


@pytest.mark.parametrize(
    "seen", [{"ratio_max": 1.001}, {"ratio_mean": 0.999}, {"approx_kl": 0.001}, {"ratio_max": np.nan}]
)
def test_an_update_that_does_not_begin_at_ratio_1_is_found(seen, hardware):
    def still() -> np.ndarray:
        return np.zeros((2, 3))

    with pytest.raises(RunFailed, match="gate ratio: the first update's ratio"):
        gates.require_unit_ratio(lambda: ONE | seen, still, hardware)


def test_in_half_precision_a_single_first_ratio_may_be_off(hardware):
    def still() -> np.ndarray:
        return np.zeros((2, 3))

    half = Hardware("cuda", "bf16", 1)
    gates.require_unit_ratio(lambda: ONE | {"ratio_max": 1.4, "approx_kl": 5e-3}, still, half)
    for seen in ({"ratio_mean": 1.06}, {"ratio_mean": 0.94}, {"ratio_mean": np.nan}, {"approx_kl": 0.02}):
        with pytest.raises(RunFailed, match="gate ratio: the first update's ratio"):
            gates.require_unit_ratio(lambda seen=seen: ONE | seen, still, half)


# -- scores and their batch ------------------------------------------------------------------------------------------


@ARCHITECTURES
def test_a_sound_scorer_is_invariant(make_scorer, ragged, hardware, architecture):
    gates.require_batch_invariance(Scorer(*make_scorer(architecture), hardware), *ragged)


@pytest.mark.parametrize(("off", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_the_allowance_in_full_precision_does_not_grow_with_the_scores(make_scorer, ragged, hardware, off, passes):
    """Scores around 10 (any sound scorer reaches those, see the next test), one of which moves with its batch."""

    class Moving(Scorer):
        def scores(self, prompts: Any, responses: Any, *, batch_size: int = 256) -> np.ndarray:
            scores = super().scores(prompts, responses)
            return scores + off if batch_size == 1 else scores

    scorer = make_scorer()
    scorer.model.config.reward_shift = -10.0
    moving = Moving(*scorer, hardware)
    assert np.abs(moving.scores(*ragged)).max() > 5
    if passes:
        gates.require_batch_invariance(moving, *ragged)
    else:
        with pytest.raises(RunFailed, match=r"moves by 1\.[01].e-04 with its batch \(allowed 0\.0001\)"):
            gates.require_batch_invariance(moving, *ragged)


@ARCHITECTURES
def test_a_sound_scorer_of_ordinary_scores_is_invariant(make_scorer, ragged, hardware, architecture):
    scorer = make_scorer(architecture)
    plain = Scorer(*scorer, hardware)
    with torch.no_grad():
        scorer.model.score.weight.mul_(10 / np.abs(plain.scores(*ragged)).max())
    assert np.abs(plain.scores(*ragged)).max() == pytest.approx(10, rel=1e-3)
    gates.require_batch_invariance(plain, *ragged)


@FAULTS
def test_a_trunk_with_wrong_positions_or_no_mask_is_found(make_scorer, ragged, hardware, fault):
    scorer = make_scorer()
    scorer.model.transformer.forward = faulty_forward(scorer.model.transformer.forward, **fault)
    with pytest.raises(RunFailed, match=r"gate invariance: a reward-model score moves by"):
        gates.require_batch_invariance(Scorer(*scorer, hardware), *ragged)


def faulty_forward(forward: Any, **fault: Any) -> Any:
    def call(**inputs: Any) -> Any:
        return forward(**spoiled(inputs, fault))

    return call


def test_a_score_read_at_the_last_column_is_found(make_scorer, ragged, hardware, monkeypatch):
    """Pooling that takes right padding for text."""
    scorer = make_scorer()

    def last_column(model: Any, batch: Batch) -> torch.Tensor:
        return model.score(model.transformer(input_ids=batch.ids, attention_mask=batch.mask.long())[0][:, -1])[:, 0]

    monkeypatch.setattr("harness.models.scorer.sequence_scores", last_column)
    monkeypatch.setattr("harness.training.gates.sequence_scores", last_column)
    with pytest.raises(RunFailed, match="gate invariance"):
        gates.require_batch_invariance(Scorer(*scorer, hardware), *ragged)


def test_a_scorer_in_training_mode_with_dropout_is_found(make_scorer, ragged, hardware):
    broken = with_dropout(make_scorer())
    with pytest.raises(RunFailed, match="gate invariance"):
        gates.require_batch_invariance(Scorer(*broken, hardware), *ragged)


def test_scores_that_are_no_number_are_found(make_scorer, ragged, hardware):
    scorer = make_scorer()
    with torch.no_grad():
        scorer.model.score.weight.fill_(torch.nan)
    with pytest.raises(RunFailed, match="gate invariance"):
        gates.require_batch_invariance(Scorer(*scorer, hardware), *ragged)


# -- the score sits on EOS -------------------------------------------------------------------------------------------


def ended(responses: list[list[int]]) -> list[bool]:
    return [response[-1] == 0 for response in responses]


def test_the_score_sits_on_eos(ragged):
    gates.require_score_on_eos(make_batch(*ragged, 1), ended(ragged[1]), stop_ids=[0])


def test_the_score_sits_on_the_first_of_several_ends(ragged):
    """Pad, 1, among them, which fills up the columns after it, and 31, which ends the first response before its EOS."""
    prompts, responses = ragged
    some = [responses[0][:2], *responses[1:4], [17, 1]]
    gates.require_score_on_eos(make_batch(prompts, some, 1), [True, True, False, True, True], stop_ids=[0, 1, 31])
    with pytest.raises(RunFailed, match=r"rows \[0\]"):
        gates.require_score_on_eos(make_batch(prompts, responses, 1), ended(responses), stop_ids=[0, 1, 31])


def test_a_mask_without_eos_is_found(ragged):
    """The usual slip where pad is EOS: the mask ends before it."""
    batch = make_batch(*ragged, 1)
    slipped = batch._replace(response_mask=batch.response_mask & (batch.response != 0))
    slipped.response_mask[3, 0] = True  # a response of EOS alone keeps a token, else no reward could be made at all
    with pytest.raises(RunFailed, match=r"gate eos: the score is not paid on EOS in rows \[0, 1, 4\]"):
        gates.require_score_on_eos(slipped, ended(ragged[1]), stop_ids=[0])


def test_a_mask_that_runs_into_the_padding_is_found(ragged):
    batch = make_batch(*ragged, 1)
    everything = batch._replace(response_mask=torch.ones_like(batch.response_mask))
    with pytest.raises(RunFailed, match=r"rows \[0, 3, 4\]"):
        gates.require_score_on_eos(everything, ended(ragged[1]), stop_ids=[0])


@pytest.mark.parametrize("column", ["one before", "one after", "none", "all"])
def test_a_score_that_is_paid_elsewhere_is_found(ragged, monkeypatch, column):
    def elsewhere(scores: Any, penalty: Any, mask: Any, *, kl_coef: float) -> Any:
        at = (mask.sum(1) - 1 + {"one before": -1, "one after": 1}.get(column, 0)) % mask.shape[1]
        paid = torch.zeros(mask.shape).scatter(1, at[:, None], 1.0)
        return {"none": torch.zeros(mask.shape), "all": torch.ones(mask.shape)}.get(column, paid)

    monkeypatch.setattr("harness.training.kl.token_rewards", elsewhere)
    with pytest.raises(RunFailed, match="gate eos: the score is not paid on EOS"):
        gates.require_score_on_eos(make_batch(*ragged, 1), ended(ragged[1]), stop_ids=[0])


def test_an_unended_response_is_paid_on_its_last_token(ragged):
    prompts, responses = ragged
    batch = make_batch(prompts[2:3], responses[2:3], 1)
    gates.require_score_on_eos(batch, [False], stop_ids=[0])
    with pytest.raises(RunFailed, match=r"rows \[0\]"):
        gates.require_score_on_eos(batch, [True], stop_ids=[0])
