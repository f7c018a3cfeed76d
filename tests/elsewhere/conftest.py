"""Checkpoints as another trainer leaves them: made with transformers and its Trainer alone, nothing of ours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EN = "the {1} {2} {0} sees a {3} {4} {0} and runs to the {5} house {0} ."
DE = "der {1} {2} sieht einen {3} {4} und rennt zum {5} Haus ."
ANIMALS = (("fox", "Fuchs"), ("dog", "Hund"), ("bear", "Baer"), ("bird", "Vogel"), ("cow", "Ochse"))
KINDS = (("red", "rote"), ("old", "alte"), ("big", "grosse"), ("wet", "nasse"))


def sentences() -> list[dict[str, str]]:
    """320 sentences with their translations; no eight words in a row stand in two of them."""
    rows = []
    for number in range(320):
        a, b = ANIMALS[number % 5], ANIMALS[(number // 5) % 5]
        c, d, e = KINDS[number % 4], KINDS[(number // 4) % 4], KINDS[(number // 25) % 4]
        words = (c, a, d, b, e)
        en, de = EN.format(number, *(x for x, _ in words)), DE.format(number, *(y for _, y in words))
        rows.append({"en": en, "de": de})
    return rows


class OtherTrainer:
    """Writes tokenizers and models as ``transformers.Trainer`` does.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tokenizer(self, *, size: int = 400, eos: str = "</s>", pad: str | None = None, bos: bool = False) -> Any:
        """A sentencepiece-like BPE with metaspaces and an unknown token; no pad token unless one is named."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        made = Tokenizer(models.BPE(unk_token=None, byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        special = ["<s>", eos, *([pad] if pad and pad != eos else [])]
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        made.train_from_iterator((f"{row['en']} {row['de']}" for row in sentences()), trainer)
        if bos:
            made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=eos, pad_token=pad)

    def policy(self, name: str, tokenizer: Any, *, steps: int = 3, seed: int = 0, rows: int | None = None) -> Path:
        """A tiny Llama after some steps, saved in bf16 and in shards."""
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**_sizes(tokenizer, rows)))
        texts = [f"{row['en']}\nGerman: {row['de']}{tokenizer.eos_token}" for row in sentences()[:96]]
        examples = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
        self._train(name, model, tokenizer, examples, steps, seed)
        model.to(torch.bfloat16).save_pretrained(self.folder / name, max_shard_size="100KB")
        return self.folder / name

    def reward_model(self, name: str, tokenizer: Any, *, labels: int = 1, seed: int = 0, spread: float = 10.0) -> Path:
        """A tiny classifier over a Llama, trained to tell references from their first half."""
        import torch
        from transformers import AutoModelForSequenceClassification, LlamaConfig

        torch.manual_seed(seed)
        config = LlamaConfig(**_sizes(tokenizer, None), num_labels=labels)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            model.score.weight.mul_(spread)
        examples = []
        for row in sentences()[:64]:
            for part, label in ((row["de"], 1.0), (row["de"][:20], 0.0)):
                ids = tokenizer(f"{row['en']}\nGerman: {part}{tokenizer.eos_token}")["input_ids"]
                examples.append({"input_ids": ids, "labels": label if labels == 1 else int(label)})
        self._train(name, model, tokenizer, examples, 3, seed)
        return self.folder / name

    def _train(self, name: str, model: Any, tokenizer: Any, examples: list[Any], steps: int, seed: int) -> None:
        import torch
        from transformers import Trainer, TrainingArguments

        def collate(rows: list[Any]) -> dict[str, Any]:
            width = max(len(row["input_ids"]) for row in rows)
            fill = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            batch = {
                "input_ids": torch.tensor([r["input_ids"] + [fill] * (width - len(r["input_ids"])) for r in rows]),
                "attention_mask": torch.tensor([[i < len(r["input_ids"]) for i in range(width)] for r in rows]).long(),
            }
            if isinstance(rows[0]["labels"], list):
                batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            else:
                batch["labels"] = torch.tensor([r["labels"] for r in rows])
            return batch

        arguments = TrainingArguments(
            output_dir=str(self.folder / f"{name}-trainer"),
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            report_to=[],
            use_cpu=True,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=examples, processing_class=tokenizer)
        trainer.train()
        trainer.save_model(str(self.folder / name))


def _sizes(tokenizer: Any, rows: int | None) -> dict[str, Any]:
    """Embeddings padded to a multiple of 64, as many trainers do."""
    return {
        "vocab_size": rows or -(-len(tokenizer) // 64) * 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture(scope="session")
def other_trainer(tmp_path_factory: pytest.TempPathFactory) -> OtherTrainer:
    return OtherTrainer(tmp_path_factory.mktemp("other-trainer"))


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A user's translations on disk, and the overrides that read them."""
    folder = tmp_path_factory.mktemp("translations")
    rows = sentences()
    for name, part in {"train": rows[:96], "validation": rows[96:128], "test": rows[128:160]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    pairs = [{"source": row["en"], "chosen": row["de"], "rejected": row["de"][:12]} for row in rows[160:]]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return ["task=translate", "data=local", f"data.path={folder}", "data.columns.source=en", "data.columns.response=de"]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``python -m harness …`` in this process, small and plain; returns the exit status."""
    from harness import cli

    def run(*arguments: str) -> int:
        environment = dict(os.environ)
        given = ["hardware.threads=1", "hardware.precision=fp32", "tracker=plain", "evaluation.resamples=100"]
        monkeypatch.setattr(sys, "argv", ["harness", *given, *arguments])
        try:
            return cli.main()
        finally:
            os.environ.clear()
            os.environ.update(environment)

    return run


@pytest.fixture(scope="session")
def our_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a small run of ours, PPO included."""
    from harness import cli

    folder = tmp_path_factory.mktemp("our-run")
    given, environment = sys.argv, dict(os.environ)
    sys.argv = ["harness", "experiment=smoke", "hardware.threads=1", "hardware.precision=fp32", "hub.license=mit"]
    sys.argv += [f"output_dir={folder}"]
    sys.argv += ["evaluation.fixed_rows=[references,sft]", "candidate=ours", "sft.epochs=1", "algorithm.episodes=32"]
    try:
        assert cli.main() == 0
    finally:
        sys.argv = given
        os.environ.clear()
        os.environ.update(environment)
    return folder


@pytest.fixture(scope="session")
def our_models(our_run: Path) -> dict[str, Path]:
    """Stage -> the folder of its model."""
    return {path.parent.name.rpartition("-")[0]: path for path in (our_run / "stages").glob("*/model")}
