"""What an encoder–decoder model, or a chat, cannot do is said before any work: one message, exit status 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.errors import UserError
from harness.models.encoder_decoder import decoder_prefix
from harness.models.loading import load_language_model, load_scorer, save

LIMITS = ("task.max_prompt_tokens=50", "task.max_response_tokens=20")
CASES = {
    "a prompt too long for the encoder": (
        "marian",
        ("task.max_prompt_tokens=100",),
        "knows 96 positions, too few for task.max_prompt_tokens = 100; lower it to 96",
    ),
    "a response too long for the decoder": (
        "marian",
        ("task.max_response_tokens=96",),
        "knows 96 positions, too few for task.max_response_tokens = 96; lower it to 95",
    ),
    "a reward model that reads both as one text": (
        "bart",
        ("task.max_prompt_tokens=80",),
        "knows 96 positions, fewer than task.max_prompt_tokens + task.max_response_tokens = 101; lower these to 96",
    ),
    "a loss on the prompt": (
        "t5",
        ("sft.train_on_prompt=true",),
        "sft.train_on_prompt=True asks for what model.name cannot do: an encoder–decoder model predicts no token",
    ),
    "demonstrations end to end": (
        "t5",
        ("sft.packing=true",),
        "sft.packing=True asks for what model.name cannot do: an encoder–decoder model has no row to lay",
    ),
    "a chat without a template": (
        "gpt2",
        ("model.chat=true",),
        "model.chat=True needs a tokenizer with a chat template",
    ),
    "a system message without a chat": ("gpt2", ("model.system=hi",), "model.system=hi stands in no prompt without"),
    "a chat with a new model": ("", ("model.chat=true",), "model.chat=True does not fit model=nano; leave it out"),
}


@pytest.fixture
def harness(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python -m harness`` at smoke size in a folder of its own, which stays without a model; returns its status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*typed: str) -> int:
        given = ("experiment=smoke", "task=translate", "judge=none", "tracker.mode=quiet", *LIMITS, *typed)
        status: int = in_process(cli.main)(*given)
        assert not list(tmp_path.glob("runs/stages/*/model"))
        return status

    return run


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_message(
    name: str,
    family_folder: Callable[..., Path],
    harness: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    family, typed, message = CASES[name]
    chosen = ("model=hf", f"model.name={family_folder(family)}") if family else ()
    assert harness(*chosen, *typed) == 2
    captured = capsys.readouterr()
    assert len([line for line in captured.err.splitlines() if message in line and "; " in line]) == 1, captured.err


def test_packing_is_refused_where_examples_would_see_each_other(
    family_folder: Callable[..., Path], harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """OPT counts positions from an attention mask alone, which its configuration does not say."""
    from transformers import OPTConfig, OPTForCausalLM

    shutil.copytree(family_folder("gpt2"), "opt")
    rows = json.loads(Path("opt/config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    model = OPTForCausalLM(OPTConfig(vocab_size=rows, num_attention_heads=2, init_std=0.5, **sizes, **ids))
    model.save_pretrained("opt")
    assert harness("model=hf", "model.name=./opt", "sft.packing=true") == 2
    message = "sft.packing=True is not for OPTForCausalLM: logprobs move by "
    assert message in capsys.readouterr().err


def test_a_chat_against_a_reward_model_of_another_tokenizer_is_refused(
    family_folder: Callable[..., Path], harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It would read what is left of the policy's template without its marks: ``system Be nice. user …``."""
    policy, texts = load_language_model(family_folder("gpt2")), [f"quite other words , number {n}" for n in range(90)]
    policy.codec.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save(policy, Path("policy"))
    save(load_scorer(family_folder("llama", texts=texts), head_seed=1), Path("reward"))
    loaded = ("model=hf", "model.name=./policy", "reward_model=load", "reward_model.path=./reward")
    capsys.readouterr()
    assert harness(*loaded, "algorithm.value.kind=head", "model.chat=true") == 2
    assert not Path("runs/stages").exists()
    assert capsys.readouterr().err == (
        "reward_model.path=./reward has another tokenizer than the policy, whose prompts are conversations with marks "
        "of its own; give one with the policy's tokenizer, or leave out model.chat\n"
    )


def spoiled(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy without generation settings whose configuration says something else."""
    shutil.copytree(source, folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_start_token_id": None}, "does not say how its decoder starts; set decoder_start_token_id"),
        ({"decoder_start_token_id": 4000}, "has decoder_start_token_id 4000 but an embedding of"),
        ({"forced_bos_token_id": 4000}, "has forced_bos_token_id 4000 but an embedding of"),
    ],
)
def test_a_decoder_that_cannot_start_is_refused(
    family_folder: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_language_model(spoiled(family_folder("t5"), tmp_path / "t5", **changes))


def test_a_start_may_stand_in_the_generation_settings_alone(family_folder: Callable[..., Path], tmp_path: Path) -> None:
    """T5's configuration class has neither a BOS nor a start of its own."""
    folder = shutil.copytree(family_folder("t5"), tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    assert "bos_token_id" not in config
    start = config.pop("decoder_start_token_id")
    (folder / "config.json").write_text(json.dumps(config))
    assert decoder_prefix(load_language_model(folder).model.config) == [start]
    (folder / "generation_config.json").unlink()
    for load in (load_language_model, lambda path: load_scorer(path, head_seed=1)):
        with pytest.raises(UserError, match="does not say how its decoder starts; set decoder_start_token_id"):
            load(folder)


def test_what_generation_settings_ask_for_besides_the_model_is_dropped_or_put_into_it(
    family_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As in published BART and Marian checkpoints, whose settings stand in config.json."""
    changes = {"num_beams": 4, "no_repeat_ngram_size": 3, "forced_eos_token_id": 1, "bad_words_ids": [[0]]}
    lm = load_language_model(spoiled(family_folder("marian"), tmp_path / "marian", **changes))
    settings = lm.model.generation_config.to_diff_dict()
    assert not settings.keys() & changes.keys()
    assert float(lm.model.final_logits_bias[0, 0]) < -1000
    assert float(lm.model.final_logits_bias[0, 1:].abs().max()) == 0
