"""Scores of the bench against the scores that the project's own scorer and transformers' own forward pass give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.models.scorer import Scorer
from harness.reward_bench.classifier import load_classifier
from harness.reward_bench.config import ScorerConfig
from harness.types import PairExample


def examined(folder: Path, task: Any, hardware: Any, **options: Any) -> Any:
    return load_classifier(ScorerConfig(path=str(folder), **options), task, hardware)


def judged(model: Any, found: Any) -> Any:
    done: list[int] = []
    verdicts = model.judge(found.pairs, done.append)
    assert sum(done) == len(found.pairs)
    return verdicts


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_ours_scores_as_in_training(
    ours: Path, preferences: Any, dialogue: Any, hardware: Any, batch_size: int
) -> None:
    verdicts = judged(examined(ours, dialogue, hardware, batch_size=batch_size), preferences)
    scorer = Scorer.load(ours, hardware)
    prompts = [dialogue.prompt(pair.fields) for pair in preferences.pairs]
    chosen, rejected = (
        scorer.score_texts(prompts, [getattr(pair, side) for pair in preferences.pairs])
        for side in ("chosen", "rejected")
    )
    np.testing.assert_allclose(verdicts.scores, np.concatenate([chosen, rejected]), atol=1e-4)
    np.testing.assert_allclose(verdicts.margins, chosen - rejected, atol=1e-4)
    assert verdicts.facts["format"] == "task"
    assert verdicts.facts["prompt_cut_share"] == verdicts.facts["response_cut_share"] == 0
    assert verdicts.facts["batch_invariance"]["pairs"] == 12
    assert verdicts.facts["batch_invariance"]["max_difference"] < 1e-4


def test_what_is_too_long_is_cut_by_the_tasks_rule_and_counted(
    ours: Path, preferences: Any, dialogue: Any, hardware: Any
) -> None:
    model = examined(ours, dialogue, hardware, max_tokens=48)
    read = [text for pair in preferences.pairs for text in model.read(pair)]
    assert max(len(text.prompt) + len(text.response) for text in read) <= 48
    verdicts = judged(model, preferences)
    assert 0 < verdicts.facts["prompt_cut_share"] <= 1
    # The oldest turn goes first, and the one who answers is still named.
    text = model.read.codec.decode([next(text.prompt for text in read if text.prompt_cut)])[0]
    assert "why does bird" in text
    assert not text.startswith("A: the fox")
    with pytest.raises(UserError, match=r"scorer\.max_tokens=8 leaves no room"):
        judged(examined(ours, dialogue, hardware, max_tokens=8), preferences)


def test_a_pooled_classifier_scores_as_its_own_forward_pass(
    pooled: Path, preferences: Any, dialogue: Any, hardware: Any
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pooled)
    model = AutoModelForSequenceClassification.from_pretrained(pooled).eval()
    expected = []
    for side in ("chosen", "rejected"):
        for pair in preferences.pairs:
            encoded = tokenizer(dialogue.prompt(pair.fields), getattr(pair, side), return_tensors="pt")
            assert encoded["input_ids"].shape[1] <= 40
            with torch.inference_mode():
                expected.append(float(model(**encoded).logits[0, 0]))
    verdicts = judged(examined(pooled, dialogue, hardware, batch_size=5), preferences)
    np.testing.assert_allclose(verdicts.scores, expected, atol=1e-5)
    assert np.std(expected) > 0.01
    assert verdicts.facts["max_tokens"] == 40
    short = examined(pooled, dialogue, hardware, max_tokens=20)
    assert max(len(text.prompt) for pair in preferences.pairs for text in short.read(pair)) <= 20
    assert judged(short, preferences).facts["prompt_cut_share"] > 0


def roberta(pooled: Path, folder: Path, *, positions: int, pad: int) -> Path:
    """A classifier whose positions begin after ``pad``, with the other one's tokenizer, which states no limit."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(pooled, model_max_length=None)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        pad_token_id=pad,
        num_labels=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def long_pair(words: int) -> PairExample:
    said = " ".join(["bird"] * words)
    return PairExample("p", {"turns": [f"{said} ?"]}, said, said)


def test_more_tokens_than_a_model_reads_are_refused(
    ours: Path, pooled: Path, tmp_path: Path, dialogue: Any, hardware: Any
) -> None:
    """256 positions; 48, though the tokenizer says 40; and 50 of which the pads' two, 0 and 1, are taken."""
    for folder, most in ((ours, 256), (pooled, 48), (roberta(pooled, tmp_path / "r", positions=50, pad=1), 48)):
        with pytest.raises(UserError, match=rf"scorer\.max_tokens={most + 1} is more than the {most} tokens"):
            examined(folder, dialogue, hardware, max_tokens=most + 1)
        model = examined(folder, dialogue, hardware, max_tokens=most)
        texts = [text for text in model.read(long_pair(most)) for _ in (0, 1)]
        assert {len(text.prompt) + len(text.response) for text in texts} == {most}
        assert np.isfinite(model.score(texts, 4)).all()


@pytest.mark.parametrize(("pad", "most"), [(0, 49), (1, 48)])
def test_roberta_reads_as_far_as_its_positions_go(
    pooled: Path, tmp_path: Path, dialogue: Any, hardware: Any, pad: int, most: int
) -> None:
    model = examined(roberta(pooled, tmp_path / "r", positions=50, pad=pad), dialogue, hardware)
    assert model.limit == most
    assert np.isfinite(model.score(list(model.read(long_pair(60))), 2)).all()


def test_a_response_that_is_cut_in_a_conversation_is_counted_as_one(
    ours: Path, preferences: Any, dialogue: Any, hardware: Any
) -> None:
    (ours / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    whole = examined(ours, dialogue, hardware)
    pair = preferences.pairs[0]
    tokens = len(whole.read(pair)[0].response)
    prompt = len(whole.read._ids("the fox runs ? home . why does bird 0 sing ?"))

    def cuts(limit: int) -> tuple[bool, bool]:
        text = examined(ours, dialogue, hardware, max_tokens=limit).read(pair)[0]
        assert len(text.response) == min(limit, tokens)
        return text.prompt_cut, text.response_cut

    assert tokens - prompt > 1
    assert cuts(tokens) == (False, False)
    assert cuts(tokens - 1) == (True, False)
    assert cuts(tokens - prompt) == (True, False)  # the prompt is gone, the response whole
    assert cuts(tokens - prompt - 1) == (True, True)


def test_a_chat_template_is_used_where_there_is_one(ours: Path, preferences: Any, dialogue: Any, hardware: Any) -> None:
    with pytest.raises(UserError, match=r"scorer\.format=chat needs a tokenizer with a chat template"):
        examined(ours, dialogue, hardware, format="chat")
    template = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    (ours / "chat_template.jinja").write_text(template)
    model = examined(ours, dialogue, hardware)
    pair = preferences.pairs[0]
    text = f"<user> the fox runs ? <assistant> home . <user> why does bird 0 sing ? <assistant> {pair.chosen}"
    scorer = Scorer.load(ours, hardware)
    ids = scorer.codec.tokenizer(f"{text} ", add_special_tokens=False)["input_ids"]
    verdicts = judged(model, preferences)
    assert verdicts.facts["format"] == "chat"
    assert verdicts.scores[0] == pytest.approx(scorer.scores([ids], [[]])[0], abs=1e-4)
    assert examined(ours, dialogue, hardware, format="task").template == "task"


def test_what_is_no_reward_model_is_refused(tmp_path: Path, make_lm: Any, dialogue: Any, hardware: Any) -> None:
    from harness.models.loading import save

    save(make_lm(), tmp_path / "policy")
    with pytest.raises(UserError, match=r"scorer\.path=.* holds GPT2LMHeadModel, no sequence classifier; give"):
        examined(tmp_path / "policy", dialogue, hardware)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"scorer\.path=.*could not be loaded"):
        examined(tmp_path / "empty", dialogue, hardware)
