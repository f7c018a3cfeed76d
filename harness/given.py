"""Models that a user names, to start from or in place of a stage: what cannot work is found before any work."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.config import Config, ModelConfig
from harness.errors import UserError
from harness.models.classifier import classifier_name
from harness.models.codec import Codec, same_tokens
from harness.models.loading import load_codec, load_config, require_head, require_vocabulary
from harness.models.positions import require_positions
from harness.needs import loaded_paths, needs_reward_model
from harness.rollouts.engines import require_architecture
from harness.training.finished import require_same_tokens
from harness.training.reward_model import require_value_of_its_own


def require_base(config: Config, key: str, model: ModelConfig) -> None:
    """Read files, tokenizer and configuration of a model that stages start from, but no weights.

    Args:
        config: of the job.
        key: ``model.name`` or ``judge.model.name``.
        model: what it names.

    Raises:
        UserError: naming ``key``: it cannot take part.
    """
    name = str(model.name)
    path = Path(name).expanduser()
    if path.exists():
        require_files(path, key)
    codec = load_codec(name, key=key, revision=model.revision)
    if path.exists():
        require_language_model(path, key)
    if model.chat:
        codec.converse(model.system, key=key.removesuffix(".name"))
    found = load_config(name, key=key, revision=model.revision)
    if (rows := getattr(found, "vocab_size", None)) is not None:
        require_vocabulary(int(rows), codec, name, key)
    if key == "judge.model.name":
        require_scorable(found, codec, config, key)
        require_positions(SimpleNamespace(config=found), config.task, key=key)
    elif config.sft.source == "train":
        require_positions(SimpleNamespace(config=found), config.task, key=key)
        require_policy(found, codec, config, key)
    elif "base" in config.evaluation.fixed_rows:
        require_architecture(found, config, key)


def require_policy(found: Any, codec: Codec, config: Config, key: str) -> None:
    """What a policy's own configuration must allow, besides its positions.

    Args:
        found: the policy's configuration, as transformers reads it.
        codec: its tokenizer.
        config: of the job, which says what the policy is for.
        key: what to name in an error about the policy itself.

    Raises:
        UserError: naming ``key``: no reward model can be made of it; naming ``sft.train_on_prompt``, ``sft.packing``
            or a key that chooses an engine: it cannot do what that asks for.
    """
    if needs_reward_model(config) and config.reward_model.source == "train":
        require_scorable(found, codec, config, key)
    if found.is_encoder_decoder and config.sft.train_on_prompt and config.sft.source == "train":
        rule = f"asks for what {key} cannot do: an encoder–decoder model predicts no token of its prompt"
        raise UserError("sft.train_on_prompt", True, rule, "set it to false")
    if found.is_encoder_decoder and config.sft.packing:
        rule = f"asks for what {key} cannot do: an encoder–decoder model has no row to lay demonstrations into"
        raise UserError("sft.packing", True, rule, "set it to false")
    require_architecture(found, config, key)


def require_scorable(found: Any, codec: Codec, config: Config, key: str) -> None:
    """A model that a classifier is to be made of has a class for it, which the task's limits fit.

    Args:
        found: the model's configuration.
        codec: its tokenizer.
        config: of the job.
        key: what to name in an error.

    Raises:
        UserError: naming ``key``.
    """
    made = copy.copy(found)
    name = classifier_name(made)
    if name is None:
        rule = f"is a {type(found).__name__.removesuffix('Config')}, of which no sequence classifier can be made"
        remedy = "use another model, or bring a finished one" if key.startswith("judge") else "give reward_model=load"
        raise UserError(key, found.name_or_path or None, rule, remedy)
    made.architectures = [name]
    made.reward_separator = codec.between() if found.is_encoder_decoder else []
    require_positions(SimpleNamespace(config=made), config.task, key=key)


def require_given(config: Config) -> None:
    """Read files, tokenizers and configurations of all models that are given, but no weights.

    Raises:
        UserError: naming the key of the one that cannot take its stage's place.
    """
    codecs: dict[str, Codec] = {}
    for key, given in loaded_paths(config).items():
        path = Path(str(given))
        require_files(path, key)
        codecs[key] = load_codec(path, key=key)
        if config.model.chat and key in ("sft.path", "algorithm.path"):
            codecs[key].converse(config.model.system)
        if key in ("reward_model.path", "judge.path"):
            require_head(path, key)
        else:
            require_language_model(path, key)
        found = load_config(path, key=key)
        require_positions(SimpleNamespace(config=found), config.task, key=key)
        if key == "sft.path":
            require_policy(found, codecs[key], config, key)
        elif key == "algorithm.path":
            require_architecture(found, config, key)
    policy = codecs.get("sft.path")
    if policy is None and config.model.kind == "hf":
        policy = load_codec(str(config.model.name), revision=config.model.revision)
        if config.model.chat:
            policy.converse(config.model.system)
    if policy is None:
        return  # its tokenizer is trained here, and compared when it is
    if "algorithm.path" in codecs:
        require_same_tokens(codecs["algorithm.path"], policy, str(loaded_paths(config)["algorithm.path"]))
    if "reward_model.path" in codecs:
        foreign = not same_tokens(codecs["reward_model.path"], policy)
        require_value_of_its_own(config, foreign=foreign)
        if foreign and policy.chat is not None:
            rule = "has another tokenizer than the policy, whose prompts are conversations with marks of its own"
            remedy = "give one with the policy's tokenizer, or leave out model.chat"
            raise UserError("reward_model.path", str(loaded_paths(config)["reward_model.path"]), rule, remedy)


def require_language_model(folder: Path, key: str) -> None:
    """A policy is no classifier: with tied embeddings one would load, and would generate something.

    Raises:
        UserError: naming ``key``: its configuration says that it is.
    """
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    if "Classification" in architectures[0]:
        rule = f"holds {architectures[0]}, no language model"
        raise UserError(key, str(folder), rule, "give a policy; a reward model goes to reward_model.path or judge.path")


def _is_object(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


def require_files(folder: Path, key: str) -> None:
    """A folder in Hugging Face format, whole and in safetensors.

    Raises:
        UserError: naming ``key``: it is something else that trainers write.
    """
    if folder.is_file():
        rule, remedy = "is a file", "give the folder that holds it, with config.json and the tokenizer"
    elif (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        rule, remedy = "holds an adapter without its base", "merge it (peft: merge_and_unload) and save the whole model"
    elif not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        rule = "holds no config.json"
        remedy = f"did you mean {folder / inside[-1]}?" if inside else "give a folder in Hugging Face format"
    elif not _is_object(folder / "config.json"):
        rule, remedy = "holds a config.json that is no JSON object", "give a folder in Hugging Face format"
    elif not any(folder.glob("*.safetensors")):
        rule, remedy = "holds no safetensors weights", "save it with save_pretrained of transformers, which writes them"
    else:
        return
    raise UserError(key, str(folder), rule, remedy)
