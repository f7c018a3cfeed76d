"""The sizes of a language model that its memory depends on, without its weights.

A new model's follow from its configuration by arithmetic; any other is built on torch's meta device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.config import LoraConfig, ModelConfig
from harness.models.adapters import adapted_layers, chosen_names
from harness.models.classifier import classifier_name, is_of_transformers
from harness.models.nano import inner_width, linear_layers, new_parameters


class Adapters(NamedTuple):
    """Sizes of an adapter on a model's trunk, whichever role it plays.

    Args:
        parameters: of both its matrices in every layer that it is on.
        ranks: summed over these layers.
        inputs: of these layers, summed: what dropout acts on.
        inside: the base's parameters in these layers' matrices, which a merged model has anew.
        dropout: whether what it reads is dropped in training.
    """

    parameters: int
    ranks: int
    inputs: int
    inside: int
    dropout: bool


class Shape(NamedTuple):
    """Sizes of a causal or encoder–decoder language model.

    Args:
        parameters: all of them, tied ones once.
        head: those among them in an output layer that is not tied to the embedding; a classifier has none.
        matrices: those among them in the matrices of the layers, which Muon trains.
        vocab_size: rows of the output layer.
        width: of the hidden states.
        inner: width of the feed-forward blocks.
        queries: attention heads times their width.
        keys: key–value heads times their width.
        heads: attention heads.
        layers: of the decoder, or of a model without encoder.
        encoder_layers: 0 without encoder.
        gated: whether a feed-forward block multiplies two projections.
        rms: whether norms are root mean squares, computed in fp32 step by step.
        copied: whether keys and values are copied out of what one matrix made of queries, keys and values.
        rotary: whether positions are rotations of queries and keys.
        biased: whether positions are a learned bias on attention scores, which must then be kept.
        lean: whether it reads prompts and responses in one pass.
        dense_head: whether a classifier has a layer more before its score, as T5's and BART's have.
        adapters: what is trained on it, while all that is counted above is frozen; None: it is trained itself.
        quantization: ``8bit`` or ``4bit`` where the matrices of its layers are loaded so.
    """

    parameters: int
    head: int
    matrices: int
    vocab_size: int
    width: int
    inner: int
    queries: int
    keys: int
    heads: int
    layers: int
    encoder_layers: int
    gated: bool
    rms: bool
    copied: bool
    rotary: bool
    biased: bool
    lean: bool = False
    dense_head: bool = False
    adapters: Adapters | None = None
    quantization: str | None = None

    @property
    def features(self) -> int:
        """Numbers in the hidden states of one token, one state from each layer."""
        return self.width * (self.layers + self.encoder_layers)

    @property
    def drops(self) -> bool:
        """Whether training draws dropout."""
        return self.adapters is not None and self.adapters.dropout > 0

    @property
    def scorer_head(self) -> int:
        """Parameters of a sequence classifier with one label behind the trunk."""
        return self.width * self.width + 2 * self.width + 1 if self.dense_head else self.width

    @property
    def scorer_parameters(self) -> int:
        """Parameters of a sequence classifier with one label on the same trunk."""
        return self.parameters - self.head + self.scorer_head

    @property
    def trained(self) -> int:
        """Parameters of the language model that training changes."""
        return self.parameters if self.adapters is None else self.adapters.parameters

    @property
    def scorer_trained(self) -> int:
        """Parameters of the classifier that training changes: the head is among them, whatever else is."""
        return self.scorer_parameters if self.adapters is None else self.adapters.parameters + self.scorer_head

    def whole(self) -> Shape:
        """The same model as it is without adapter, in full precision."""
        return self._replace(adapters=None, quantization=None)


def shape_of(model: ModelConfig, *, key: str = "model.name") -> Shape | None:
    """The shape of a model, with what its ``lora`` puts on it; None for a model behind an endpoint.

    Nano's vocabulary counts as full.

    Raises:
        UserError: naming ``key``: its configuration cannot be read.
    """
    if model.kind == "api":
        return None
    group = "judge.model" if key == "judge.model.name" else "model"
    lora = model.lora
    if model.kind == "nano":
        shape = new_shape(model)
        adapters = None if lora.rank is None else new_adapters(model, key=group)
    else:
        targets = None if lora.target_modules is None else tuple(lora.target_modules)
        shape, adapters = _shape(str(model.name), model.revision, (lora.rank, targets), key, group)
    if adapters is None:
        return shape
    return shape._replace(adapters=adapters._replace(dropout=lora.dropout > 0), quantization=model.quantization)


@functools.cache
def _shape(
    name: str, revision: str | None, adapted: tuple[int | None, tuple[str, ...] | None], key: str, group: str
) -> tuple[Shape, Adapters | None]:
    rank, targets = adapted
    lora = LoraConfig(rank=rank, target_modules=None if targets is None else list(targets))
    model = empty_model(name, revision=revision, key=key)
    return measured(model), None if rank is None else measured_adapters(model, lora, key=group)


def empty_model(name: str, *, revision: str | None = None, key: str = "model.name") -> Any:
    """A language model that was trained before, without memory for its weights, on torch's meta device.

    Raises:
        UserError: naming ``key``: its configuration cannot be read.
    """
    import torch

    from harness.models.kernels import use_fast_kernels
    from harness.models.loading import language_model_class, load_config

    with torch.device("meta"):
        config = load_config(name, key=key, revision=revision)
        made = language_model_class(config.is_encoder_decoder).from_config(config)
        return use_fast_kernels(made.eval())  # as a model is loaded: nothing is dropped


def new_shape(model: ModelConfig) -> Shape:
    """What ``measured`` finds of nano with a full vocabulary, by arithmetic: torch's import would take seconds."""
    layers, gpt2 = linear_layers(model), model.architecture == "gpt2"
    return Shape(
        parameters=new_parameters(model, vocab_size=model.vocab_size),
        head=0,
        matrices=sum(layer.inputs * layer.outputs for layer in layers),
        vocab_size=model.vocab_size,
        width=model.width,
        inner=inner_width(model),
        queries=model.width,
        keys=model.width,
        heads=model.heads,
        layers=model.layers,
        encoder_layers=0,
        gated=not gpt2,
        rms=not gpt2,
        copied=gpt2,
        rotary=not gpt2,
        biased=False,
        lean=True,
    )


def new_adapters(model: ModelConfig, *, key: str = "model") -> Adapters:
    """What ``measured_adapters`` finds of nano and its ``lora``, likewise.

    Raises:
        UserError: naming ``lora.target_modules``, in the group ``key``: a name that no linear layer has.
    """
    layers = linear_layers(model)
    names = chosen_names((layer.name for layer in layers), model.lora.target_modules, key=key)
    return _adapters([(layer.inputs, layer.outputs) for layer in layers if layer.name in names], model.lora)


def measured(model: Any) -> Shape:
    """The shape of a language model of transformers, whatever device it is on."""
    from harness.models.lean_pass import lean_family
    from harness.training.schedule import is_hidden_matrix

    config, output = model.config, model.get_output_embeddings().weight
    named, parts = list(model.named_parameters()), {type(part).__name__ for part in model.modules()}
    names = {name for name, _ in model.named_modules()}
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    head_width = int(_first(config, "head_dim", "d_kv") or width // heads)
    layers, encoder_layers = _depths(config)
    return Shape(
        parameters=sum(parameter.numel() for _, parameter in named),
        head=0 if output is model.get_input_embeddings().weight else output.numel(),
        matrices=sum(parameter.numel() for name, parameter in named if is_hidden_matrix(name, parameter)),
        vocab_size=output.shape[0],
        width=width,
        inner=int(_first(config, "intermediate_size", "d_ff", "decoder_ffn_dim", "n_inner") or 4 * width),
        queries=heads * head_width,
        keys=int(_first(config, "num_key_value_heads") or heads) * head_width,
        heads=heads,
        layers=layers,
        encoder_layers=encoder_layers,
        gated=any(name.endswith(("gate_proj", "gate_up_proj", "wi_1")) for name in names),
        rms=any("RMSNorm" in part or part == "T5LayerNorm" for part in parts),
        copied=any(name.endswith("c_attn") for name in names),
        rotary=any("Rotary" in part for part in parts),
        biased=any("relative_attention_bias" in name for name, _ in named),
        lean=lean_family(model) is not None,
        dense_head=bool(config.is_encoder_decoder) and is_of_transformers(classifier_name(config) or ""),
    )


def features(config: Any) -> int:
    """Numbers in the hidden states that a model of transformers has of one token, one state from each layer."""
    return int(config.hidden_size) * sum(_depths(config))


def _depths(config: Any) -> tuple[int, int]:
    """Layers of the decoder, or of a model without encoder, and of the encoder."""
    layers = int(config.num_hidden_layers)
    if not config.is_encoder_decoder:
        return layers, 0
    decoder = _first(config, "decoder_layers", "num_decoder_layers")
    return int(decoder or layers), int(_first(config, "encoder_layers") or layers)


def measured_adapters(model: Any, lora: LoraConfig, *, key: str = "model") -> Adapters:
    """The sizes of the adapter that ``lora`` would put on a language model, which is left as it is.

    Args:
        model: on whatever device.
        lora: with ``rank`` set.
        key: the model's group, to name in an error.

    Raises:
        UserError: naming ``lora.target_modules``: a name that no linear layer has.
    """
    layers = adapted_layers(model, lora.target_modules, key=key)
    return _adapters([_width_of(layer) for layer in layers], lora)


def _width_of(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer: torch's, or GPT-2's."""
    return (layer.nx, layer.nf) if hasattr(layer, "nx") else (layer.in_features, layer.out_features)


def _adapters(sizes: Sequence[tuple[int, int]], lora: LoraConfig) -> Adapters:
    """The adapter on linear layers with these inputs and outputs."""
    assert lora.rank is not None
    return Adapters(
        parameters=lora.rank * sum(map(sum, sizes)),
        ranks=lora.rank * len(sizes),
        inputs=sum(inputs for inputs, _ in sizes),
        inside=sum(inputs * outputs for inputs, outputs in sizes),
        dropout=lora.dropout > 0,
    )


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
