"""What an engine needs of the model and of the machine is found out before any work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from smoke_run import smoke_run

from harness.errors import UserError
from harness.hardware import Hardware
from harness.models import static_decoding
from harness.records import read_records
from harness.rollouts.engines import require_architecture, require_engine


def asked(rollout: str, evaluation: str = "native") -> Any:
    return SimpleNamespace(
        rollout=SimpleNamespace(engine=rollout),
        evaluation=SimpleNamespace(engine=evaluation),
        model=SimpleNamespace(kind="nano", quantization=None),
        task=SimpleNamespace(max_prompt_tokens=40, max_response_tokens=24),
    )


def configuration(kind: str, **options: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **options)


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (("t5", {}), "no encoder–decoder model is compiled"),
        (("mistral", {"sliding_window": 63}), "does not keep the keys and values of all tokens"),
        (("mamba", {}), "does not keep the keys and values of all tokens"),
    ],
)
def test_a_model_that_cannot_be_compiled_is_refused(found: Any, rule: str) -> None:
    model = configuration(found[0], **found[1])
    with pytest.raises(UserError, match=rf"^evaluation.engine=compiled cannot answer for model.name.*{rule}") as error:
        require_architecture(model, asked("native", "compiled"), "model.name")
    assert error.value.remedy == "leave it out: evaluation.engine=native"
    require_architecture(model, asked("native"), "model.name")


@pytest.mark.parametrize("found", [("gpt2", {}), ("llama", {}), ("mistral", {"sliding_window": 64})])
def test_a_model_that_keeps_all_keys_is_compiled(found: Any) -> None:
    require_architecture(configuration(found[0], **found[1]), asked("compiled"), "model.name")


def test_a_compiler_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpu = Hardware("cpu", "fp32", 1)
    with pytest.raises(UserError, match=r"^rollout.engine=compiled needs a compiler, and no-such-compiler is not"):
        require_engine(asked("compiled"), cpu)
    require_engine(asked("native"), cpu)
    monkeypatch.setenv("CXX", "true -O2")
    require_engine(asked("compiled"), cpu)


def test_a_quantised_base_is_not_compiled() -> None:
    config = asked("compiled")
    config.model.quantization = "nf4"
    with pytest.raises(
        UserError, match=r"^model.quantization=nf4 cannot be handed to the engine that rollout.engine=comp"
    ):
        require_engine(config, Hardware("cuda", "bf16", 1))


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^rollout.engine=compiled needs the package triton, which is not installed"):
        require_engine(asked("compiled"), Hardware("cuda", "bf16", 1))


@pytest.mark.extended
def test_the_whole_loop_runs_in_static_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled elsewhere runs as it is written here; PPO's gates compare its logprobs with the policy's."""
    steps = []

    def step(*given: Any) -> Any:
        steps.append(given[1].shape)
        return static_decoding.step(*given)

    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: step)
    engines = ["rollout.engine=compiled", "evaluation.engine=compiled"]
    assert smoke_run("task=qa", f"output_dir={tmp_path}", *engines, "evaluation.fixed_rows=[sft,best-of-n]") == 0
    (record,) = (found for found in read_records(tmp_path / "records") if not found["fixed"])
    assert (record["status"], record["flags"]) == ("ok", ["gate skipped: accuracy"])
    assert len(set(steps)) > 2, "batches of several sizes were asked"
