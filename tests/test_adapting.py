"""Adapters in the configuration: what cannot work is one message before any work, and what decides numbers is told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.adapting import check_adapters, require_adaptable
from harness.config import APIModelConfig, LoraConfig, ModelConfig
from harness.errors import UserError
from harness.hardware import Hardware
from harness.models.content import model_identity

ON = "model.lora.rank=4"
MISTAKES = {
    # what was typed: the whole message
    "model.lora.rank=0": (
        "model.lora.rank=0 must be above 0; give a rank such as 16, or leave it out to train all weights"
    ),
    f"{ON} model.lora.alpha=0": "model.lora.alpha=0 must be above 0; give 32",
    f"{ON} model.lora.dropout=1": "model.lora.dropout=1.0 must be at least 0 and below 1; give 0 or 0.05",
    f"{ON} model.lora.target_modules=[]": (
        "model.lora.target_modules=[] names no layer; leave it out for all linear layers"
    ),
    f"{ON} model.lora.target_modules=[c_attn,q_proj]": (
        "model.lora.target_modules=q_proj is no linear layer of this model; choose among c_attn, c_fc, c_proj"
    ),
    f"{ON} model.architecture=llama model.lora.target_modules=[lm_head]": (
        "model.lora.target_modules=lm_head is no linear layer of this model;"
        " choose among down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    ),
    "judge.model.lora.rank=4 judge.model.lora.target_modules=[wte]": (
        "judge.model.lora.target_modules=wte is no linear layer of this model; choose among c_attn, c_fc, c_proj"
    ),
    "model.lora.alpha=8": (
        "model.lora.alpha=8 decides nothing without model.lora.rank; set model.lora.rank=16, or leave it out"
    ),
    "judge.model.lora.merge=false": (
        "judge.model.lora.merge=False decides nothing without judge.model.lora.rank;"
        " set judge.model.lora.rank=16, or leave it out"
    ),
    "model.quantization=4bit": (
        "model.quantization=4bit leaves weights that cannot be trained; train adapters on them: model.lora.rank=16"
    ),
    "model.quantization=3bit": "model.quantization=3bit is not a choice; choose 8bit, 4bit",
    f"{ON} model.quantization=8bit": (
        "model.lora.merge=true cannot be: an adapter is not added to quantised weights; set model.lora.merge=false"
    ),
    f"{ON} model.quantization=8bit model.lora.merge=false": (
        "model.quantization=8bit is for a base that was trained before; choose model=hf, or leave it out"
    ),
    f"{ON} model=api model.name=NAME model.base_url=http://127.0.0.1:1/v1": (
        "model.lora.rank=4 decides nothing with model=api, which trains nothing; leave it out"
    ),
}


@pytest.fixture
def harness(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python -m harness`` in this process and in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    return in_process(cli.main)  # type: ignore[no-any-return]


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_message(
    typed: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert harness(*typed.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.rstrip("\n") == MISTAKES[typed]
    assert captured.out == ""
    assert not (tmp_path / "runs" / "stages").exists()


def test_quantised_weights_on_a_cpu_are_refused(
    harness: Callable[..., int], capsys: pytest.CaptureFixture[str], make_lm: Any, tmp_path: Path
) -> None:
    from harness.models.loading import save

    save(make_lm(context=512), tmp_path / "base")
    given = ("model=hf", "model.name=base", ON, "model.lora.merge=false", "model.quantization=4bit")
    assert harness(*given, "hardware.device=cpu") == 2
    assert capsys.readouterr().err == (
        "model.quantization=4bit needs a GPU, and hardware.device is cpu; leave it out on a CPU\n"
    )


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("peft", r"^model\.lora\.rank=4 needs the package peft, which is not installed; pip install -e '\.\[lora\]'$"),
        ("bitsandbytes", r"^model\.quantization=8bit needs the package bitsandbytes, .*; pip install bitsandbytes$"),
    ],
)
def test_a_package_that_is_missing_is_named(package: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    there = object()

    def without(name: str, *rest: Any) -> Any:
        if name in ("peft", "bitsandbytes"):
            return None if name == package else there
        return found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    config: Any = type("Config", (), {"judge": type("Judge", (), {"source": "none"})})
    config.model = ModelConfig(kind="hf", lora=LoraConfig(rank=4, merge=False), quantization="8bit")
    monkeypatch.setattr("harness.adapting.loaded_paths", lambda config: {})
    with pytest.raises(UserError, match=message):
        require_adaptable(config, Hardware("cuda", "bf16", 1))


def test_a_model_without_adapters_is_left_alone() -> None:
    check_adapters("model", ModelConfig(kind="nano"))
    check_adapters("model", APIModelConfig(kind="api"))


def test_all_that_adapters_decide_is_in_the_fingerprint() -> None:
    plain = model_identity(ModelConfig(kind="nano"))
    assert not {"lora", "quantization"} & plain.keys()  # so that what was trained before LoRA keeps its fingerprint
    variants = [
        *(LoraConfig(rank=4), LoraConfig(rank=8), LoraConfig(rank=4, alpha=8), LoraConfig(rank=4, dropout=0.1)),
        *(LoraConfig(rank=4, target_modules=["c_attn"]), LoraConfig(rank=4, merge=False)),
    ]
    told = [model_identity(ModelConfig(kind="nano", lora=lora)) for lora in variants]
    told.append(model_identity(ModelConfig(kind="nano", lora=variants[0], quantization="4bit")))
    for index, one in enumerate(told):
        assert one not in told[:index]
        assert {name: value for name, value in one.items() if name in plain} == plain
