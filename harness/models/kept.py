"""The models that stages keep: saved whole or as an adapter, and loaded again, several of them on one base."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from harness.config import LoraConfig, ModelConfig
from harness.context import model_directory
from harness.errors import UserError
from harness.hardware import Hardware
from harness.models.adapters import (
    NAME,
    PEFT_PREFIX,
    Base,
    add_adapter,
    bare,
    base_of,
    classifier,
    inject,
    is_adapted,
    merged,
    scorer_on,
    task_type,
    trainable,
)
from harness.models.codec import Codec
from harness.models.content import resolve_model
from harness.models.generation import decoding_of
from harness.models.loading import LanguageModel, join_texts, load_codec, load_language_model, load_scorer, save
from harness.models.scorer import Scorer

SETTINGS, WEIGHTS, CLASSIFIER = "adapter_config.json", "adapter_model.safetensors", "classifier.json"
CLASSIFIER_KEYS = (
    *("num_labels", "pad_token_id", "reward_shift", "reward_reads_eos"),
    *("reward_separator", "eos_token_id", "decoder_start_token_id", "decoder_prefix"),
)
"""What a classifier's configuration says beyond its base's; peft has no place for it."""


def keep(language_model: LanguageModel, directory: Path, lora: LoraConfig) -> None:
    """Save a stage's model into ``model/``: whole, or, without ``lora.merge``, as the adapter that it is.

    An adapter that is merged stands in ``adapter/`` besides, for later stages and for whoever has the base.
    """
    if not is_adapted(language_model.model):
        save(language_model, model_directory(directory))
    elif lora.merge:
        save(LanguageModel(merged(language_model.model), language_model.codec), model_directory(directory))
        save_adapter(language_model, directory / "adapter")
    else:
        save_adapter(language_model, model_directory(directory))


def save_adapter(language_model: LanguageModel, folder: Path) -> None:
    """Write peft's format: settings that name the base, weights (a classifier's head among them), and the tokenizer.

    A policy's generation settings stand beside them: those on disk beside the base may decode otherwise.
    """
    from safetensors.torch import save_file

    model, folder = language_model.model, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = copy.deepcopy(model.peft_config[NAME])
    settings.inference_mode = True  # what loads it does not train it, unless it says so
    heads = sorted({name.split(".")[0] for name in trainable(model) if NAME not in name.split(".")})
    if heads:
        settings.modules_to_save, settings.task_type = heads, "SEQ_CLS"
        known = {name: getattr(model.config, name) for name in CLASSIFIER_KEYS if hasattr(model.config, name)}
        (folder / CLASSIFIER).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    else:
        decoding_of(model).save_pretrained(folder)
    settings.save_pretrained(str(folder))
    tensors = {_peft_name(name): tensor.detach().contiguous().cpu() for name, tensor in trainable(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    language_model.codec.tokenizer.save_pretrained(folder)


def adapter_folder(directory: Path) -> Path | None:
    """Where a stage keeps its adapter; None where its model is whole."""
    found = (directory / "adapter", model_directory(directory))
    return next((folder for folder in found if (folder / SETTINGS).is_file()), None)


def load_policy(
    directory: Path, config: ModelConfig, *, device: str, beside: LanguageModel | None = None
) -> LanguageModel:
    """A stage's policy, with its adapter where it has one.

    Args:
        directory: the stage's.
        config: of its base.
        device: where it goes.
        beside: a policy whose base it shares, where that is the same.
    """
    folder = adapter_folder(directory)
    base = Base(str(model_directory(directory).resolve())) if folder is None else _named_base(folder)
    found = _on_base(base, config, device, beside)
    if folder is not None:
        _put_on(found.model, folder, base)
        found.codec.follow(load_codec(folder))
    elif config.lora.rank is not None:
        found.model.requires_grad_(False)  # a base, which others may share
    return found


def load_trainable_policy(directory: Path, config: ModelConfig, *, device: str, seed: int) -> LanguageModel:
    """A stage's policy to be trained further; where adapters are asked for and it has none, with a new one.

    Args:
        directory: the stage's.
        config: of the model; ``lora`` says whether adapters are asked for, and which.
        device: where it goes.
        seed: of a new adapter's weights; not used where there is one, or none is asked for.

    Returns:
        The policy; with adapters they alone are trainable, and the base is frozen.
    """
    policy = load_policy(directory, config, device=device)
    if config.lora.rank is not None and not is_adapted(policy.model):
        add_adapter(policy.model, config.lora, Base(str(model_directory(directory).resolve())), seed=seed)
    return policy


def load_new_scorer(directory: Path, config: ModelConfig, *, device: str, seed: int, head_seed: int) -> LanguageModel:
    """A classifier to be trained that starts as a stage's policy, with a new head.

    Args:
        directory: the policy's stage.
        config: of the model; with adapters the classifier has a copy of the policy's, or a new one, on the same base.
        device: where it goes.
        seed: of a new adapter's weights.
        head_seed: of the head's, which are drawn as ``load_scorer`` says.
    """
    if config.lora.rank is None:
        return load_scorer(model_directory(directory), device=device, head_seed=head_seed)
    return start_scorer(load_trainable_policy(directory, config, device=device, seed=seed), head_seed=head_seed)


def start_scorer(policy: LanguageModel, *, head_seed: int) -> LanguageModel:
    """A classifier to be trained on an adapted policy's base, with its adapter and a new head."""
    scorer = LanguageModel(scorer_on(policy, head_seed=head_seed), _scorer_codec(base_of(policy.model), policy.codec))
    if scorer.codec.apart:
        join_texts(scorer.model, scorer.codec)
    return scorer


def load_kept_scorer(
    directory: Path, config: ModelConfig, hardware: Hardware, *, policy: LanguageModel | None = None
) -> Scorer:
    """A stage's reward model or judge.

    Args:
        directory: the stage's.
        config: of its base.
        hardware: where it works.
        policy: whose tokens it reads, and whose base it shares, where that is the same.
    """
    folder, reads = adapter_folder(directory), None if policy is None else policy.codec
    if folder is None:
        return Scorer.load(model_directory(directory), hardware, reads=reads)
    base = _named_base(folder)
    model = classifier(_on_base(base, config, hardware.device, policy))
    _put_on(model, folder, base)
    for name, value in json.loads((folder / CLASSIFIER).read_text(encoding="utf-8")).items():
        setattr(model.config, name, value)
    return Scorer(model, _scorer_codec(base, load_codec(folder)), hardware, reads)


def load_start_of_value(
    directory: Path, config: ModelConfig, hardware: Hardware, *, policy: LanguageModel, seed: int
) -> Scorer:
    """A reward model that a value network starts from: a whole one gets an adapter for it, where adapters are on.

    Args:
        directory: the reward model's stage.
        config: of the model; ``lora`` says whether adapters are on.
        hardware: where it works.
        policy: whose tokens it reads, and whose base it shares, where that is the same.
        seed: of a new adapter's weights.
    """
    reward = load_kept_scorer(directory, config, hardware, policy=policy)
    if config.lora.rank is not None and not is_adapted(reward.model):
        add_adapter(reward.model, config.lora, Base(str(model_directory(directory).resolve())), seed=seed)
    return reward


def configured_base(config: ModelConfig, nano: Path) -> Base:
    """What ``model.name`` says, hub ids with their commit; ``nano`` for a model that was made here."""
    if config.kind == "nano":
        return Base(str(nano.resolve()))
    path = Path(str(config.name)).expanduser()
    if path.exists():
        return Base(str(path.resolve()))
    return Base(str(config.name), resolve_model(str(config.name), config.revision))


def _on_base(base: Base, config: ModelConfig, device: str, beside: LanguageModel | None) -> LanguageModel:
    """The base's own model: the one that ``beside`` has, or loaded anew."""
    if beside is not None and base == _base_beside(beside):
        return LanguageModel(bare(beside.model), beside.codec)
    quantization = config.quantization
    return load_language_model(base.name, device=device, revision=base.revision, quantization=quantization)


def _base_beside(policy: LanguageModel) -> Base | None:
    """What another model could share: an adapted one's base, or a frozen model itself."""
    if is_adapted(policy.model):
        return base_of(policy.model)
    frozen = not trainable(policy.model)
    return Base(str(Path(policy.model.name_or_path).resolve())) if frozen else None


def _named_base(folder: Path) -> Base:
    """What an adapter names as its base; a folder among the stages is found again where all of them were moved.

    Raises:
        UserError: the base was a folder, and is not there any more.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    base = Base(str(settings["base_model_name_or_path"]), settings.get("revision"))
    path = Path(base.name)
    if not path.is_absolute() or path.is_dir():
        return base
    moved = folder.resolve().parents[1].joinpath(*path.parts[-2:])
    if moved.is_dir():
        return Base(str(moved))
    rule = f"is the base of the adapter in {folder} and is not there"
    raise UserError("model.name", base.name, rule, "put it back, or remove that stage's folder")


def _put_on(model: Any, folder: Path, base: Base) -> None:
    """Put a saved adapter on its base, in place; all of it is trainable."""
    import torch
    from peft import LoraConfig as Settings
    from safetensors.torch import load_file

    settings = Settings.from_pretrained(str(folder))
    settings.modules_to_save, settings.task_type, settings.inference_mode = None, task_type(model), False
    settings.base_model_name_or_path = base.name
    inject(model, settings)
    saved, wanted = load_file(folder / WEIGHTS), trainable(model)
    if {_peft_name(name) for name in wanted} != saved.keys():
        raise UserError("model.name", str(folder), "holds an adapter of another model", "remove that stage's folder")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[_peft_name(name)])


def _peft_name(name: str) -> str:
    return PEFT_PREFIX + name.replace(f".{NAME}.", ".")


def _scorer_codec(base: Base, words: Codec) -> Codec:
    """The base's codec, for a scorer that reads prompts in another one's words."""
    codec = load_codec(base.name, revision=base.revision)
    codec.follow(words)
    codec.tokenizer.padding_side = "right"  # as ``load_scorer`` says
    return codec
