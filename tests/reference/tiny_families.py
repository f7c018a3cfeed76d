"""Random models of every family at toy size, with a tokenizer of its kind, as folders that transformers alone wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CAUSAL = ("gpt2", "neox", "llama", "qwen2", "qwen3")
SEQ2SEQ = ("t5", "bart", "marian")
CONTEXT = 96
TEXTS = [
    f"the {kind} {animal} number {number} runs to the {place} house and sings about it ."
    for number in range(40)
    for kind, animal, place in (("red", "fox", "old"), ("wet", "bird", "big"))
]


def words(texts: list[str], size: int) -> Any:
    """Byte-level BPE with BART's marks: ``<s> A </s>``, and ``<s> A </s></s> B </s>`` for a pair."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="right", **named)


def pieces(texts: list[str], size: int) -> Any:
    """Unigram pieces with a mark for spaces, as T5 and Marian have them: ``A </s>``, for a pair ``A </s> B </s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    vocabulary = [tuple(piece) for piece in json.loads(made.to_str())["model"]["vocab"]]
    # The trainer orders pieces of one score differently from run to run.
    learnt = sorted(vocabulary[3:], key=lambda piece: (-round(piece[1], 3), piece[0]))
    made.model = models.Unigram([*vocabulary[:3], *learnt], unk_id=2)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="right", **named)


def write_family(
    family: str, folder: Path, *, texts: list[str] = TEXTS, seed: int = 0, peaked: bool = True, **changes: Any
) -> Path:
    """A model of this family in ``folder``; ``changes`` go into its configuration.

    Args:
        peaked: matrices so large that greedy choices have no ties; else those of transformers' initialisation.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from harness.models.nano import train_tokenizer

    seq2seq = family in SEQ2SEQ
    kind = {"t5": pieces, "marian": pieces, "bart": words}.get(family, train_tokenizer)
    tokenizer = kind(texts, 320)
    config = _config(family, tokenizer)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    factory: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model = factory.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters() if peaked else ():
            if parameter.ndim >= 2 and "embed_positions" not in name:
                parameter.normal_(0.0, 0.9 if seq2seq else 0.4)
    if family == "bart":
        model.generation_config.forced_bos_token_id = tokenizer.bos_token_id  # as facebook/bart-large-cnn's
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, tokenizer: Any) -> Any:
    import transformers as t

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shared = {"vocab_size": -(-len(tokenizer) // 8) * 8, **ids}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    causal = {**shared, **small, "max_position_embeddings": CONTEXT}
    grouped = {**causal, "num_key_value_heads": 1}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    wide = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": CONTEXT}
    if family == "gpt2":
        return t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, **shared)
    if family == "neox":
        return t.GPTNeoXConfig(**causal)
    if family == "llama":
        return t.LlamaConfig(**grouped)
    if family == "qwen2":
        return t.Qwen2Config(**grouped)
    if family == "qwen3":
        return t.Qwen3Config(**grouped, head_dim=8)
    if family == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        del shared["bos_token_id"]  # as in the config.json of t5-small and flan-t5
        return t.T5Config(**shared, **sizes, decoder_start_token_id=tokenizer.pad_token_id)
    if family == "bart":
        return t.BartConfig(**shared, **layers, **wide, decoder_start_token_id=2)
    if family == "marian":
        start = {"decoder_start_token_id": tokenizer.pad_token_id, "forced_eos_token_id": tokenizer.eos_token_id}
        return t.MarianConfig(**shared, **layers, **wide, **start, decoder_vocab_size=shared["vocab_size"])
    raise ValueError(f"{family} is no family of these tests")
