from __future__ import annotations

import copy
import random
from collections import Counter

import numpy as np
import pytest
import torch

from harness.hardware import Hardware
from harness.models import scorer as scorer_module
from harness.models.kernels import use_fast_kernels
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


@pytest.mark.parametrize("size", [2, 4, 256])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_at_the_same_time_are_scored_as_one_after_another(make_scorer, ragged, size, precision):
    parts = make_scorer()
    use_fast_kernels(parts[0])
    alone, beside = (
        Scorer(*parts, Hardware("cpu", precision, 1, workers)).scores(*ragged, batch_size=size) for workers in (1, 2)
    )
    assert alone.all()
    np.testing.assert_array_equal(beside, alone)


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


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_pairs_of_nothing_are_scored_on_a_pad(make_scorer, hardware, architecture):
    scorer = Scorer(*make_scorer(architecture), hardware)
    prompts, responses = [[5, 9], [7, 8, 9], [], []], [[3], [4], [], []]
    scores = scorer.scores(prompts, responses)
    assert scores[2] == scores[3] == pytest.approx(scorer.scores([[]], [[]])[0], abs=1e-5)
    assert scores[:2] == pytest.approx(
        [scorer.scores([p], [r])[0] for p, r in zip(prompts[:2], responses, strict=False)]
    )


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


OTHER = ["quite other words , and a fox", "der Fuchs rennt nach Haus"]


def test_tokens_of_another_tokenizer_are_read_as_their_text(make_scorer, hardware):
    from harness.models.codec import Codec
    from harness.models.nano import train_tokenizer

    other = Codec(train_tokenizer(OTHER, 280))
    scorer, reading = (Scorer(*make_scorer(), hardware, reads=reads) for reads in (None, other))
    prompts, responses = ["the red fox\n\tdoes :", "Köln ?"], ["runs  home .", "a bird"]
    tokens = other.encode_prompts(prompts), other.encode_responses(responses, ended=[True, False])
    expected = scorer.score_texts(prompts, responses, ended=[True, False])
    np.testing.assert_allclose(reading.scores(*tokens), expected, atol=1e-5)
    np.testing.assert_allclose(reading.scores(*tokens, batch_size=1), expected, atol=1e-4)
    assert (scorer.reader, reading.reader) == (scorer.codec, other)


def test_a_prompt_that_is_too_long_in_its_tokens_ends_the_run(make_scorer, hardware):
    from harness.errors import RunFailed
    from harness.models.codec import Codec
    from harness.models.nano import train_tokenizer

    other = Codec(train_tokenizer(["qxqxqxqxqx"] * 9, 270))
    scorer = Scorer(*make_scorer(context=64), hardware, reads=other)
    (prompt,) = other.encode_prompts(["qx" * 40])
    assert len(prompt) < 64
    with pytest.raises(
        RunFailed, match=r"^the reward model reads 64 tokens and a prompt of the policy has \d+ of them"
    ):
        scorer.scores([prompt], [[5]])


def test_the_policys_own_tokenizer_with_a_pad_added_is_read_as_it_is(make_scorer, hardware, codec):
    import copy

    from harness.models.codec import Codec

    scorer = Scorer(*make_scorer(), hardware)
    assert Scorer(*make_scorer(), hardware, reads=codec).foreign is None
    longer = copy.deepcopy(codec.tokenizer)
    longer.add_special_tokens({"pad_token": "[PAD]"})
    reads = Codec(longer)  # its new token has no row in the reward model's embedding
    reading = Scorer(*make_scorer(), hardware, reads=reads)
    assert reading.foreign is reads
    tokens = codec.encode_prompts(["the fox"]), codec.encode_responses(["runs"])
    np.testing.assert_allclose(reading.scores(*tokens), scorer.scores(*tokens), atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_prompt_of_several_responses_is_computed_once(make_scorer, hardware, architecture, monkeypatch):
    """Seven responses to one prompt, two to another, one to a third, in no order: four, two and one at a time."""
    scorer = Scorer(*make_scorer(architecture), hardware)
    rng = random.Random(0)
    rows = [[5, 9, 20, 40]] * 7 + [[12, 13]] * 2 + [[70]]
    rng.shuffle(rows)
    responses = [[rng.randrange(10, 90) for _ in range(rng.randrange(1, 9))] for _ in rows]
    alone = [float(scorer.scores([prompt], [response])[0]) for prompt, response in zip(rows, responses, strict=True)]
    seen = []
    score = scorer_module.sequence_scores
    monkeypatch.setattr(
        scorer_module,
        "sequence_scores",
        lambda model, batch: (seen.append((len(batch.ids), batch.shared)), score(model, batch))[1],
    )
    assert scorer.scores(rows, responses) == pytest.approx(alone, abs=1e-5)
    assert Counter(shared for rows, shared in seen for _ in range(rows)) == {4: 4, 2: 4, 1: 2}
    assert scorer.scores(rows, responses, batch_size=1) == pytest.approx(alone, abs=1e-5)
    assert {rows for rows, _ in seen[-10:]} == {1}


@pytest.mark.parametrize("reads_eos", [True, False])
def test_whatever_ended_a_response_it_is_read_with_eos_or_with_nothing(make_scorer, hardware, ragged, reads_eos):
    """A reward model learned from EOS: another token that a policy may end in is not news about the answer."""
    model, codec = make_scorer()
    model.config.reward_reads_eos = reads_eos
    scorer = Scorer(model, codec, hardware)
    bare = [[token for token in ids if token != codec.eos_id] for ids in ragged[1]]
    expected = scorer.scores(ragged[0], [[*ids, codec.eos_id] for ids in bare])
    policys = copy.deepcopy(codec)
    policys.stop_ids = (codec.eos_id, codec.pad_id)  # Qwen's chat models end in what they have as pad, too
    follower = Scorer(model, codec, hardware, reads=policys)
    assert follower.foreign is None
    found = follower.scores(ragged[0], [[*ids, codec.pad_id] for ids in bare])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    unended = scorer.scores(ragged[0], bare)
    assert np.abs(unended - expected).max() > 1e-3 if reads_eos else np.allclose(unended, expected, atol=1e-6)
