"""What people give by mistake as a model: one message each that says what to do, exit status 2, before any training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import cli


class Case(NamedTuple):
    """What is done to a folder with a good model, what is typed besides, and the message; DIR is the folder."""

    spoil: Callable[[Path], Any]
    message: str
    typed: tuple[str, ...] = ()
    name: str = "DIR"


def edit(name: str, **changes: Any) -> Callable[[Path], Any]:
    """Change entries of a JSON file; None removes one."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return spoil


def without(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def nested(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    for path in folder.glob("*.*"):
        path.rename(folder / "checkpoint-500" / path.name)


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))


def larger_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for n in range(5):
        vocabulary[f"more{n}"] = max(vocabulary.values()) + 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def nothing(folder: Path) -> None:
    """The model is good; what is typed is not."""


LATE = ("judge=none",)
"""Weights are read by the first stage that uses them: here no other trains before it."""

CASES: dict[str, Case] = {
    # ---- where it is
    "no name": Case(nothing, "model.name is missing; give a folder or a hub id", name=""),
    "a path that is not there": Case(nothing, "model.name=DIR/nowhere does not exist; give", name="DIR/nowhere"),
    "a path outside": Case(nothing, "model.name=../../nowhere does not exist; give", name="../../nowhere"),
    "a name with a path in it": Case(nothing, "model.name=org/../x is no repository on the hub; give", name="org/../x"),
    "a file of the folder": Case(
        nothing, "model.name=DIR/config.json is a file; give the folder that holds it", name="DIR/config.json"
    ),
    "a folder with nothing": Case(without("*"), "model.name=DIR holds no config.json; give a folder in Hugging Face"),
    "the folder above the checkpoints": Case(
        nested, "model.name=DIR holds no config.json; did you mean DIR/checkpoint-500?"
    ),
    # ---- files
    "a pickle checkpoint": Case(pickled, "model.name=DIR holds no safetensors weights; save it with save_pretrained"),
    "no weights": Case(without("*.safetensors"), "model.name=DIR holds no safetensors weights; save"),
    "an adapter without its base": Case(adapter, "model.name=DIR holds an adapter without its base; merge it"),
    "weights cut short": Case(
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40),
        "model.name=DIR could not be loaded (",
        LATE,
    ),
    "weights of another size": Case(
        edit("config.json", n_embd=32), "model.name=DIR could not be loaded (its weights have other shapes", LATE
    ),
    "weights that are missing": Case(
        edit("config.json", n_layer=3), "model.name=DIR lacks weights that its config.json names", LATE
    ),
    # ---- configuration
    "a broken configuration": Case(
        lambda folder: (folder / "config.json").write_text("{"), "model.name=DIR holds a config.json that is no JSON"
    ),
    "an architecture that nobody knows": Case(
        edit("config.json", model_type="nope", architectures=None), "model.name=DIR could not be loaded ("
    ),
    "a classifier": Case(
        edit("config.json", architectures=["GPT2ForSequenceClassification"]),
        "model.name=DIR holds GPT2ForSequenceClassification, no language model; give a policy",
    ),
    "a context that is too short": Case(
        edit("config.json", n_positions=64),
        "knows 64 positions, fewer than task.max_prompt_tokens + task.max_response_tokens = 160; lower these to 64",
    ),
    "a context that is too short for other limits": Case(
        nothing,
        "knows 256 positions, fewer than task.max_prompt_tokens + task.max_response_tokens = 332; lower these to 256",
        ("task.max_prompt_tokens=300", "judge.model.context=512"),
    ),
    # ---- tokenizer
    "no tokenizer": Case(without("tokenizer*", "special*"), "model.name=DIR holds no tokenizer; put"),
    "a tokenizer without EOS": Case(
        edit("tokenizer_config.json", eos_token=None),
        "model.name=DIR has a tokenizer without an EOS token; set eos_token in its tokenizer_config.json",
    ),
    "a broken tokenizer": Case(
        lambda folder: (folder / "tokenizer.json").write_text("{"), "model.name=DIR could not be loaded ("
    ),
    "a tokenizer of a larger model": Case(larger_tokenizer, "an embedding of 300 rows; use the tokenizer", LATE),
    # ---- the judge's
    "a judge's model that is not there": Case(
        nothing,
        "judge.model.name=DIR/nowhere does not exist; give",
        ("judge.model.kind=hf", "judge.model.name=DIR/nowhere"),
    ),
    "a judge's context that is too short": Case(
        nothing,
        "judge.model.context=96 is shorter than task.max_prompt_tokens + task.max_response_tokens = 160; set it",
        ("judge.model.context=96",),
    ),
    # ---- a finished model
    "a reward model without a head": Case(
        nothing,
        "reward_model.path=DIR holds GPT2LMHeadModel, no sequence classifier; give a reward model",
        ("reward_model=load", "reward_model.path=DIR"),
    ),
    "a policy that is a pickle": Case(
        pickled,
        "sft.path=DIR holds no safetensors weights; save",
        ("model=nano", "sft=load", "sft.path=DIR"),
        name="model=nano",
    ),
}


@pytest.fixture
def harness(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return in_process(cli.main)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, codec: Any) -> Path:
    """A model that nothing is wrong with."""
    from harness.config import ModelConfig
    from harness.models.loading import LanguageModel, save
    from harness.models.nano import new_model

    folder = tmp_path_factory.mktemp("good")
    config = ModelConfig(kind="nano", layers=2, width=16, heads=2, context=256)
    save(LanguageModel(new_model(config, vocab_size=300, eos_id=0, pad_id=1, seed=0), codec), folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_bad_model_is_one_message(
    name: str, good: Path, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case, folder = CASES[name], tmp_path / "given"
    shutil.copytree(good, folder)
    case.spoil(folder)
    chosen = () if case.name == "model=nano" else ("model=hf", f"model.name={case.name}" if case.name else "seed=1")
    typed = [part.replace("DIR", str(folder)) for part in (*chosen, *case.typed)]
    status = harness("experiment=smoke", "task=qa", "tracker.mode=quiet", *typed)
    captured = capsys.readouterr()
    assert status == 2, captured
    expected = case.message.replace("DIR", str(folder))
    complaints = [line for line in captured.err.splitlines() if expected in line]
    assert len(complaints) == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    assert re.search(r"; \S", complaints[0]), "a message names what to do"
    assert not [path for path in tmp_path.rglob("*") if path.name == "model"]
