"""Finished models that a user gives in place of a stage: what cannot work is found before any work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from harness.config import Config, ModelConfig, TaskConfig
from harness.errors import UserError
from harness.models.codec import Codec, same_tokens
from harness.models.loading import load_codec, load_config, require_head, require_positions
from harness.needs import loaded_paths
from harness.training.finished import require_same_tokens
from harness.training.reward_model import require_value_of_its_own


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
        if key in ("reward_model.path", "judge.path"):
            require_head(path, key)
        else:
            require_language_model(path, key)
        require_positions(SimpleNamespace(config=load_config(path, key=key)), config.task, key=key)
    policy = codecs.get("sft.path")
    if policy is None and config.model.kind == "hf":
        policy = load_codec(str(config.model.name), revision=config.model.revision)
    if policy is None:
        return  # its tokenizer is trained here, and compared when it is
    if "algorithm.path" in codecs:
        require_same_tokens(codecs["algorithm.path"], policy, str(loaded_paths(config)["algorithm.path"]))
    if "reward_model.path" in codecs:
        require_value_of_its_own(config, foreign=not same_tokens(codecs["reward_model.path"], policy))


def require_base(model: ModelConfig, task: TaskConfig, key: str) -> None:
    """Read files, tokenizer and configuration of a base model, but no weights.

    Raises:
        UserError: naming ``key``: it cannot be loaded, is no language model, or knows fewer positions than the task's
            limits ask for.
    """
    path = Path(str(model.name)).expanduser()
    if path.exists():
        require_files(path, key)
    load_codec(str(model.name), key=key, revision=model.revision)
    if path.exists():
        require_language_model(path, key)
    base = SimpleNamespace(config=load_config(str(model.name), key=key, revision=model.revision))
    require_positions(base, task, key=key)


def require_language_model(folder: Path, key: str) -> None:
    """A policy is no classifier: with tied embeddings one would load, and would generate something.

    Raises:
        UserError: naming ``key``: its configuration says that it is.
    """
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    if "Classification" in architectures[0]:
        rule = f"holds {architectures[0]}, no language model"
        raise UserError(key, str(folder), rule, "give a policy; a reward model goes to reward_model.path or judge.path")


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
    elif not any(folder.glob("*.safetensors")):
        rule, remedy = "holds no safetensors weights", "save it with save_pretrained of transformers, which writes them"
    else:
        return
    raise UserError(key, str(folder), rule, remedy)
