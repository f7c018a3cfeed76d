from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.models.loading import LanguageModel, load_base, load_language_model, load_scorer, parameter_count, save
from harness.models.positions import require_positions

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@ARCHITECTURES
def test_saved_and_loaded_is_the_same_model(make_lm, tmp_path, architecture):
    lm = make_lm(architecture)
    save(lm, tmp_path)
    loaded = load_language_model(tmp_path)
    for (name, a), (_, b) in zip(lm.model.state_dict().items(), loaded.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert loaded.codec.tokenizer.get_vocab() == lm.codec.tokenizer.get_vocab()
    assert (loaded.codec.eos_id, loaded.codec.pad_id) == (lm.codec.eos_id, lm.codec.pad_id)
    text = "Grüße aus  Köln !"
    assert loaded.codec.decode(loaded.codec.encode_responses([text])) == [text]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix in (".bin", ".safetensors")) == [
        ".safetensors"
    ]


def test_what_is_saved_opens_with_plain_transformers(make_lm, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = make_lm()
    save(lm, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("the red fox", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == lm.codec.encode_prompts(["the red fox"])[0]
    torch.testing.assert_close(model.eval()(ids).logits, lm.model(ids).logits)


def test_a_scorer_keeps_its_head_and_its_shift_on_disk(make_scorer, tmp_path):
    scorer = make_scorer()
    scorer.model.config.reward_shift = 1.75
    save(scorer, tmp_path / "saved")
    loaded = load_scorer(tmp_path / "saved")
    assert loaded.model.config.reward_shift == 1.75
    assert torch.equal(loaded.model.score.weight, scorer.model.score.weight)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [
        "GPT2ForSequenceClassification"
    ]


@ARCHITECTURES
def test_a_new_head_has_standard_deviation_one_over_root_h_plus_one_and_no_bias(make_scorer, architecture):
    width = 256
    scorer = make_scorer(architecture, width=width, layers=1)
    weight = scorer.model.score.weight
    assert weight.shape == (1, width)
    assert scorer.model.score.bias is None
    # The sample deviation of 256 normal draws is within 4 standard errors of 1/sqrt(257).
    assert float(weight.detach().std()) * math.sqrt(width + 1) == pytest.approx(1.0, abs=4 / math.sqrt(2 * width))
    assert abs(float(weight.detach().mean())) < 4 / width
    assert scorer.model.config.reward_shift == 0.0


def test_the_head_depends_on_its_seed_alone(make_lm, tmp_path):
    save(make_lm(), tmp_path)
    heads = []
    for seed, disturbance in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(disturbance)
        heads.append(load_scorer(tmp_path, head_seed=seed).model.score.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_scorer_starts_from_the_policys_trunk(make_lm, make_scorer):
    lm, scorer = make_lm(seed=4), make_scorer(seed=4)
    for (name, a), (_, b) in zip(
        lm.model.transformer.state_dict().items(), scorer.model.transformer.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_dropout_is_off_even_in_training_mode(make_lm, tmp_path):
    lm = make_lm()
    save(lm, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored |= {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    ids = torch.tensor([[5, 9, 20, 33, 60]])
    for model in (load_language_model(tmp_path).model, load_scorer(tmp_path, head_seed=0).model):
        assert not model.training
        model.train()
        assert torch.equal(model(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
    assert load_language_model(tmp_path).model.config.resid_pdrop == 0.0


def without_pad(lm, folder):
    """The model on disk, its tokenizer without a pad token (as GPT-2's is), one row of the embedding per token."""
    save(lm, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<|pad|>"]
    tokenizer["model"]["vocab"]["zzz"] = tokenizer["model"]["vocab"].pop("<|pad|>")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_a_pad_token_that_has_to_be_added_gets_a_row_that_no_chance_decides(make_lm, tmp_path):
    lm = make_lm()
    rows = len(lm.codec)
    without_pad(lm, tmp_path)
    loaded = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)
        loaded.append(load_language_model(tmp_path))
    weights = [one.model.get_input_embeddings().weight for one in loaded]
    assert loaded[0].codec.pad_id == rows
    assert weights[0].shape[0] == rows + 1
    assert torch.equal(weights[0], weights[1]), "the same model, loaded twice"
    assert torch.equal(weights[0][:rows], lm.model.get_input_embeddings().weight)
    torch.testing.assert_close(weights[0][rows], lm.model.get_input_embeddings().weight.mean(0))


class TestMistakes:
    """Each is a UserError that names the key."""

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"^sft\.path=.*nowhere does not exist"):
            load_language_model(tmp_path / "nowhere", key="sft.path")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"^model\.name=.* could not be loaded"):
            load_language_model(tmp_path)

    def test_a_hub_id_that_cannot_be_reached(self):
        with pytest.raises(
            UserError, match=r"^model\.name=nobody/nothing-of-the-kind (is not in the cache|cannot be read)"
        ):
            load_language_model("nobody/nothing-of-the-kind")

    def test_no_safetensors(self, make_lm, tmp_path):
        lm = make_lm()
        save(lm, tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"could not be loaded .*safetensors"):
            load_language_model(tmp_path)

    def test_broken_weights(self, make_lm, tmp_path):
        save(make_lm(), tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
        with pytest.raises(UserError, match=r"could not be loaded"):
            load_language_model(tmp_path)

    def test_weights_of_another_size_than_the_config_says(self, make_lm, tmp_path):
        save(make_lm(), tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(stored | {"n_embd": 32}))
        with pytest.raises(UserError, match=r"could not be loaded"):
            load_language_model(tmp_path)

    def test_missing_weights_are_not_made_up(self, make_lm, tmp_path):
        save(make_lm(), tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(stored | {"n_layer": 3}))
        with pytest.raises(UserError, match=r"lacks weights that its config.json names \(transformer.h.2.*and 11 more"):
            load_language_model(tmp_path)

    def test_a_broken_config(self, make_lm, tmp_path):
        save(make_lm(), tmp_path)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(UserError, match=r"could not be loaded"):
            load_language_model(tmp_path)

    def test_no_tokenizer(self, make_lm, tmp_path):
        make_lm().model.save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"holds no tokenizer"):
            load_language_model(tmp_path)

    def test_a_tokenizer_that_belongs_to_a_larger_model(self, make_lm, tmp_path):
        lm = make_lm()
        save(lm, tmp_path)
        lm.codec.tokenizer.__class__.from_pretrained(tmp_path)
        tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
        for n in range(5):
            tokenizer["model"]["vocab"][f"extra{n}"] = len(lm.codec) + n
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        with pytest.raises(UserError, match=r"has \d+ tokens but an embedding of \d+ rows"):
            load_language_model(tmp_path)

    def test_a_policy_is_no_reward_model(self, make_lm, tmp_path):
        save(make_lm(), tmp_path)
        with pytest.raises(UserError, match=r"^judge\.path=.* holds GPT2LMHeadModel, no sequence classifier"):
            load_scorer(tmp_path, key="judge.path")

    def test_a_classifier_of_three_labels_is_no_reward_model(self, make_lm, tmp_path):
        from transformers import GPT2Config, GPT2ForSequenceClassification

        lm = make_lm()
        sizes = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=len(lm.codec), num_labels=3, pad_token_id=1)
        GPT2ForSequenceClassification(sizes).save_pretrained(tmp_path)
        lm.codec.tokenizer.save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"^reward_model\.path=.* is a classifier of 3 labels"):
            load_scorer(tmp_path)

    def test_no_name(self):
        from harness.config import ModelConfig

        with pytest.raises(UserError, match=r"^model\.name is missing"):
            load_base(ModelConfig(kind="hf"))


def test_parameters_are_counted_once_where_they_are_tied(make_model):
    model = make_model("llama")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert parameter_count(model) == sum(t.numel() for n, t in model.state_dict().items() if n != "lm_head.weight")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_prompt_and_response_must_fit_the_positions(make_model, architecture):
    from harness.config import TaskConfig

    model = make_model(architecture, context=64)
    require_positions(model, TaskConfig(max_prompt_tokens=48, max_response_tokens=16))
    with pytest.raises(UserError, match=r"^sft\.path knows 64 positions, fewer than .* = 65; lower these to 64"):
        require_positions(model, TaskConfig(max_prompt_tokens=48, max_response_tokens=17), key="sft.path")


def test_longrope_is_read_as_far_as_its_factors_stay(codec: Any) -> None:
    """Phi-3's: one token more in any row of a batch, and all rows have other positions."""
    from transformers import Phi3Config, Phi3ForCausalLM

    from harness.config import TaskConfig
    from harness.models.forward import make_batch, response_logits

    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 64, "original_max_position_embeddings": 16, "initializer_range": 0.5}
    ids = {"pad_token_id": codec.pad_id, "bos_token_id": codec.eos_id, "eos_token_id": codec.eos_id}
    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(vocab_size=len(codec), rope_parameters=rope, **sizes, **ids)).eval()
    with torch.inference_mode():
        alone, at_most, beyond = (
            response_logits(model, make_batch([[5, 9, 20], [7] * n], [[30, 31, 32, 33]] * 2, codec.pad_id))[0]
            for n in (3, 12, 14)
        )
    torch.testing.assert_close(at_most, alone, rtol=1e-4, atol=1e-4)
    assert float((beyond - alone).abs().max()) > 0.1
    require_positions(model, TaskConfig(max_prompt_tokens=12, max_response_tokens=4))
    rule = r"knows 16 positions before its longrope changes factors \(original_max_position_embeddings\), fewer than"
    with pytest.raises(UserError, match=rule + ".* = 17; lower these to 16 together"):
        require_positions(model, TaskConfig(max_prompt_tokens=12, max_response_tokens=5))


def test_rules_of_decoding_that_a_causal_model_came_with_are_dropped(
    make_model: Callable[..., Any], codec: Any, tmp_path: Path
) -> None:
    """Qwen's chat models ask for a repetition penalty: transformers would then answer otherwise than our sampler."""
    from transformers import AutoModelForCausalLM

    from harness.rollouts.sampler import Sampling, sample

    model = make_model("llama")
    model.generation_config.update(repetition_penalty=8.0, do_sample=True, temperature=0.7, top_k=5)
    save(LanguageModel(model, codec), tmp_path / "came")
    lm = load_language_model(tmp_path / "came")
    save(lm, tmp_path / "kept")
    prompts = codec.encode_prompts(["the red fox runs", "a bird sings about the big house"])
    ids = {"eos_id": codec.eos_id, "pad_id": codec.pad_id, "seed": 0}
    ours = sample(lm.model, prompts, Sampling(12, temperature=0.0), **ids).tokens
    said = {}
    for name in ("came", "kept"):
        other = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        given = [torch.tensor([prompt]) for prompt in prompts]
        said[name] = [
            other.generate(p, attention_mask=torch.ones_like(p), max_new_tokens=12, do_sample=False)[0, p.shape[1] :]
            for p in given
        ]
    assert [row.tolist() for row in said["kept"]] == ours
    assert [row.tolist() for row in said["came"]] != ours, "the penalty would have shown"


def test_all_tokens_that_a_model_lists_end_its_responses_here_and_in_other_tools(
    make_model: Callable[..., Any], codec: Any, tmp_path: Path
) -> None:
    """As Qwen's and Llama's chat models do; one that has no embedding, or is part of a text, is no end."""
    from transformers import AutoTokenizer

    from harness.models.codec import Codec

    model, tokenizer = make_model("llama"), copy.deepcopy(codec.tokenizer)
    marks = ["<|end|>", "<|stop|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    model.resize_token_embeddings(len(tokenizer))
    end, stop = tokenizer.convert_tokens_to_ids(marks)
    model.generation_config.update(eos_token_id=[end, codec.eos_id, stop, 7, 10**6])
    save(LanguageModel(model, Codec(tokenizer)), tmp_path / "came")
    lm = load_language_model(tmp_path / "came")
    assert lm.codec.stop_ids == (codec.eos_id, end, stop)
    assert all(map(lm.codec.ended, ([5, end], [codec.eos_id], [5, stop])))
    assert not any(map(lm.codec.ended, ([], [5], [5, 7], [end, 5])))
    assert [lm.codec.closed(ids) for ids in ([5, end], [5])] == [[5, codec.eos_id], [5]]
    save(lm, tmp_path / "kept")
    assert load_language_model(tmp_path / "kept").model.generation_config.eos_token_id == [codec.eos_id, end, stop]
    assert load_scorer(tmp_path / "kept", head_seed=0).codec.stop_ids == lm.codec.stop_ids
    other = Codec(AutoTokenizer.from_pretrained(tmp_path / "came"))
    assert other.stop_ids == (codec.eos_id,), "a tokenizer alone says nothing of it"
    other.follow(lm.codec)
    assert other.stop_ids == lm.codec.stop_ids
    other.stop_at([])
    assert Codec(other.tokenizer).stop_ids == (codec.eos_id,)


def test_a_configuration_of_parts_is_read_for_its_text(codec: Any) -> None:
    """Gemma 3's, say, which holds a text model and a vision model, has no special tokens of its own."""
    from types import SimpleNamespace

    from harness.models.generation import generate_plainly

    text = SimpleNamespace(bos_token_id=7)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text), generation_config=None)
    generate_plainly(model, codec)
    found = model.generation_config
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (7, codec.eos_id, codec.pad_id)
