"""Marian's tokenizer as it is: two sentencepiece models, one for prompts and one for responses, over one vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.models.codec import Codec
from harness.models.loading import load_codec

ENGLISH = [f"the {kind} fox number {n} sees the old house ." for n in range(30) for kind in ("red", "big", "wet")]
GERMAN = [f"der {kind} Fuchs Nummer {n} sieht das alte Haus ." for n in range(30) for kind in ("rote", "nasse")]


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("marian")
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1}
    for name, texts in (("source", ENGLISH), ("target", GERMAN)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(folder / name),
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(str(folder / f"{name}.spm"))
        for number in range(model.get_piece_size()):
            if not model.is_control(number) and not model.is_unknown(number):
                pieces.setdefault(model.id_to_piece(number), len(pieces))
    pieces["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces))
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = {"model_type": "marian", "vocab_size": len(pieces), "decoder_vocab_size": len(pieces), **sizes}
    config |= {"pad_token_id": len(pieces) - 1, "eos_token_id": 0, "decoder_start_token_id": len(pieces) - 1}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def marian_codec(marian: Path) -> Codec:
    return load_codec(marian)


def test_prompts_are_encoded_as_a_source_and_responses_as_a_target(marian_codec: Codec) -> None:
    tokenizer: Any = marian_codec.tokenizer
    (prompt,), (response,) = marian_codec.encode_prompts([ENGLISH[0]]), marian_codec.encode_responses([GERMAN[0]])
    assert prompt == tokenizer(ENGLISH[0])["input_ids"]
    assert response == tokenizer(text_target=GERMAN[0])["input_ids"]
    assert prompt[-1] == response[-1] == marian_codec.eos_id
    as_source = tokenizer(GERMAN[0])["input_ids"]
    assert as_source != response, "the two models cut words in other places"


def test_a_response_comes_back_as_it_was(marian_codec: Codec) -> None:
    assert marian_codec.decode(marian_codec.encode_responses(GERMAN[:5])) == GERMAN[:5]


def test_the_policy_survives_the_disk(marian: Path, marian_codec: Codec, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from harness.models.loading import load_language_model, save

    folder = tmp_path / "whole"
    shutil.copytree(marian, folder)
    AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    save(load_language_model(folder), tmp_path / "saved")
    again = load_codec(tmp_path / "saved")
    assert again.encode_prompts(ENGLISH[:3]) == marian_codec.encode_prompts(ENGLISH[:3])
    assert again.encode_responses(GERMAN[:3]) == marian_codec.encode_responses(GERMAN[:3])


def test_two_vocabularies_are_refused(marian: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(marian, tmp_path / "two")
    (tmp_path / "two" / "target_vocab.json").write_text((marian / "vocab.json").read_text())
    settings = json.loads((marian / "tokenizer_config.json").read_text()) | {"separate_vocabs": True}
    (tmp_path / "two" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has one vocabulary for prompts and another one for responses"):
        load_codec(tmp_path / "two")
