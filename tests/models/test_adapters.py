"""Adapters on a frozen base, held against the base itself, against naive sums, and against peft's own merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.config import LoraConfig
from harness.errors import UserError
from harness.models.adapters import (
    Base,
    adapted_count,
    add_adapter,
    bare,
    classifier,
    dropping,
    is_adapted,
    merged,
    scorer_on,
    target_names,
    trainable,
    twin,
)
from harness.models.forward import make_batch, response_logits, sequence_scores
from harness.models.heads import score_head

pytest.importorskip("peft")
ARCHITECTURES = ("gpt2", "llama")
LINEAR = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}


def adapt(lm: Any, seed: int = 0, **lora: Any) -> Any:
    """Put an adapter on, in place."""
    add_adapter(lm.model, LoraConfig(**{"rank": 3, "alpha": 6, **lora}), Base("/base"), seed=seed)
    return lm


def trained(lm: Any, seed: int = 1) -> Any:
    """As if it had been trained: every trainable number is another one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(lm.model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lm


def adapted_layers(model: Any) -> set[str]:
    return {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trainable(model)}


def logits(model: Any, ragged: Any, codec: Any) -> torch.Tensor:
    with torch.inference_mode():
        return response_logits(model, make_batch(*ragged, codec.pad_id)).clone()


def storages(model: Any) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_adapter_changes_nothing_and_trains_alone(architecture, make_lm, ragged, codec):
    lm = make_lm(architecture)
    before, weights = logits(lm.model, ragged, codec), {n: p.clone() for n, p in lm.model.named_parameters()}
    count = sum(p.numel() for p in lm.model.parameters())
    adapt(lm)
    assert torch.equal(logits(lm.model, ragged, codec), before)
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trainable(lm.model)} == set(
        LINEAR[architecture]
    )
    total, adapter = adapted_count(lm.model)
    assert total - adapter == count
    assert adapter == sum(3 * sum(weights[name].shape) for name in weights if linear(name, architecture))
    optimizer = torch.optim.AdamW(trainable(lm.model).values(), lr=0.1)
    for _ in range(2):  # the second matrix moves first, since it is zero; then the first one does
        response_logits(lm.model, make_batch(*ragged, codec.pad_id)).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = {name.replace(".base_layer", ""): p for name, p in lm.model.named_parameters() if "lora_" not in name}
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert all(p.grad is None for p in after.values())
    assert float((logits(lm.model, ragged, codec) - before).abs().max()) > 1e-3


def linear(name: str, architecture: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in LINEAR[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_matrices_follow_the_seed(architecture, make_lm):
    state = torch.random.get_rng_state()
    first, same, other = (trainable(adapt(make_lm(architecture), seed=seed).model) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_twin_shares_the_base_and_has_an_adapter_of_its_own(architecture, make_lm, ragged, codec):
    lm = trained(adapt(make_lm(architecture)))
    copy = twin(lm.model)
    mine, theirs = trainable(lm.model), trainable(copy)
    assert mine.keys() == theirs.keys()
    assert {p.data_ptr() for p in mine.values()}.isdisjoint(p.data_ptr() for p in theirs.values())
    assert storages(lm.model) & storages(copy) == storages(lm.model) - {p.data_ptr() for p in mine.values()}
    before = logits(copy, ragged, codec)
    assert torch.equal(before, logits(lm.model, ragged, codec))
    trained(lm, seed=2)
    assert torch.equal(logits(copy, ragged, codec), before)
    assert not torch.equal(logits(lm.model, ragged, codec), before)


def test_a_twin_of_a_whole_model_is_a_full_copy(make_lm):
    model = make_lm().model
    assert storages(model).isdisjoint(storages(twin(model)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_base_comes_back_without_its_adapter(architecture, make_lm, ragged, codec):
    lm = make_lm(architecture)
    before = logits(lm.model, ragged, codec)
    base = bare(trained(adapt(lm)).model)
    assert not is_adapted(base)
    assert torch.equal(logits(base, ragged, codec), before)
    assert storages(base) <= storages(lm.model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_model_holds_the_sum_and_leaves_the_base(architecture, make_lm, ragged, codec):
    plain = {name: p.clone() for name, p in make_lm(architecture).model.named_parameters()}
    lm = trained(adapt(make_lm(architecture)))
    lora = {name: p for name, p in lm.model.named_parameters() if "lora_" in name}
    whole = merged(lm.model)
    assert [name for name, _ in whole.named_parameters()] == list(plain)
    for name, weight in whole.named_parameters():
        expected = plain[name]
        if linear(name, architecture):
            a, b = (lora[name.replace(".weight", f".lora_{x}.default.weight")] for x in "AB")
            delta = 6.0 / 3 * b @ a
            expected = expected + (delta.T if architecture == "gpt2" else delta)
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(whole, ragged, codec), logits(lm.model, ragged, codec), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(bare(lm.model), ragged, codec), logits(make_lm(architecture).model, ragged, codec))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_scorer_reads_the_adapted_policys_last_hidden_state(architecture, make_lm, ragged, codec):
    lm = trained(adapt(make_lm(architecture)))
    scorer = scorer_on(lm, head_seed=3)
    assert scorer.config.num_labels == 1
    assert not any(parameter.is_meta for parameter in scorer.parameters())
    for row, (prompt, response) in enumerate(zip(*ragged, strict=True)):
        with torch.inference_mode():
            hidden = lm.model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
            expected = hidden[-1][0, -1] @ score_head(scorer).weight[0]
            found = sequence_scores(scorer, make_batch(*ragged, codec.pad_id))
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
    assert storages(scorer) - {p.data_ptr() for p in trainable(scorer).values()} == storages(bare(lm.model).base_model)
    assert {name for name in trainable(scorer) if "lora_" not in name} == {"score.weight"}
    spread = float(score_head(scorer).weight.detach().std()) * (score_head(scorer).in_features + 1) ** 0.5
    assert 0.5 < spread < 1.5


def test_a_classifier_shares_all_but_its_head(make_lm):
    lm = adapt(make_lm("llama"))
    model = classifier(lm)
    assert storages(model) - storages(lm.model) == {model.score.weight.data_ptr()}
    assert trainable(model) == {}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_named_by_their_last_part(architecture, make_lm):
    model = make_lm(architecture).model
    assert target_names(model, None) == LINEAR[architecture]
    wanted = LINEAR[architecture][:1]
    adapted = adapt(make_lm(architecture), target_modules=wanted).model
    assert adapted_layers(adapted) == set(wanted)


def test_a_layer_that_is_none_is_refused(make_lm):
    with pytest.raises(UserError) as refused:
        adapt(make_lm(), target_modules=["c_attn", "lm_head"])
    assert str(refused.value) == (
        "model.lora.target_modules=lm_head is no linear layer of this model; choose among c_attn, c_fc, c_proj"
    )


def test_dropout_is_on_in_its_context_alone_and_follows_its_seed(make_lm, ragged, codec):
    lm = trained(adapt(make_lm(), dropout=0.5))
    off, state = logits(lm.model, ragged, codec), torch.random.get_rng_state()

    def within(seed: int) -> torch.Tensor:
        with dropping(lm.model, seed):
            return logits(lm.model, ragged, codec)

    assert torch.equal(within(1), within(1))
    assert not torch.equal(within(1), within(2))
    assert not torch.equal(within(1), off)
    assert torch.equal(logits(lm.model, ragged, codec), off)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in lm.model.modules())


def test_without_dropout_there_is_none(make_lm, ragged, codec):
    lm = trained(adapt(make_lm()))
    off = logits(lm.model, ragged, codec)
    with dropping(lm.model, 1):
        assert torch.equal(logits(lm.model, ragged, codec), off)
