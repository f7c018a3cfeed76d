"""Models and tokenizers from disk (or the hub) and back: Hugging Face format, safetensors only, no remote code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import ModelConfig
from harness.errors import UserError
from harness.models.codec import Codec


class LanguageModel(NamedTuple):
    """A causal language model with its codec."""

    model: Any
    codec: Codec


def load_language_model(
    path: str | Path, *, device: str = "cpu", key: str = "model.name", revision: str | None = None
) -> LanguageModel:
    """Load a causal language model and its tokenizer, in fp32 and without dropout.

    Raises:
        UserError: naming ``key``: nothing there, no safetensors, no EOS, or a tokenizer larger than the embedding.
    """
    from transformers import AutoModelForCausalLM

    codec = load_codec(path, key=key, revision=revision)
    model = _from_pretrained(AutoModelForCausalLM, path, key, revision=revision)
    _fit_vocabulary(model, codec, str(path), key)
    model.generation_config.pad_token_id = model.config.pad_token_id = codec.pad_id
    return LanguageModel(_ready(model, device), codec)


def load_scorer(
    path: str | Path, *, device: str = "cpu", key: str = "reward_model.path", head_seed: int | None = None
) -> LanguageModel:
    """Load a sequence classifier with one label (a reward model, a value function), or make one from a language model.

    Args:
        path: the folder.
        device: where the model goes.
        key: the configuration key to name in an error.
        head_seed: where given, the scalar head is new: normal with standard deviation 1/sqrt(h + 1), no bias
            (Stiennon et al. 2020; arXiv 2403.17031, detail 11). Where None, the folder must hold a head.

    Raises:
        UserError: as ``load_language_model``; or the classifier has more than one label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    codec = load_codec(path, key=key)
    model = _from_pretrained(AutoModelForSequenceClassification, path, key, num_labels=1)
    model.config.pad_token_id = codec.pad_id
    if head_seed is None:
        _require_head(Path(path), key)
    else:
        _fit_vocabulary(model, codec, str(path), key)
        head = score_head(model)
        generator = torch.Generator().manual_seed(head_seed)
        with torch.no_grad():
            head.weight.normal_(0.0, 1 / math.sqrt(head.in_features + 1), generator=generator)
        model.config.reward_shift = 0.0
    return LanguageModel(_ready(model, device), codec)


def load_codec(path: str | Path, *, key: str = "model.name", revision: str | None = None) -> Codec:
    from transformers import AutoTokenizer

    return Codec(_from_pretrained(AutoTokenizer, path, key, revision=revision), str(path))


def load_base(config: ModelConfig, *, device: str = "cpu") -> LanguageModel:
    """The base model that ``model=hf`` names."""
    if not config.name:
        raise UserError("model.name", None, "is missing", "give a folder or a hub id: model=hf model.name=...")
    return load_language_model(config.name, device=device, revision=config.revision)


def save(language_model: LanguageModel, directory: Path) -> None:
    """Write model and tokenizer in Hugging Face format."""
    language_model.model.save_pretrained(directory)
    language_model.codec.tokenizer.save_pretrained(directory)


def score_head(model: Any) -> Any:
    """The linear layer that turns a hidden state into a score, whatever the architecture calls it."""
    for name in ("score", "classifier"):
        if hasattr(model, name):
            return getattr(model, name)
    raise UserError(
        "model.name", type(model).__name__, "has no score head that we know", "use a GPT-2, Llama, Qwen or NeoX model"
    )


def parameter_count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _from_pretrained(factory: Any, path: str | Path, key: str, **options: Any) -> Any:
    """``factory.from_pretrained`` with our words for what a user can get wrong."""
    from transformers.utils import logging

    settings: dict[str, Any] = {"trust_remote_code": False, **options}
    if "Tokenizer" not in factory.__name__:
        settings |= {"use_safetensors": True, "dtype": "float32"}
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return factory.from_pretrained(str(path), **settings)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "give a folder in Hugging Face format with safetensors weights, or a hub id that can be reached"
        raise UserError(key, str(path), f"could not be loaded ({first})", remedy) from error
    finally:
        logging.set_verbosity(level)


def _require_head(path: Path, key: str) -> None:
    import json

    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if (path / "config.json").is_file() else {}
    architectures = config.get("architectures") or [""]
    if path.is_dir() and "SequenceClassification" not in architectures[0]:
        raise UserError(
            key,
            str(path),
            f"holds {architectures[0] or 'no architecture'}, no sequence classifier",
            "give a reward model",
        )


def _fit_vocabulary(model: Any, codec: Codec, name: str, key: str) -> None:
    """Grow the embedding by the pad token where the codec had to add one; refuse any other mismatch."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(codec) <= rows:
        return
    if len(codec) - rows > 1:
        raise UserError(
            key,
            name,
            f"has {len(codec)} tokens but an embedding of {rows} rows",
            "use the tokenizer that belongs to it",
        )
    model.resize_token_embeddings(len(codec))


def _ready(model: Any, device: str) -> Any:
    """In evaluation mode for good: dropout is off in training too, else the first PPO ratio is not 1."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    return model.to(device).eval()
