"""Adapters and quantised bases: what cannot work is found before any work."""

from __future__ import annotations

from harness.config import APIModelConfig, Config, LoraConfig, ModelConfig
from harness.errors import UserError, require_package
from harness.hardware import Hardware
from harness.needs import loaded_paths

QUANTIZATIONS = ("8bit", "4bit")


def check_adapters(key: str, model: ModelConfig) -> None:
    """The configuration alone, without heavy imports.

    Args:
        key: the model's group, to name in an error.
        model: what it holds.

    Raises:
        UserError: a value that breaks a rule, or one that decides nothing.
    """
    lora = model.lora
    if lora.rank is None:
        _refuse_idle(key, model)
        return
    if isinstance(model, APIModelConfig):
        rule = "decides nothing with model=api, which trains nothing"
        raise UserError(f"{key}.lora.rank", lora.rank, rule, "leave it out")
    if lora.rank < 1:
        remedy = "give a rank such as 16, or leave it out to train all weights"
        raise UserError(f"{key}.lora.rank", lora.rank, "must be above 0", remedy)
    if not lora.alpha > 0:
        raise UserError(f"{key}.lora.alpha", lora.alpha, "must be above 0", "give 32")
    if not 0 <= lora.dropout < 1:
        raise UserError(f"{key}.lora.dropout", lora.dropout, "must be at least 0 and below 1", "give 0 or 0.05")
    if lora.target_modules is not None and not lora.target_modules:
        raise UserError(f"{key}.lora.target_modules", "[]", "names no layer", "leave it out for all linear layers")
    if model.quantization is not None and lora.merge:
        rule = "cannot be: an adapter is not added to quantised weights"
        raise UserError(f"{key}.lora.merge", "true", rule, f"set {key}.lora.merge=false")
    if model.quantization is not None and model.kind == "nano":
        rule = "is for a base that was trained before"
        raise UserError(f"{key}.quantization", model.quantization, rule, f"choose {key}=hf, or leave it out")


def _refuse_idle(key: str, model: ModelConfig) -> None:
    """What decides nothing without adapters."""
    if model.quantization is not None:
        rule, remedy = "leaves weights that cannot be trained", f"train adapters on them: {key}.lora.rank=16"
        raise UserError(f"{key}.quantization", model.quantization, rule, remedy)
    unset = LoraConfig()
    for name in ("alpha", "dropout", "target_modules", "merge"):
        value = getattr(model.lora, name)
        if value != getattr(unset, name):
            rule, remedy = f"decides nothing without {key}.lora.rank", f"set {key}.lora.rank=16, or leave it out"
            raise UserError(f"{key}.lora.{name}", value, rule, remedy)


def require_adaptable(config: Config, hardware: Hardware) -> None:
    """Packages, hardware, and the names of the layers.

    Raises:
        UserError: naming the key that asks for what is not there.
    """
    trained = [("model", config.model)]
    if config.judge.source == "train":
        trained.append(("judge.model", config.judge.model))
    for key, model in trained:
        if model.lora.rank is not None:
            require_package("peft", f"{key}.lora.rank", model.lora.rank, "pip install -e '.[lora]'")
            _require_targets(key, model, loaded_paths(config).get("sft.path") if key == "model" else None)
        if model.quantization is not None:
            if not hardware.device.startswith("cuda"):
                rule = f"needs a GPU, and hardware.device is {hardware.device}"
                raise UserError(f"{key}.quantization", model.quantization, rule, "leave it out on a CPU")
            require_package("bitsandbytes", f"{key}.quantization", model.quantization, "pip install bitsandbytes")


def _require_targets(key: str, model: ModelConfig, given: str | None) -> None:
    """Compare names with those of the model's layers; without names there is nothing to compare."""
    if model.lora.target_modules is None:
        return
    from harness.models.adapters import chosen_names, target_names
    from harness.models.nano import linear_layers
    from harness.models.shape import empty_model

    if model.kind == "nano" and not given:
        chosen_names((layer.name for layer in linear_layers(model)), model.lora.target_modules, key=key)
        return
    named = empty_model(given) if given else empty_model(str(model.name), revision=model.revision)
    target_names(named, model.lora.target_modules, key=key)
