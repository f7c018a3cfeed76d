"""What stages keep of adapted models, loaded again here, by transformers and by peft: the same text and scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import LoraConfig, ModelConfig
from harness.errors import UserError
from harness.models.adapters import Base, add_adapter, bare, base_of, is_adapted, trainable
from harness.models.forward import make_batch, response_logits
from harness.models.kept import (
    adapter_folder,
    configured_base,
    keep,
    load_kept_scorer,
    load_new_scorer,
    load_policy,
    load_start_of_value,
    load_trainable_policy,
    start_scorer,
)
from harness.models.loading import LanguageModel, save
from harness.models.scorer import Scorer

pytest.importorskip("peft")
ARCHITECTURES = ("gpt2", "llama")


def config(merge: bool = True, rank: int | None = 3) -> ModelConfig:
    return ModelConfig(kind="nano", lora=LoraConfig(rank=rank, merge=merge))


def move(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def adapted(make_lm: Any, folder: Path, architecture: str = "gpt2", merge: bool = True) -> LanguageModel:
    """A trained policy that a stage kept in ``sft``, on a base beside it."""
    lm: LanguageModel = make_lm(architecture)
    save(lm, folder / "sft" / "base")
    made = config(merge)
    add_adapter(lm.model, made.lora, configured_base(made, folder / "sft" / "base"), seed=0)
    move(lm.model, 1)
    keep(lm, folder / "sft", made.lora)
    return lm


def scorer(policy: LanguageModel, folder: Path, hardware: Any, merge: bool = True) -> Scorer:
    """A trained reward model on the policy's base that a stage kept in ``rm``, its shift not 0."""
    made = start_scorer(policy, head_seed=5)
    move(made.model, 2)
    made.model.config.reward_shift = 0.375
    keep(made, folder / "rm", LoraConfig(rank=3, merge=merge))
    return Scorer(*made, hardware)


def logits(model: Any, ragged: Any, pad_id: int) -> torch.Tensor:
    with torch.inference_mode():
        return response_logits(model, make_batch(*ragged, pad_id)).clone()


def greedy(model: Any, prompt: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(), do_sample=False, max_new_tokens=12
    )
    return out[0, len(prompt) :].tolist()


def plain_scores(model: Any, ragged: Any, pad_id: int) -> np.ndarray:
    """As any tool would ask: padded on the right, all in one batch, no positions."""
    rows = [prompt + response for prompt, response in zip(*ragged, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        return np.asarray(model(input_ids=ids, attention_mask=mask).logits[:, 0].double().numpy())


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_policy_comes_back_as_it_was(architecture, merge, make_lm, ragged, codec, tmp_path):
    lm = adapted(make_lm, tmp_path, architecture, merge)
    loaded = load_policy(tmp_path / "sft", config(merge), device="cpu")
    assert torch.equal(logits(loaded.model, ragged, codec.pad_id), logits(lm.model, ragged, codec.pad_id))
    assert trainable(loaded.model).keys() == trainable(lm.model).keys()
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_tools_read_a_policy(architecture, make_lm, ragged, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    lm = adapted(make_lm, tmp_path, architecture)
    shutil.copytree(tmp_path / "sft" / "adapter", tmp_path / "elsewhere")
    others = [
        AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "model"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere"),
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "elsewhere"),
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "elsewhere").merge_and_unload(),
    ]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "base")
    expected = [greedy(lm.model, prompt) for prompt in ragged[0]]
    for other in others:
        assert [greedy(other, prompt) for prompt in ragged[0]] == expected
    assert [greedy(base, prompt) for prompt in ragged[0]] != expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_tools_read_a_reward_model(architecture, make_lm, ragged, codec, hardware, tmp_path):
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    ours = scorer(adapted(make_lm, tmp_path, architecture), tmp_path, hardware)
    expected = ours.scores(*ragged)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm" / "model")
    assert whole.config.reward_shift == 0.375
    np.testing.assert_allclose(plain_scores(whole, ragged, codec.pad_id) - 0.375, expected, atol=1e-4)
    apart = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "rm" / "adapter", num_labels=1)
    apart.config.pad_token_id = codec.pad_id
    np.testing.assert_allclose(plain_scores(apart, ragged, codec.pad_id) - 0.375, expected, atol=1e-4)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reward_model_comes_back_on_the_policys_base(architecture, merge, make_lm, ragged, hardware, tmp_path):
    expected = scorer(adapted(make_lm, tmp_path, architecture, merge), tmp_path, hardware, merge).scores(*ragged)
    policy = load_policy(tmp_path / "sft", config(merge), device="cpu")
    shared = load_kept_scorer(tmp_path / "rm", config(merge), hardware, policy=policy)
    alone = load_kept_scorer(tmp_path / "rm", config(merge), hardware)
    for found in (shared, alone):
        np.testing.assert_allclose(found.scores(*ragged), expected, atol=1e-6)
        assert found.codec.tokenizer.padding_side == "right"
    own = {p.data_ptr() for p in trainable(shared.model).values()}
    everything = {p.data_ptr() for p in policy.model.parameters()}
    assert {p.data_ptr() for p in shared.model.parameters()} - own <= everything
    assert {p.data_ptr() for p in alone.model.parameters()}.isdisjoint(everything)


def test_policies_of_two_stages_share_their_base(make_lm, ragged, codec, tmp_path):
    lm = adapted(make_lm, tmp_path)
    sft = logits(lm.model, ragged, codec.pad_id)
    move(lm.model, 3)
    keep(lm, tmp_path / "ppo", config().lora)
    after = load_policy(tmp_path / "ppo", config(), device="cpu")
    before = load_policy(tmp_path / "sft", config(), device="cpu", beside=after)
    assert torch.equal(logits(before.model, ragged, codec.pad_id), sft)
    assert torch.equal(logits(after.model, ragged, codec.pad_id), logits(lm.model, ragged, codec.pad_id))
    shared = {p.data_ptr() for p in before.model.parameters()} & {p.data_ptr() for p in after.model.parameters()}
    assert shared == {p.data_ptr() for p in bare(after.model).parameters()}


def test_a_whole_policy_is_the_base_of_what_comes_after_it(make_lm, ragged, codec, hardware, tmp_path):
    lm = make_lm()
    save(lm, tmp_path / "sft" / "model")
    expected = logits(lm.model, ragged, codec.pad_id)
    policy = load_trainable_policy(tmp_path / "sft", config(), device="cpu", seed=0)
    assert is_adapted(policy.model)
    assert base_of(policy.model).name == str(tmp_path / "sft" / "model")
    assert torch.equal(logits(policy.model, ragged, codec.pad_id), expected)
    move(policy.model, 1)
    keep(policy, tmp_path / "ppo", config().lora)
    after = load_policy(tmp_path / "ppo", config(), device="cpu")
    sft = load_policy(tmp_path / "sft", config(), device="cpu", beside=after)
    assert torch.equal(logits(sft.model, ragged, codec.pad_id), expected)
    assert {p.data_ptr() for p in sft.model.parameters()} <= {p.data_ptr() for p in after.model.parameters()}
    made = load_new_scorer(tmp_path / "sft", config(), device="cpu", seed=1, head_seed=2)
    assert is_adapted(made.model)
    keep(made, tmp_path / "rm", config().lora)
    frozen = load_policy(tmp_path / "sft", config(), device="cpu")
    reward = load_kept_scorer(tmp_path / "rm", config(), hardware, policy=frozen)
    base = {p.data_ptr() for p in frozen.model.parameters()}
    assert len({p.data_ptr() for p in reward.model.parameters()} & base) == len(base)


def test_a_whole_reward_model_gets_an_adapter_that_changes_no_score(make_lm, make_scorer, ragged, hardware, tmp_path):
    given = make_scorer(seed=3)
    given.model.config.reward_shift = 0.5
    save(given, tmp_path / "rm" / "model")
    policy = adapted(make_lm, tmp_path)
    reward = load_start_of_value(tmp_path / "rm", config(), hardware, policy=policy, seed=0)
    np.testing.assert_allclose(reward.scores(*ragged), Scorer(*given, hardware).scores(*ragged), atol=1e-6)
    assert all("lora_" in name or name == "score.weight" for name in trainable(reward.model))
    whole = load_start_of_value(tmp_path / "rm", config(rank=None), hardware, policy=policy, seed=0)
    assert not is_adapted(whole.model)


def test_stages_that_were_moved_find_their_base(make_lm, ragged, codec, hardware, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    lm = adapted(make_lm, first)
    scores = scorer(lm, first, hardware).scores(*ragged)
    first.rename(second)
    loaded = load_policy(second / "sft", config(), device="cpu")
    assert torch.equal(logits(loaded.model, ragged, codec.pad_id), logits(lm.model, ragged, codec.pad_id))
    reward = load_kept_scorer(second / "rm", config(), hardware, policy=loaded)
    np.testing.assert_allclose(reward.scores(*ragged), scores, atol=1e-6)
    base = {p.data_ptr() for p in bare(loaded.model).parameters()}
    assert len({p.data_ptr() for p in reward.model.parameters()} & base) == len(base)


def test_a_base_that_is_gone_is_one_message(make_lm, tmp_path):
    adapted(make_lm, tmp_path)
    base = tmp_path / "sft" / "base"
    shutil.rmtree(base)
    with pytest.raises(UserError) as refused:
        load_policy(tmp_path / "sft", config(), device="cpu")
    assert str(refused.value) == (
        f"model.name={base} is the base of the adapter in {tmp_path}/sft/adapter and is not there; "
        "put it back, or remove that stage's folder"
    )


def test_an_adapter_of_another_model_is_refused(make_lm, tmp_path):
    adapted(make_lm, tmp_path)
    save(make_lm(layers=3), tmp_path / "sft" / "base")
    with pytest.raises(UserError, match=r"adapter holds an adapter of another model; remove that stage's folder"):
        load_policy(tmp_path / "sft", config(), device="cpu")


def test_what_is_kept_where(make_lm, tmp_path):
    adapted(make_lm, tmp_path / "merged")
    assert adapter_folder(tmp_path / "merged" / "sft") == tmp_path / "merged" / "sft" / "adapter"
    assert (tmp_path / "merged" / "sft" / "model" / "config.json").is_file()
    adapted(make_lm, tmp_path / "alone", merge=False)
    assert adapter_folder(tmp_path / "alone" / "sft") == tmp_path / "alone" / "sft" / "model"
    assert not (tmp_path / "alone" / "sft" / "model" / "config.json").exists()
    keep(make_lm(), tmp_path / "whole", LoraConfig(rank=3))
    assert adapter_folder(tmp_path / "whole") is None


def test_a_hub_id_is_recorded_with_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.models.kept.resolve_model", lambda name, revision: f"commit of {name}@{revision}")
    made = ModelConfig(kind="hf", name="org/model", revision="v1")
    assert configured_base(made, tmp_path) == Base("org/model", "commit of org/model@v1")
    folder = ModelConfig(kind="hf", name=str(tmp_path))
    assert configured_base(folder, tmp_path / "unused") == Base(str(tmp_path.resolve()))


def test_a_base_whose_tokenizer_had_to_grow(make_model, ragged, codec, hardware, monkeypatch, tmp_path):
    """Without a pad token of its own it gets one, and the embedding a row: here, merged, and through peft."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from harness.models.codec import Codec
    from harness.models.loading import load_language_model
    from harness.models.nano import train_tokenizer

    monkeypatch.setattr("harness.models.nano.PAD", "<|another|>")
    tokenizer = train_tokenizer(["the red fox runs home ."], len(codec))
    tokenizer.add_tokens([f"<|{number}|>" for number in range(len(codec) - len(tokenizer))])
    save(LanguageModel(make_model(), Codec(tokenizer)), tmp_path / "hub")
    settings = tmp_path / "hub" / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    known.pop("pad_token")
    settings.write_text(json.dumps(known))
    made = ModelConfig(kind="hf", name=str(tmp_path / "hub"), lora=LoraConfig(rank=3))
    policy = load_language_model(tmp_path / "hub")
    assert policy.codec.pad_id == len(codec)
    add_adapter(policy.model, made.lora, configured_base(made, tmp_path), seed=0)
    move(policy.model, 1)
    keep(policy, tmp_path / "sft", made.lora)
    expected = scorer(policy, tmp_path, hardware).scores(*ragged)
    loaded = load_policy(tmp_path / "sft", made, device="cpu")
    pad = loaded.codec.pad_id
    assert torch.equal(logits(loaded.model, ragged, pad), logits(policy.model, ragged, pad))
    np.testing.assert_allclose(load_kept_scorer(tmp_path / "rm", made, hardware).scores(*ragged), expected, atol=1e-6)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm" / "model")
    np.testing.assert_allclose(plain_scores(whole, ragged, pad) - 0.375, expected, atol=1e-4)
    apart = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "rm" / "adapter", num_labels=1)
    apart.config.pad_token_id = AutoTokenizer.from_pretrained(tmp_path / "rm" / "adapter").pad_token_id
    np.testing.assert_allclose(plain_scores(apart, ragged, pad) - 0.375, expected, atol=1e-4)
