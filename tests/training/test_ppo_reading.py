"""Reference and values are read a few rows at a time: the numbers of the whole batch, whatever architecture reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from harness.config import OptimizerConfig, PPOConfig, ValueConfig
from harness.hardware import Hardware
from harness.models.forward import Batch, make_batch, response_logits, token_values
from harness.models.loading import LanguageModel, load_language_model, load_scorer
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling
from harness.training import ppo_training as ppo_module
from harness.training.algorithm import Setup
from harness.training.ppo_training import PPOState, PPOTraining
from harness.training.token_logprobs import sequence_logprobs

PROMPTS = [[5, 9, 20, 40, 33, 8, 36], [12], [7, 8, 9], [9, 9, 9, 14], [30, 3], [21, 22], [36] * 5, [22, 23, 24]]
RESPONSES = [[30, 31], [14, 15, 16, 17, 18], [29], [11, 12, 13, 14, 15, 16], [33], [17, 18], [8] * 4, [31, 32, 33]]
TEMPERATURE = 0.7


@pytest.fixture
def start(family_folder: Any, hardware: Hardware) -> Any:
    """(family, kind of value, rows at a time) -> an algorithm, its setup and its state, all models different."""

    def make(family: str, kind: str, size: int | None) -> tuple[PPOTraining, Setup, PPOState]:
        policy = load_language_model(family_folder(family, peaked=False))
        reward = Scorer(*load_scorer(family_folder(family, peaked=False), head_seed=3), hardware)
        reward.model.config.reward_shift = 0.25
        reference = LanguageModel(copy.deepcopy(policy.model).requires_grad_(False), policy.codec)
        setup = Setup(
            policy=policy,
            reference=reference,
            reward=reward,
            prompts=PROMPTS,
            sampling=Sampling(6, temperature=TEMPERATURE),
            probe=lambda policy, iteration: {},
            gold=None,
            report_card=None,
            hardware=hardware,
            seed_for=len,
            log=lambda row: None,
            advance=lambda *_, **__: None,
            pairs=list,
        )
        algorithm = PPOTraining(
            PPOConfig(
                batch_size=8,
                minibatch_size=4,
                micro_batch_size=size,
                value=ValueConfig(kind=kind),
                optimizer=OptimizerConfig(lr=1e-3),
            )
        )
        state = algorithm._start(setup)
        if state.value_head is not None:
            torch.nn.init.normal_(state.value_head.weight, generator=torch.Generator().manual_seed(1))
        return algorithm, setup, state

    return make


@pytest.mark.parametrize("kind", ["separate", "head"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_slices_read_what_the_whole_batch_does(start: Any, family: str, kind: str) -> None:
    for size in (1, 3, None, 8):
        algorithm, setup, state = start(family, kind, size)
        batch = make_batch(PROMPTS, RESPONSES, setup.policy.codec.pad_id, width=7)
        with torch.no_grad():
            logits = response_logits(setup.reference.model, batch)
            logprobs = sequence_logprobs(logits, batch.response, TEMPERATURE)
            values = token_values(state.value, batch, state.value_head) - (0.25 if kind == "separate" else 0.0)
        found = algorithm._read(setup, state, batch)
        for ours, whole in zip(found, (logprobs, values), strict=True):
            torch.testing.assert_close(ours, whole * batch.response_mask, atol=1e-6, rtol=1e-6)
            assert ours.abs().sum() > 0
            assert not ours.requires_grad
            assert not ours.is_inference()


@pytest.mark.parametrize(("size", "rows"), [(None, 2), (3, 1), (1, 1)])
def test_two_passes_have_no_more_rows_than_an_update_nor_more_columns_than_they_need(
    start: Any, monkeypatch: pytest.MonkeyPatch, size: int | None, rows: int
) -> None:
    algorithm, setup, state = start("gpt2", "separate", size)
    seen: list[Batch] = []

    def note(model: Any, batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return response_logits(model, batch)

    monkeypatch.setattr(ppo_module, "response_logits", note)
    algorithm._read(setup, state, make_batch(PROMPTS, RESPONSES, setup.policy.codec.pad_id))
    assert max(len(batch.ids) for batch in seen) == rows
    assert sum(len(batch.ids) for batch in seen) == 8
    for batch in seen:
        assert batch.mask.any(0).all()
        assert batch.response_mask.any(0).all()
    longest = [int((batch.mask.sum(1) - batch.response_mask.sum(1)).max()) for batch in seen]
    assert longest == sorted(longest), "by length"
