from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from harness.models.forward import Batch, make_batch, response_logits, sequence_scores, token_values

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])


def widened(batch: Batch, left: int, right: int, pad_id: int) -> Batch:
    """The same rows with more pads on both sides."""

    def fill(count: int, value: int) -> torch.Tensor:
        return torch.full((len(batch.ids), count), value)

    ids = torch.cat([fill(left, pad_id), batch.ids, fill(right, pad_id)], 1)
    mask = torch.cat([fill(left, 0).bool(), batch.mask, fill(right, 0).bool()], 1)
    return Batch(ids, mask, torch.cat([batch.response_mask, fill(right, 0).bool()], 1))


@pytest.fixture
def batch(ragged, codec):
    return make_batch(*ragged, codec.pad_id)


def test_prompts_end_and_responses_begin_in_one_column(ragged, batch, codec):
    prompts, responses = ragged
    assert batch.ids.shape == batch.mask.shape == (5, 7 + 6)
    assert batch.response_mask.shape == (5, 6)
    pad = codec.pad_id
    assert batch.ids[1].tolist() == [pad] * 6 + [12] + [44, 45, 46, 47, 48, 0]
    assert batch.ids[3].tolist() == [pad] * 3 + [9, 9, 9, 14] + [0] + [pad] * 5
    assert batch.mask[3].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    assert batch.response_mask.sum(1).tolist() == [len(response) for response in responses]
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        assert batch.ids[row][batch.mask[row]].tolist() == prompt + response
        assert batch.response[row][batch.response_mask[row]].tolist() == response


def test_a_stated_width_adds_masked_columns_and_never_cuts(ragged, codec):
    wide = make_batch(*ragged, codec.pad_id, width=9)
    assert wide.response_mask.shape == (5, 9)
    assert not wide.response_mask[:, 6:].any()
    assert not wide.mask[:, 13:].any()
    assert (wide.ids[:, 13:] == codec.pad_id).all()
    assert make_batch(*ragged, codec.pad_id, width=2).response_mask.shape == (5, 6)


def test_rows_are_chosen_together(batch):
    some = batch.rows(torch.tensor([3, 0]))
    assert torch.equal(some.ids, batch.ids[[3, 0]])
    assert torch.equal(some.mask, batch.mask[[3, 0]])
    assert torch.equal(some.response_mask, batch.response_mask[[3, 0]])


@ARCHITECTURES
def test_response_logits_are_those_of_each_row_alone(make_model, ragged, batch, architecture):
    """The plain way: one unpadded row at a time, no mask, no positions; token t is chosen from logits t - 1."""
    model = make_model(architecture)
    with torch.inference_mode():
        logits = response_logits(model, batch)
        for row, (prompt, response) in enumerate(zip(*ragged, strict=True)):
            plain = model(torch.tensor([prompt + response])).logits[0]
            expected = plain[len(prompt) - 1 : len(prompt) + len(response) - 1]
            torch.testing.assert_close(logits[row, : len(response)], expected, atol=2e-4, rtol=1e-4)


@ARCHITECTURES
def test_more_padding_moves_nothing(make_model, make_scorer, batch, codec, architecture):
    model, scorer = make_model(architecture), make_scorer(architecture).model
    wide, mask = widened(batch, 4, 3, codec.pad_id), batch.response_mask
    with torch.inference_mode():
        before, after = response_logits(model, batch), response_logits(model, wide)[:, :6]
        torch.testing.assert_close(before[mask], after[mask], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(sequence_scores(scorer, batch), sequence_scores(scorer, wide), atol=1e-4, rtol=1e-4)
        before, after = token_values(scorer, batch), token_values(scorer, wide)[:, :6]
        torch.testing.assert_close(before[mask], after[mask], atol=1e-4, rtol=1e-4)


@ARCHITECTURES
def test_what_a_pad_holds_moves_nothing(make_model, make_scorer, batch, codec, architecture):
    model, scorer, mask = make_model(architecture), make_scorer(architecture).model, batch.response_mask
    other = batch._replace(ids=torch.where(batch.mask, batch.ids, 55))
    with torch.inference_mode():
        assert torch.equal(response_logits(model, batch)[mask], response_logits(model, other)[mask])
        assert torch.equal(token_values(scorer, batch)[mask], token_values(scorer, other)[mask])
        assert torch.equal(sequence_scores(scorer, batch), sequence_scores(scorer, other))


@ARCHITECTURES
def test_scores_equal_the_classifier_called_plainly_up_to_the_shift(make_scorer, ragged, batch, architecture):
    scorer = make_scorer(architecture)
    with torch.inference_mode():
        plain = torch.cat([scorer.model(torch.tensor([p + r])).logits[:, 0] for p, r in zip(*ragged, strict=True)])
        torch.testing.assert_close(sequence_scores(scorer.model, batch), plain, atol=1e-4, rtol=1e-4)
        scorer.model.config.reward_shift = 0.75
        torch.testing.assert_close(sequence_scores(scorer.model, batch), plain - 0.75, atol=1e-4, rtol=1e-4)
        padded = scorer.codec.tokenizer.pad(
            {"input_ids": [p + r for p, r in zip(*ragged, strict=True)]}, return_tensors="pt"
        )
        usual = scorer.model(**padded, position_ids=(padded["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[:, 0]
        torch.testing.assert_close(usual, plain, atol=1e-4, rtol=1e-4)


def test_the_score_is_read_at_the_last_real_token_even_where_the_policy_chose_pad_there(make_scorer, codec):
    """A classifier of transformers looks for the last token that *is* no pad; the mask says which token is last."""
    scorer = make_scorer()
    prompts, responses = [[5, 9, 20], [40]], [[30, codec.pad_id], [codec.pad_id]]
    with torch.inference_mode():
        scores = sequence_scores(scorer.model, make_batch(prompts, responses, codec.pad_id))
        for row in range(2):
            hidden = scorer.model.transformer(torch.tensor([prompts[row] + responses[row]]))[0][0, -1]
            torch.testing.assert_close(scores[row], scorer.model.score(hidden)[0], atol=1e-4, rtol=1e-4)


@ARCHITECTURES
def test_values_stand_before_the_token_and_use_the_head(make_scorer, ragged, batch, architecture):
    """V(s_t) is the head on the hidden state of the token before token t: the prompt's last one for the first."""
    scorer = make_scorer(architecture).model
    trunk = scorer.transformer if architecture == "gpt2" else scorer.model
    head = torch.nn.Linear(16, 1)
    with torch.inference_mode():
        own, other = token_values(scorer, batch), token_values(scorer, batch, head)
        assert own.shape == other.shape == (5, 6)
        for row, (prompt, response) in enumerate(zip(*ragged, strict=True)):
            hidden = trunk(torch.tensor([prompt + response]))[0][0]
            before = hidden[len(prompt) - 1 : len(prompt) + len(response) - 1]
            torch.testing.assert_close(own[row, : len(response)], scorer.score(before)[:, 0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(other[row, : len(response)], head(before)[:, 0], atol=1e-4, rtol=1e-4)


def test_the_value_of_the_next_state_does_not_see_the_future(make_scorer, ragged, codec):
    scorer = make_scorer().model
    prompts, responses = ragged
    changed = [[*response[:-1], 77] for response in responses]
    with torch.inference_mode():
        values = [token_values(scorer, make_batch(prompts, tokens, codec.pad_id)) for tokens in (responses, changed)]
    mask = make_batch(prompts, responses, codec.pad_id).response_mask
    torch.testing.assert_close(values[0][mask], values[1][mask])


SMALL = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SHARED = {**SMALL, "num_key_value_heads": 1}
FAMILIES = {
    "neox": GPTNeoXConfig(**SMALL, max_position_embeddings=64),
    "llama": LlamaConfig(**SHARED),
    "mistral": MistralConfig(**SHARED),
    "qwen2": Qwen2Config(**SHARED),
    "qwen3": Qwen3Config(**SHARED, head_dim=8),
}


@pytest.mark.parametrize("family", ["gpt2", *FAMILIES])
def test_gradients_through_the_prompt_are_those_of_each_row_alone(make_model, ragged, batch, family):
    """What the prompt is not computed for must be what no gradient passes through."""
    torch.manual_seed(0)
    model = make_model() if family == "gpt2" else AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    loss = torch.zeros(())
    for prompt, response in zip(*ragged, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="sum")
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logprobs = response_logits(model, batch).log_softmax(-1).gather(2, batch.response[..., None]).squeeze(2)
    (-logprobs[batch.response_mask].sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_last_feed_forward_block_runs_for_the_response_alone(make_model, batch):
    model, widths = make_model(), []
    handles = [
        layer.mlp.c_fc.register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
        for layer in model.transformer.h
    ]
    with torch.inference_mode():
        response_logits(model, batch)
        model(batch.ids)
    for handle in handles:
        handle.remove()
    assert widths == [6, 6, 6, 13, 13]  # the prompt less its last token; that and the response, twice; a plain call
