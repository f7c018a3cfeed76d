"""Preferences of a small dialogue file, a reward model of ours, and a classifier of BERT's family, all made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAIRS = [
    {"id": f"p{row}", "context": ["the fox runs ?", "home .", f"why does bird {row % 4} sing ?"], **answers}
    for row, answers in enumerate(
        {
            "chosen": f"the bird sings {'in the old tree ' * (row % 3)}.",
            "rejected": f"a red fox {'runs home ' * (row % 2)}{row} !",
            "kind": ("easy", "hard")[row % 2],
        }
        for row in range(12)
    )
]
COLUMNS = {"turns": "context", "chosen": "chosen", "rejected": "rejected", "id": "id", "subset": "kind"}


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


@pytest.fixture
def dialogue() -> Any:
    from harness.tasks.dialogue import Dialogue

    return Dialogue(speakers=("A", "B"))


@pytest.fixture
def preferences(pairs_file: Path, dialogue: Any) -> Any:
    from harness.reward_bench.config import PreferenceFileConfig
    from harness.reward_bench.preferences import read_preferences

    return read_preferences(PreferenceFileConfig(pairs_path=str(pairs_file), pairs_columns=COLUMNS), dialogue)


@pytest.fixture
def ours(make_scorer: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a reward model as this project saves it."""
    from harness.models.loading import save

    folder = tmp_path / "ours" / "model"
    save(make_scorer("gpt2", context=256), folder)
    return folder


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """The folder of a classifier that reads text pairs at their first token, with a tokenizer that has no EOS."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = sorted({word for row in PAIRS for text in (*row["context"], row["chosen"], row["rejected"], "A: B:")  # type: ignore[misc]
                    for word in text.replace(":", " :").split()})  # fmt: skip
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        num_labels=1,
        initializer_range=0.5,
    )
    folder = tmp_path / "pooled"
    BertForSequenceClassification(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
