from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.models.scorer import Scorer


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_score_does_not_depend_on_order_or_batch_size(make_scorer, hardware, ragged, architecture):
    scorer = Scorer(*make_scorer(architecture), hardware)
    prompts, responses = ragged
    together = scorer.scores(prompts, responses)
    assert together.shape == (5,)
    assert together.dtype == np.float64
    assert len({round(score, 3) for score in together}) == 5, "different texts, different scores"
    for size in (1, 2, 3):
        np.testing.assert_allclose(scorer.scores(prompts, responses, batch_size=size), together, atol=1e-4)
    back = scorer.scores(prompts[::-1], responses[::-1])[::-1]
    np.testing.assert_allclose(back, together, atol=1e-4)


def test_texts_are_scored_as_their_tokens_are(make_scorer, hardware, codec):
    scorer = Scorer(*make_scorer(), hardware)
    prompts, responses = ["the red fox", "why ?"], ["runs home .", ""]
    tokens = codec.encode_prompts(prompts), codec.encode_responses(responses)
    np.testing.assert_allclose(scorer.score_texts(prompts, responses), scorer.scores(*tokens), atol=1e-6)
    open_end = scorer.score_texts(prompts, responses, ended=[False, True])
    cut = scorer.scores(tokens[0], [tokens[1][0][:-1], tokens[1][1]])
    np.testing.assert_allclose(open_end, cut, atol=1e-6)
    short = scorer.score_texts(prompts, responses, max_tokens=2)
    np.testing.assert_allclose(short, scorer.scores(tokens[0], [ids[:2] for ids in tokens[1]]), atol=1e-6)


def test_no_rows_no_scores(make_scorer, hardware):
    assert Scorer(*make_scorer(), hardware).scores([], []).shape == (0,)


def test_an_empty_response_is_scored_on_the_prompt(make_scorer, hardware):
    """An answer without EOS and without tokens, beside another one: its last real token is the prompt's."""
    scorer = Scorer(*make_scorer(), hardware)
    scores = scorer.scores([[5, 9], [5, 9]], [[], [30, 0]])
    with torch.inference_mode():
        alone = float(scorer.model(torch.tensor([[5, 9]])).logits[0, 0])
    assert scores[0] == pytest.approx(alone, abs=1e-4)


def test_a_text_beyond_the_models_positions_is_read_as_far_as_they_go(make_scorer, hardware, codec):
    """Another tokenizer's short response may be long in this one."""
    scorer = Scorer(*make_scorer(context=64), hardware)
    prompt, response = "the red fox", "qx" * 50
    tokens = codec.encode_prompts([prompt]), codec.encode_responses([response])
    assert len(tokens[0][0]) + len(tokens[1][0]) > 64
    expected = scorer.scores(tokens[0], [tokens[1][0][: 64 - len(tokens[0][0])]])
    assert scorer.score_texts([prompt], [response])[0] == pytest.approx(expected[0], abs=1e-6)
