"""The model that needs no download: a small GPT-2 or Llama, how large it is, and a tokenizer from the SFT split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from harness.config import ModelConfig
from harness.errors import UserError

EOS, PAD = "<|endoftext|>", "<|pad|>"
POSITION_SCALE = 0.2
"""Standard deviation of a GPT-2's position embeddings at the start, in units of ``initializer_range``.

As large as the tokens', they drown what a token is, and attention by content starts late (measured on qa after 600
updates of 32: validation loss 1.04 at 1, 0.86 at 0.2, no better at 0.05). OpenAI's GPT-2 began with a half.
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Byte-level BPE over ``texts``: lossless, no unknown token, pad and EOS of its own.

    Source: Sennrich et al. 2016 (arXiv 1508.07909) over bytes, as in GPT-2; trained by the ``tokenizers`` library.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class Linear(NamedTuple):
    """A linear layer.

    Args:
        name: the last part of its name, which layers of the model share.
        inputs, outputs: numbers of a token that it reads and writes.
    """

    name: str
    inputs: int
    outputs: int


def linear_layers(config: ModelConfig) -> list[Linear]:
    """All linear layers of the model that ``new_model`` makes but the output layer, which is the embedding.

    >>> [layer.name for layer in linear_layers(ModelConfig(kind="nano", layers=1))]
    ['c_attn', 'c_proj', 'c_fc', 'c_proj']
    """
    width, inner = config.width, inner_width(config)
    if config.architecture == "gpt2":
        attention = [Linear("c_attn", width, 3 * width), Linear("c_proj", width, width)]
        block = [Linear("c_fc", width, inner), Linear("c_proj", inner, width)]
    else:
        attention = [Linear(name, width, width) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
        block = [Linear(name, width, inner) for name in ("gate_proj", "up_proj")] + [Linear("down_proj", inner, width)]
    return (attention + block) * config.layers


def inner_width(config: ModelConfig) -> int:
    """Of the feed-forward blocks; a Llama's have three matrices for GPT-2's two, with as many numbers in all."""
    _require_possible(config)
    return config.width * 4 if config.architecture == "gpt2" else config.width * 8 // 3


def new_parameters(config: ModelConfig, *, vocab_size: int) -> int:
    """How many parameters the model has that ``new_model`` makes, tied ones once.

    >>> new_parameters(ModelConfig(kind="nano"), vocab_size=2048)
    691712
    """
    layers, norms = linear_layers(config), 2 * config.layers + 1
    matrices = sum(layer.inputs * layer.outputs for layer in layers)
    if config.architecture == "gpt2":  # biases, and norms that shift besides
        biases = sum(layer.outputs for layer in layers)
        return (vocab_size + config.context + 2 * norms) * config.width + matrices + biases
    return (vocab_size + norms) * config.width + matrices


def _require_possible(config: ModelConfig) -> None:
    if config.width % config.heads:
        raise UserError(
            "model.width", config.width, f"is not a multiple of model.heads={config.heads}", "set it to one"
        )
    if config.architecture not in ("gpt2", "llama"):
        raise UserError("model.architecture", config.architecture, "is not known", "choose gpt2 or llama")


def new_model(config: ModelConfig, *, vocab_size: int, eos_id: int, pad_id: int, seed: int) -> Any:
    """A randomly initialised causal model of the configured size; dropout is 0.

    Args:
        config: ``model.*``: architecture, layers, width, heads, context.
        vocab_size: rows of the embedding: the tokenizer's tokens, which may be fewer than ``config.vocab_size``.
        eos_id: the token that ends a response; also the configuration's BOS.
        pad_id: the token that fills up a batch.
        seed: of the weights; the global random stream is left as it was.

    Raises:
        UserError: ``model.architecture`` is not known, or ``model.width`` is no multiple of ``model.heads``.
    """
    _require_possible(config)
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    shared = {
        "vocab_size": vocab_size,
        "eos_token_id": eos_id,
        "bos_token_id": eos_id,
        "pad_token_id": pad_id,
        # 0.02 is meant for wide models: at width 128 attention hardly starts to copy (measured: 11 % of copied words
        # right after 400 steps, against 88 % after 250 with 1/sqrt(width)).
        "initializer_range": config.width**-0.5,
    }
    if config.architecture == "gpt2":
        hf_config: Any = GPT2Config(
            n_layer=config.layers,
            n_embd=config.width,
            n_head=config.heads,
            n_positions=config.context,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            activation_function="gelu",  # which a CPU computes faster than GPT-2's approximation of it
            **shared,
        )
    else:
        hf_config = LlamaConfig(
            num_hidden_layers=config.layers,
            hidden_size=config.width,
            intermediate_size=inner_width(config),
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            **shared,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(hf_config)
    if config.architecture == "gpt2":
        with torch.no_grad():
            model.transformer.wpe.weight.mul_(POSITION_SCALE)
    return model
