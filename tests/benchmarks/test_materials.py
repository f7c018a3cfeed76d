from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from benchmarks.materials import Materials, base_model
from benchmarks.sizes import PROMPT_TOKENS, RESPONSE_TOKENS, SIZES
from benchmarks.texts import SHORT, text, words


@pytest.fixture(scope="module")
def materials(work: Path) -> Materials:
    folder = work / "materials"
    return Materials(base_model(folder, SIZES["micro"]), SIZES["micro"])


def test_words_differ_and_a_seed_gives_the_same_ones() -> None:
    made = words(500, Random(3))
    assert len(set(made)) == 500
    assert made == words(500, Random(3))
    assert made != words(500, Random(4))


def test_early_words_are_frequent() -> None:
    vocabulary = words(200, Random(0))
    counts = Counter(text(vocabulary, Random(1), word_count=20_000).lower().replace(".", "").replace("?", "").split())
    first, last = (sum(counts[word] for word in part) for part in (vocabulary[:20], vocabulary[-20:]))
    assert first > 5 * last > 0


def test_rows_have_the_stated_lengths(materials: Materials) -> None:
    lengths = [len(row["input_ids"]) for row in materials.demonstrations(50, seed=1)]
    assert min(lengths) > PROMPT_TOKENS
    assert max(lengths) <= 2 * PROMPT_TOKENS
    for pair in materials.pairs(5, seed=1):
        assert [len(pair[side]) for side in ("prompt", "chosen", "rejected")] == [
            PROMPT_TOKENS,
            RESPONSE_TOKENS,
            RESPONSE_TOKENS,
        ]
    assert {len(row["input_ids"]) for row in materials.prompts(5, seed=1)} == {PROMPT_TOKENS}


def test_a_chosen_response_has_more_short_words(materials: Materials) -> None:
    pairs = materials.pairs(50, seed=1)
    short = {materials.codec.tokenizer(f" {word}")["input_ids"][0] for word in SHORT}
    counts = {side: sum(token in short for pair in pairs for token in pair[side]) for side in ("chosen", "rejected")}
    assert counts["chosen"] > 2 * counts["rejected"] > 0


def test_demonstrations_end_in_eos_and_another_seed_is_another_text(materials: Materials) -> None:
    rows = materials.demonstrations(5, seed=1)
    assert {row["input_ids"][-1] for row in rows} == {materials.codec.eos_id}
    assert rows == materials.demonstrations(5, seed=1)
    assert rows != materials.demonstrations(5, seed=2)


def test_the_base_model_is_what_transformers_makes(materials: Materials, work: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = work / "materials"
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert model.config.resid_pdrop == 0.1
    assert model.config.activation_function == "gelu_new"
    assert model.config.vocab_size == len(materials.codec)
    assert base_model(folder, SIZES["micro"]) == folder / "base"
