"""PPO with adapters: four roles on one base, whose weights are held once and never move."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from harness.config import ChecksConfig, LimitsConfig, LoraConfig, OptimizerConfig, PPOConfig
from harness.models.adapters import Base, add_adapter, bare, trainable, twin
from harness.models.forward import make_batch, response_logits
from harness.models.kept import start_scorer
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling
from harness.training.algorithm import Setup
from harness.training.ppo_training import PPOTraining
from harness.training.token_logprobs import sequence_logprobs

pytest.importorskip("peft")
PROMPTS = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14], [100, 3], [50, 51], [60] * 5, [22, 23, 24]]
LIMITS = LimitsConfig(max_kl=None, min_entropy=None, min_length=None, max_length_share=None)


def config(**changes: Any) -> PPOConfig:
    given: dict[str, Any] = {
        "_target_": "harness.training.ppo.PPO",
        "name": "ppo",
        "episodes": 24,
        "batch_size": 8,
        "minibatch_size": 4,
        "epochs": 2,
        "checks": ChecksConfig(probes=0, limits=LIMITS),
        "optimizer": OptimizerConfig(lr=3e-3, warmup=0.0),
        **changes,
    }
    return PPOConfig(**given)


@pytest.fixture
def make_setup(make_lm: Any, hardware: Any, tmp_path: Any) -> Any:
    """architecture -> what PPO works with, all on one base; the SFT adapter is not zero, nor the reward model's."""
    from harness.models.loading import save

    def move(model: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    def make(architecture: str, probe: Any = None) -> Setup:
        policy = make_lm(architecture, spread=4.0)
        save(policy, tmp_path / "base")
        add_adapter(policy.model, LoraConfig(rank=2, dropout=0.5), Base(str(tmp_path / "base")), seed=0)
        move(policy.model, 1)
        reward = start_scorer(policy, head_seed=2)
        move(reward.model, 3)
        return Setup(
            policy=policy,
            reference=LanguageModel(twin(policy.model).requires_grad_(False), policy.codec),
            reward=Scorer(*reward, hardware),
            prompts=PROMPTS,
            sampling=Sampling(6, temperature=1.0),
            probe=probe or (lambda policy, iteration: {}),
            gold=None,
            report_card={"accuracy": {"estimate": 80.0, "low": 70.0, "high": 90.0}},
            hardware=hardware,
            seed_for=lambda purpose: int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:6], "big"),
            log=lambda row: logged.append(dict(row)),
            advance=lambda *_, **__: None,
            pairs=list,
        )

    logged: list[dict[str, Any]] = []
    make.logged = logged  # type: ignore[attr-defined]
    return make


def probing(proxies: list[float]) -> Any:
    """A probe that finds these held-out scores, one after the other."""
    found = iter(proxies)
    return lambda policy, iteration: {"proxy": next(found), "kl": 0.0, "length": 5.0}


def logprobs(lm: LanguageModel, batch: Any) -> torch.Tensor:
    with torch.inference_mode():
        return sequence_logprobs(response_logits(lm.model, batch), batch.response, 1.0).clone()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["separate", "head"])
def test_four_roles_hold_the_base_once(architecture, kind, make_setup):
    setup, given = make_setup(architecture), config()
    given.value.kind = kind
    state = PPOTraining(given)._start(setup)
    roles = [setup.policy.model, setup.reference.model, setup.reward.model, state.value]
    base = {p.data_ptr() for p in bare(setup.policy.model).parameters()}
    trunk = {p.data_ptr() for p in bare(setup.policy.model).base_model.parameters()}
    sizes = {p.data_ptr(): p.numel() for role in roles for p in role.parameters()}
    for role in roles:
        assert trunk <= {p.data_ptr() for p in role.parameters()}
    adapters = [trainable(role) for role in (setup.policy.model, setup.reward.model)]
    own = 3 if kind == "separate" else 2  # value, policy and reference; a value head is on the policy itself
    adapter = sum(p.numel() for p in adapters[0].values())
    head = setup.reward.model.score.weight.numel()
    assert sum(n for pointer, n in sizes.items() if pointer not in base) == (own + 1) * adapter + (own - 1) * head
    trained = {id(p) for each in (state.updates, state.value_updates) if each for p in each.parameters}
    assert trained.isdisjoint(id(p) for p in bare(setup.policy.model).parameters())
    assert len(trained) == len(adapters[0]) + (len(adapters[1]) if kind == "separate" else 2)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_reference_and_the_base_stay_while_the_policy_moves(architecture, make_setup, ragged, codec):
    setup = make_setup(architecture)
    batch = make_batch(*ragged, codec.pad_id)
    weights = {n: p.clone() for n, p in bare(setup.policy.model).named_parameters()}
    policy, reference, scores = (logprobs(lm, batch) for lm in (setup.policy, setup.reference, setup.policy))
    scores = setup.reward.scores(*ragged)
    assert torch.equal(policy, reference)
    result = PPOTraining(config()).train(setup)
    assert result.status == "ok"
    first = make_setup.logged[0]
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert make_setup.logged[-1]["kl"] != pytest.approx(0.0, abs=1e-4)
    assert torch.equal(logprobs(setup.reference, batch), reference)
    assert (setup.reward.scores(*ragged) == scores).all()
    assert not torch.equal(logprobs(setup.policy, batch), policy)
    after = dict(bare(setup.policy.model).named_parameters())
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    for role in (setup.policy, setup.reference, setup.reward):
        assert not any(module.training for module in role.model.modules())  # so that no dropout is on


def test_a_collapsed_run_goes_back_to_its_best_adapter(make_setup, ragged, codec):
    limits = LimitsConfig(max_kl=-1e9, min_entropy=None, min_length=None, max_length_share=None)
    setup = make_setup("gpt2", probe=probing([1.0, 0.0, -1.0, -2.0]))
    batch = make_batch(*ragged, codec.pad_id)
    before = logprobs(setup.policy, batch)
    result = PPOTraining(config(checks=ChecksConfig(probes=3, limits=limits))).train(setup)
    assert result.status == "collapsed"
    assert torch.equal(logprobs(setup.policy, batch), before)


def test_the_checkpoint_holds_the_adapter_alone(make_setup):
    setup = make_setup("gpt2", probe=probing([1.0]))
    algorithm = PPOTraining(config())
    _, kept = algorithm._best((-1.0, {}), setup, algorithm._start(setup), algorithm._monitor(setup))
    assert kept.keys() == trainable(setup.policy.model).keys()
    assert all("lora_" in name for name in kept)
