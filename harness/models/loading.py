"""Models and tokenizers from disk (or the hub) and back: Hugging Face format, safetensors only, no remote code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import ModelConfig
from harness.errors import UserError
from harness.models.classifier import ensure_classifier
from harness.models.codec import APART, Codec
from harness.models.content import resolve_model
from harness.models.generation import generate_plainly, prepare_decoder, require_start
from harness.models.heads import HEADS, new_head


class LanguageModel(NamedTuple):
    """A causal or an encoder–decoder language model with its codec."""

    model: Any
    codec: Codec


def load_language_model(
    path: str | Path,
    *,
    device: str = "cpu",
    key: str = "model.name",
    revision: str | None = None,
    quantization: str | None = None,
) -> LanguageModel:
    """Load a language model, causal or encoder–decoder, and its tokenizer: fp32 or 8bit or 4bit, without dropout.

    A tokenizer without a pad token of its own gets one, and the embedding a row for it. The model's own rules of
    decoding are dropped: what it says follows from its probabilities alone.

    Args:
        path: the folder, or the hub id.
        device: where the model goes.
        key: the configuration key to name in an error.
        revision: branch, tag or commit on the hub; None: the main branch.
        quantization: ``8bit`` or ``4bit`` for the layers' matrices; None: all of it in fp32.

    Raises:
        UserError: naming ``key``: nothing there, no safetensors, weights that the configuration does not describe, no
            EOS, a tokenizer larger than the embedding, or a decoder that nobody says how to start.
    """
    codec = load_codec(path, key=key, revision=revision)
    # So that other tools, which read it from disk, generate after the prompt; an encoder counts from its first token.
    codec.tokenizer.padding_side = "right" if codec.apart else "left"
    model = _load_model(
        language_model_class(codec.apart), path, key, revision=revision, **quantized(quantization, device)
    )
    _fit_vocabulary(model, codec, str(path), key)
    model.config.pad_token_id = codec.pad_id
    if codec.apart:
        prepare_decoder(model, codec, str(path), key)
    else:
        generate_plainly(model, codec)
    return LanguageModel(_ready(model, device), codec)


def load_scorer(
    path: str | Path,
    *,
    device: str = "cpu",
    key: str = "reward_model.path",
    head_seed: int | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Load a sequence classifier with one label (a reward model, a value function), or make one from a language model.

    Args:
        path: the folder.
        device: where the model goes.
        key: the configuration key to name in an error.
        head_seed: where given, the scalar head is new: normal with standard deviation 1/sqrt(h + 1), no bias
            (Stiennon et al. 2020; arXiv 2403.17031, detail 11). Where None, the folder must hold a head.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: as ``load_language_model``; or the classifier has more than one label.
    """
    from transformers import AutoModelForSequenceClassification

    codec = load_codec(path, key=key, revision=revision)
    if codec.apart:
        ensure_classifier(load_config(path, key=key, revision=revision))
    # Other tools read it from disk and pass no positions: padded on the left, a GPT-2 would score other positions.
    codec.tokenizer.padding_side = "right"
    if head_seed is None:
        require_head(Path(path), key)
    new = () if head_seed is None else HEADS
    model = _load_model(AutoModelForSequenceClassification, path, key, new=new, num_labels=1, revision=revision)
    if head_seed is None and not codec.apart and model.config.pad_token_id == codec.eos_id:
        # Trained with pad = EOS: transformers reads such a classifier before the EOS, which it takes for padding.
        model.config.reward_reads_eos = False
    model.config.pad_token_id = codec.pad_id
    _fit_vocabulary(model, codec, str(path), key)
    if head_seed is not None:
        new_head(model, head_seed)
    if codec.apart:
        require_start(getattr(model.config, "decoder_start_token_id", None), str(path), key)
        join_texts(model, codec)
    return LanguageModel(_ready(model, device), codec)


def reads_at_the_last_token(path: str | Path, *, key: str, revision: str | None = None) -> bool:
    """True for a sequence classifier that is read as this project reads its own, at the last token; False for others.

    Those read a text pair by their own forward pass: BERT's family, and BART's and T5's of another trainer.

    Raises:
        UserError: naming ``key``: there is no such configuration, or it is no sequence classifier with one label.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _from_pretrained(AutoConfig, path, key, revision=revision)
    architecture = (getattr(config, "architectures", None) or ["no architecture"])[0]
    remedy = "give a reward model: a sequence classifier with one label"
    if "SequenceClassification" not in architecture:
        raise UserError(key, str(path), f"holds {architecture}, no sequence classifier", remedy)
    if config.num_labels != 1:
        raise UserError(key, str(path), f"is a classifier of {config.num_labels} labels", remedy)
    ensure_classifier(config)
    if config.is_encoder_decoder and getattr(config, "reward_shift", None) is not None:
        return True
    with torch.device("meta"), _quiet():
        return hasattr(AutoModelForSequenceClassification.from_config(config), "score")


def load_pooled_classifier(
    path: str | Path, *, device: str = "cpu", key: str, revision: str | None = None
) -> tuple[Any, Any]:
    """A sequence classifier with one label that reads a pooled token, and its tokenizer, which needs no EOS.

    Args:
        path: the folder, or the hub id.
        device: where the model goes.
        key: the configuration key to name in an error.
        revision: branch, tag or commit on the hub; None: the main branch.

    Returns:
        The model, in fp32 and without dropout, and the tokenizer, both transformers' own.

    Raises:
        UserError: naming ``key``: as ``load_scorer``.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, path, key, revision=revision)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(key, str(path), "holds no tokenizer", "put the tokenizer's files beside the model")
    model = _load_model(AutoModelForSequenceClassification, path, key, num_labels=1, revision=revision)
    return _ready(model, device), tokenizer


def load_codec(path: str | Path, *, key: str = "model.name", revision: str | None = None) -> Codec:
    """Load a tokenizer.

    Raises:
        UserError: naming ``key``: there is none, or it has no EOS token.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, path, key, revision=revision)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up where the files are missing
        raise UserError(key, str(path), "holds no tokenizer", "put the tokenizer's files beside the model")
    if getattr(tokenizer, "separate_vocabs", False):
        rule, remedy = (
            "has one vocabulary for prompts and another one for responses",
            "use a model that has one for both",
        )
        raise UserError(key, str(path), rule, remedy)
    folder = Path(path).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():  # an adapter's
        return Codec(tokenizer, str(path), apart=bool(tokenizer.init_kwargs.get(APART)))
    return Codec(tokenizer, str(path), apart=bool(load_config(path, key=key, revision=revision).is_encoder_decoder))


def load_config(path: str | Path, *, key: str = "model.name", revision: str | None = None) -> Any:
    """The model's configuration.

    Raises:
        UserError: naming ``key``: there is none that transformers knows.
    """
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, path, key, revision=revision)


def language_model_class(encoder_decoder: bool) -> Any:
    """The factory of transformers: encoder–decoder models have one of their own."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM


def load_base(config: ModelConfig, *, device: str = "cpu") -> LanguageModel:
    """The base model that ``model=hf`` names.

    Args:
        config: ``model.*``; with ``chat`` the codec words prompts by the tokenizer's chat template.
        device: where the model goes.

    Raises:
        UserError: naming ``model.name``: it is missing, or as ``load_language_model``; naming ``model.chat``
            or ``model.system``: the tokenizer has no template, or one that takes no system message.
    """
    if not config.name:
        raise UserError("model.name", None, "is missing", "give a folder or a hub id: model=hf model.name=...")
    quantization = config.quantization
    base = load_language_model(config.name, device=device, revision=config.revision, quantization=quantization)
    if config.chat:
        base.codec.converse(config.system)
    return base


def save(language_model: LanguageModel, directory: Path) -> None:
    """Write model and tokenizer in Hugging Face format."""
    with _quiet():
        language_model.model.save_pretrained(directory)
        language_model.codec.tokenizer.save_pretrained(directory)


def join_texts(model: Any, codec: Codec) -> None:
    """Write into an encoder–decoder classifier's configuration how it reads a prompt and a response as one text."""
    model.config.eos_token_id = codec.eos_id  # where transformers' class reads its score
    if getattr(model.config, "reward_separator", None) is None:
        model.config.reward_separator = codec.between()


def parameter_count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def quantized(kind: str | None, device: str) -> dict[str, Any]:
    """How transformers is told to hold the layers' matrices in 8 or 4 bits (NF4, twice quantised); None: not at all.

    Source: Dettmers et al. 2022 (arXiv 2208.07339) and 2023 (arXiv 2305.14314), by bitsandbytes.
    """
    if kind is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    how = (
        BitsAndBytesConfig(load_in_8bit=True)
        if kind == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    )
    return {"quantization_config": how, "device_map": {"": device}}


def _load_model(factory: Any, path: str | Path, key: str, *, new: tuple[str, ...] = (), **options: Any) -> Any:
    """A model in fp32 from safetensors, of which only the layers called ``new`` may be missing on disk.

    Raises:
        UserError: naming ``key``: transformers would fill what is missing with random numbers.
    """
    settings: dict[str, Any] = {"use_safetensors": True, "dtype": "float32", "output_loading_info": True, **options}
    model, report = _from_pretrained(factory, path, key, **settings)
    missing = sorted(name for name in report["missing_keys"] if name.split(".")[0] not in new)
    if missing:
        shown = f"{missing[0]} and {len(missing) - 1} more" if len(missing) > 1 else missing[0]
        raise UserError(key, str(path), f"lacks weights that its config.json names ({shown})", "give all of the model")
    return model


def _from_pretrained(factory: Any, path: str | Path, key: str, **options: Any) -> Any:
    """``factory.from_pretrained`` with our words for what a user can get wrong."""
    from safetensors import SafetensorError

    if not Path(path).expanduser().exists():
        # Asked first, and once: where the hub does not answer, transformers would try for most of a minute.
        options["revision"] = resolve_model(str(path), options.get("revision"), key=key)
    try:
        with _quiet():
            return factory.from_pretrained(str(path), trust_remote_code=False, **options)
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError, *_ODD) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "mismatched_sizes" in first:
            first = "its weights have other shapes than its config.json says"
        remedy = "give a folder in Hugging Face format with safetensors weights, or a hub id that can be reached"
        if isinstance(error, ImportError):
            first, remedy = _missing_package(str(error)), "pip install it"
        raise UserError(key, str(path), f"could not be loaded ({first})", remedy) from error


_ODD = (AttributeError, TypeError)
"""What transformers raises of a config.json that holds something else than an object."""


def _missing_package(message: str) -> str:
    """Which package transformers says is not installed."""
    import re

    found = re.search(r"requires the (\S+) library", message) or re.search(r"No module named '(\S+)'", message)
    return f"it needs the package {found[1]}" if found else message.strip().splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings and progress bars, which would break into ours."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def require_head(path: Path, key: str) -> None:
    """A folder's configuration says that it holds a classifier with one label that reads its score off a last token.

    Raises:
        UserError: naming ``key``: it does not.
    """
    import json

    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if (path / "config.json").is_file() else {}
    architectures = config.get("architectures") or [""]
    rule = ""
    if path.is_dir() and "SequenceClassification" not in architectures[0]:
        rule = f"holds {architectures[0] or 'no architecture'}, no sequence classifier"
    elif len(config.get("id2label") or [0]) != 1:
        rule = f"is a classifier of {len(config['id2label'])} labels"
    if rule:
        raise UserError(key, str(path), rule, "give a reward model: a sequence classifier with one label")
    if path.is_dir() and not _reads_last_token(path, key):
        rule = f"is a {architectures[0]}, which does not read its score off the last token"
        raise UserError(key, str(path), rule, "give a GPT-2, Llama, Qwen, NeoX, T5, BART or other such classifier")


def _reads_last_token(path: Path, key: str) -> bool:
    """Whether the class for this configuration has a head on a last token: a causal or an encoder–decoder model's."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = load_config(path, key=key)
    ensure_classifier(config)
    try:
        with torch.device("meta"), _quiet():
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        return False
    return any(hasattr(model, name) for name in (HEADS if config.is_encoder_decoder else HEADS[:1]))


def _fit_vocabulary(model: Any, codec: Codec, name: str, key: str) -> None:
    """Grow the embedding by the pad token where the codec had to add one; refuse any other mismatch.

    The new row is the mean of the others: transformers would draw it from the global random stream, and through the
    output layer it reaches every probability.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    require_vocabulary(rows, codec, name, key)
    if len(codec) <= rows:
        return
    import torch

    with _quiet():
        model.resize_token_embeddings(len(codec), mean_resizing=False)
    with torch.no_grad():
        for layer in {id(layer): layer for layer in _vocabulary_layers(model)}.values():
            layer.weight[rows:] = layer.weight[:rows].mean(0)
            if getattr(layer, "bias", None) is not None:
                layer.bias[rows:] = layer.bias[:rows].mean()
        if (bias := getattr(model, "final_logits_bias", None)) is not None:  # BART's and Marian's, apart from the layer
            bias[:, rows:] = bias[:, :rows].mean()


def require_vocabulary(rows: int, codec: Codec, name: str, key: str) -> None:
    """An embedding has a row for every token, but for a pad token that the codec had to add.

    Args:
        rows: of the embedding.
        codec: the tokenizer.
        name: what the model was loaded from, for messages.
        key: the configuration key to name in an error.

    Raises:
        UserError: naming ``key``: it has not.
    """
    if len(codec) - rows > 1:
        rule, remedy = (
            f"has {len(codec)} tokens but an embedding of {rows} rows",
            "use the tokenizer that belongs to it",
        )
        raise UserError(key, name, rule, remedy)


def _vocabulary_layers(model: Any) -> list[Any]:
    return [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]


DROPOUTS = (
    *("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout"),
    *("dropout", "dropout_rate", "activation_dropout", "classifier_dropout"),
    *("layerdrop", "encoder_layerdrop", "decoder_layerdrop"),
)
"""What configurations and layers call a share of what is left out in training."""


def _ready(model: Any, device: str) -> Any:
    """In evaluation mode for good: dropout is off in training too, else the first PPO ratio is not 1."""
    from torch import nn

    from harness.models.kernels import use_fast_kernels

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in DROPOUTS:  # encoder–decoder layers keep the rate themselves
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for name in DROPOUTS:
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    placed = model if getattr(model, "hf_quantizer", None) is not None else model.to(device)
    return use_fast_kernels(placed.eval())
