"""The code on a card, run as it stands: of every family, whole or an adapter alone, policy or reward model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.card_usage import Saved, usage
from harness.config import LoraConfig
from harness.context import model_directory
from harness.models.adapters import Base, add_adapter, trainable
from harness.models.kept import keep, start_scorer
from harness.models.loading import LanguageModel, load_language_model, load_scorer
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling, sample

FAMILIES = ("gpt2", "neox", "llama", "qwen2", "t5", "bart", "marian")
PROMPT, RESPONSE, SHIFT, TOKENS = "the red fox runs to the old house", "the wet bird sings", 0.375, 8


def moved(lm: LanguageModel) -> LanguageModel:
    """The model after some training: other weights in all that is trained, Marian's sinusoids aside."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainable(lm.model).items():
            if not (lm.codec.apart and "embed_positions" in name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lm


def policy(base: Path, *, adapted: bool) -> LanguageModel:
    lm = load_language_model(base)
    if adapted:
        add_adapter(lm.model, LoraConfig(rank=2), Base(str(base)), seed=0)
    return moved(lm)


def run(folder: Path, *, adapter: bool, scorer: bool) -> Any:
    """The card's code; what its last line says."""
    text = usage(Saved.read(folder, adapter=adapter, scorer=scorer), TOKENS)
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    *lines, last = code.strip().splitlines()
    names: dict[str, Any] = {"FOLDER": folder, "FOLDER_OR_REPOSITORY": folder, "PROMPT": PROMPT, "RESPONSE": RESPONSE}
    exec("\n".join(lines), names)
    return eval(last, names)


@pytest.fixture(params=[False, True], ids=["whole", "adapter"])
def adapted(request: pytest.FixtureRequest) -> bool:
    if request.param:
        pytest.importorskip("peft")
    return bool(request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_models_code_gives_its_score(
    family: str, adapted: bool, family_folder: Callable[..., Path], hardware: Any, tmp_path: Path
) -> None:
    base = family_folder(family)
    made = start_scorer(policy(base, adapted=True), head_seed=1) if adapted else load_scorer(base, head_seed=1)
    made.model.config.reward_shift = SHIFT
    keep(moved(made), tmp_path, LoraConfig(merge=False))
    expected = Scorer(*made, hardware).score_texts([PROMPT], [RESPONSE])[0]
    found = run(model_directory(tmp_path), adapter=adapted, scorer=True)
    if isinstance(found, list):
        found = found[0]
    score = float(found["score"] if isinstance(found, dict) else found)
    assert score - SHIFT == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policys_code_gives_its_answer(
    family: str, adapted: bool, family_folder: Callable[..., Path], tmp_path: Path
) -> None:
    lm = policy(family_folder(family), adapted=adapted)
    keep(lm, tmp_path, LoraConfig(merge=False))
    ids = {"eos_id": lm.codec.eos_id, "pad_id": lm.codec.pad_id}
    settings = Sampling(TOKENS, temperature=0.0)
    rollout = sample(lm.model, lm.codec.encode_prompts([PROMPT]), settings, **ids, seed=0)
    found = run(model_directory(tmp_path), adapter=adapted, scorer=False)
    said = found if isinstance(found, str) else found[0]["generated_text"]
    assert said.strip() == lm.codec.decode(rollout.tokens)[0]


def test_an_adapters_policy_decodes_without_its_bases_rules(family_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The base on disk asks for beams and forbids a token; what was scored had no beams, and the token out of reach."""
    pytest.importorskip("peft")
    from transformers import GenerationConfig

    base = family_folder("marian")
    settings = GenerationConfig.from_pretrained(base)
    before = load_language_model(base)
    first = sample(
        before.model, before.codec.encode_prompts([PROMPT]), Sampling(TOKENS), eos_id=1, pad_id=0, seed=0
    ).tokens[0][0]
    folder = tmp_path / "base"
    before.model.save_pretrained(folder)
    before.codec.tokenizer.save_pretrained(folder)
    settings.num_beams, settings.no_repeat_ngram_size, settings.bad_words_ids = 4, 1, [[first]]
    settings.save_pretrained(folder)
    lm = policy(folder, adapted=True)
    keep(lm, tmp_path / "sft", LoraConfig(merge=False))
    saved = GenerationConfig.from_pretrained(tmp_path / "sft" / "model")
    assert (saved.num_beams or 1, saved.no_repeat_ngram_size or 0, saved.suppress_tokens) == (1, 0, [first])
    rollout = sample(
        lm.model, lm.codec.encode_prompts([PROMPT]), Sampling(TOKENS, temperature=0.0), eos_id=1, pad_id=0, seed=0
    )
    assert first not in rollout.tokens[0]
    assert run(tmp_path / "sft" / "model", adapter=True, scorer=False).strip() == lm.codec.decode(rollout.tokens)[0]
