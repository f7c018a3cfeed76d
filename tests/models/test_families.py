"""Every family, causal and encoder–decoder, does what transformers does with it: the same loss, texts and scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.models.encoder_decoder import decoder_prefix
from harness.models.forward import (
    Batch,
    logits_and_states,
    make_batch,
    response_logits,
    sequence_scores,
    token_values,
)
from harness.models.loading import load_language_model, load_scorer, save
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling, sample
from harness.training.language_model import TokenExample, imitation_loss
from harness.training.token_logprobs import sequence_logprobs

CAUSAL = ("gpt2", "neox", "llama", "qwen2", "qwen3")
SEQ2SEQ = ("t5", "bart", "marian")
EVERY = pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
ENCODER_DECODER = pytest.mark.parametrize("family", SEQ2SEQ)
PROMPTS = ["the red fox", "a bird sings about the big house and the old one .", "number 7 runs", "it"]
RESPONSES = ["runs to it .", "the wet bird number 12 and a fox", "", "sings"]

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def lm(family: str, family_folder: Folder) -> Any:
    return load_language_model(family_folder(family))


@pytest.fixture
def scorer(family: str, family_folder: Folder) -> Any:
    return load_scorer(family_folder(family), head_seed=3)


def encoded(codec: Any) -> tuple[list[list[int]], list[list[int]]]:
    return codec.encode_prompts(PROMPTS), codec.encode_responses(RESPONSES, ended=[True, True, True, False])


def right_padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def draw(lm: Any, prompts: list[list[int]], settings: Sampling, **options: Any) -> Any:
    ids = {"eos_id": lm.codec.eos_id, "pad_id": lm.codec.pad_id}
    return sample(lm.model, prompts, settings, **ids, seed=5, **options)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def labelled(lm: Any, prompts: list[list[int]], responses: list[list[int]]) -> dict[str, torch.Tensor]:
    """The inputs and labels that transformers' own loss takes, padded on the right."""
    pad = lm.codec.pad_id
    if not lm.model.config.is_encoder_decoder:
        whole = [p + r for p, r in zip(prompts, responses, strict=True)]
        labels = [[-100] * len(p) + r for p, r in zip(prompts, responses, strict=True)]
        mask = [[1] * len(row) for row in whole]
        return {
            "input_ids": right_padded(whole, pad),
            "attention_mask": right_padded(mask, 0),
            "labels": right_padded(labels, -100),
        }
    given = {
        "input_ids": right_padded(prompts, pad),
        "attention_mask": right_padded([[1] * len(row) for row in prompts], 0),
        "labels": right_padded(responses, -100),
    }
    forced = lm.model.generation_config.forced_bos_token_id
    if forced is not None:  # the decoder reads a token more, which nobody has to learn
        start = lm.model.config.decoder_start_token_id
        given["decoder_input_ids"] = right_padded([[start, forced, *row[:-1]] for row in responses], pad)
        given["labels"] = right_padded([[-100, *row] for row in responses], -100)
    return given


@EVERY
def test_the_sft_loss_and_its_gradients_are_those_of_transformers_labels(lm: Any, hardware: Any) -> None:
    lm.model.double()
    prompts, responses = encoded(lm.codec)
    theirs = lm.model(**labelled(lm, prompts, responses)).loss
    theirs.backward()
    expected = gradients(lm.model)
    lm.model.zero_grad()
    ours = imitation_loss(lm, [TokenExample(*pair) for pair in zip(prompts, responses, strict=True)], hardware)
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    found = gradients(lm.model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@EVERY
def test_greedy_answers_are_those_of_generate_from_the_saved_folder(lm: Any, family: str, tmp_path: Path) -> None:
    """With what the folder says of padding, beams and special tokens, and nothing but the length on top."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    save(lm, tmp_path)
    ours = draw(lm, lm.codec.encode_prompts(PROMPTS), Sampling(9, temperature=0, batch_size=3))
    factory: Any = AutoModelForSeq2SeqLM if family in SEQ2SEQ else AutoModelForCausalLM
    model, tokenizer = factory.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    prefix = decoder_prefix(model.config) if family in SEQ2SEQ else []
    start = len(prefix) if family in SEQ2SEQ else inputs["input_ids"].shape[1]
    theirs = model.generate(**inputs, do_sample=False, max_new_tokens=9 + max(len(prefix) - 1, 0))[:, start:].tolist()
    assert len({tuple(tokens) for tokens in ours.tokens}) > 1
    for tokens, ended, row in zip(ours.tokens, ours.ended, theirs, strict=True):
        assert tokens == row[: len(tokens)]
        assert set(row[len(tokens) :]) <= {lm.codec.pad_id}
        assert ended == (lm.codec.eos_id in row)


@EVERY
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampling_and_scoring_agree(lm: Any, temperature: float) -> None:
    prompts = lm.codec.encode_prompts(PROMPTS * 4)
    rollout = draw(lm, prompts, Sampling(12, temperature=temperature))
    batch = make_batch(prompts, rollout.tokens, lm.codec.pad_id)
    with torch.inference_mode():
        scored = sequence_logprobs(response_logits(lm.model, batch), batch.response, temperature)
    sampled = rollout.logprobs[:, : batch.response_mask.shape[1]]
    assert float((scored - sampled)[batch.response_mask].abs().max()) < 1e-4


@EVERY
def test_a_row_does_not_depend_on_its_batch(lm: Any) -> None:
    """Rows that end early leave the batch, and the others go on from the right keys and values."""
    output, eos = lm.model.get_output_embeddings(), lm.codec.eos_id
    output.bias = torch.nn.Parameter(torch.zeros(output.out_features))
    with torch.no_grad():  # so that a row ends about every fifth time
        logits = response_logits(lm.model, make_batch(*encoded(lm.codec), lm.codec.pad_id)).flatten(0, 1)
        output.bias[eos] = (logits.logsumexp(-1) - logits[:, eos]).median() - 1.4
    prompts = lm.codec.encode_prompts(PROMPTS * 6)
    whole = draw(lm, prompts, Sampling(10))
    assert sum(whole.ended) > 3
    assert len({len(tokens) for tokens in whole.tokens}) > 3
    for size in (1, 5):
        assert draw(lm, prompts, Sampling(10, batch_size=size)).tokens == whole.tokens


@EVERY
def test_samples_that_share_a_prompt_are_those_of_separate_prompts(lm: Any) -> None:
    prompts = [ids for ids in lm.codec.encode_prompts(PROMPTS) for _ in range(3)]
    separate, shared = (draw(lm, prompts, Sampling(8), shared=count) for count in (1, 3))
    assert shared.tokens == separate.tokens
    torch.testing.assert_close(shared.logprobs, separate.logprobs, atol=1e-4, rtol=0)


@EVERY
def test_logits_values_and_scores_are_those_of_each_row_alone(lm: Any, scorer: Any) -> None:
    prompts, responses = encoded(lm.codec)
    whole = make_batch(prompts, responses, lm.codec.pad_id)
    with torch.inference_mode():
        logits, values = response_logits(lm.model, whole), token_values(scorer.model, whole)
        scores = sequence_scores(scorer.model, whole)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            alone, size = make_batch([prompt], [response], lm.codec.pad_id), len(response)
            torch.testing.assert_close(logits[row, :size], response_logits(lm.model, alone)[0], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(values[row, :size], token_values(scorer.model, alone)[0], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(scores[row], sequence_scores(scorer.model, alone)[0], atol=1e-4, rtol=1e-4)


@EVERY
def test_more_padding_moves_nothing(lm: Any, scorer: Any) -> None:
    batch = make_batch(*encoded(lm.codec), lm.codec.pad_id)
    size, mask = batch.response_mask.shape[1], batch.response_mask

    def fill(count: int, value: int) -> torch.Tensor:
        return torch.full((len(batch.ids), count), value)

    wide = Batch(
        torch.cat([fill(4, 7), batch.ids, fill(3, 9)], 1),
        torch.cat([fill(4, 0).bool(), batch.mask, fill(3, 0).bool()], 1),
        torch.cat([mask, fill(3, 0).bool()], 1),
    )
    with torch.inference_mode():
        before, after = response_logits(lm.model, batch), response_logits(lm.model, wide)[:, :size]
        torch.testing.assert_close(before[mask], after[mask], atol=2e-4, rtol=1e-4)
        before, after = token_values(scorer.model, batch), token_values(scorer.model, wide)[:, :size]
        torch.testing.assert_close(before[mask], after[mask], atol=2e-4, rtol=1e-4)
        before, after = sequence_scores(scorer.model, batch), sequence_scores(scorer.model, wide)
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_pads_take_no_positions(lm: Any, scorer: Any) -> None:
    """Rows that fit by themselves fit beside each other, however differently they share the positions out."""
    known, pad = lm.model.config.max_position_embeddings, lm.codec.pad_id
    prompts, responses = [[7] * (known - 9), [8] * 3], [[9] * 4, [9] * (known - 9)]
    batch = make_batch(prompts, responses, pad)
    fill = torch.full((2, 12), pad)
    off = torch.zeros_like(fill, dtype=torch.bool)
    wide = Batch(
        torch.cat([fill, batch.ids, fill], 1),
        torch.cat([off, batch.mask, off], 1),
        torch.cat([batch.response_mask, off], 1),
    )
    with torch.inference_mode():
        scores = [float(sequence_scores(scorer.model, one)[0]) for one in (batch, wide)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        assert response_logits(lm.model, wide).shape[1] == token_values(scorer.model, wide).shape[1] == known + 3


@EVERY
def test_a_value_does_not_see_the_token_that_it_stands_before(scorer: Any) -> None:
    prompts, responses = encoded(scorer.codec)
    changed = [[*response[:-1], 7] for response in responses]
    pad = scorer.codec.pad_id
    with torch.inference_mode():
        values = [token_values(scorer.model, make_batch(prompts, tokens, pad)) for tokens in (responses, changed)]
        scores = [sequence_scores(scorer.model, make_batch(prompts, tokens, pad)) for tokens in (responses, changed)]
    mask = make_batch(prompts, responses, pad).response_mask
    torch.testing.assert_close(values[0][mask], values[1][mask])
    assert not torch.allclose(scores[0], scores[1]), "the score does"


@EVERY
def test_a_head_on_the_policys_trunk_reads_the_states_that_tokens_are_chosen_from(lm: Any) -> None:
    """A head that is one row of the output layer gives that token's logit, less what is added behind the layer."""
    output, token = lm.model.get_output_embeddings(), 9
    head = torch.nn.Linear(output.in_features, 1, bias=False)
    head.weight = torch.nn.Parameter(output.weight[token : token + 1].detach().clone())
    batch = make_batch(*encoded(lm.codec), lm.codec.pad_id)
    with torch.inference_mode():
        values, logits = token_values(lm.model, batch, head), response_logits(lm.model, batch)[..., token]
    if getattr(lm.model.config, "scale_decoder_outputs", False):
        logits = logits * lm.model.config.d_model**0.5
    torch.testing.assert_close(values[batch.response_mask], logits[batch.response_mask], atol=2e-4, rtol=1e-4)


@EVERY
def test_a_scorer_is_batch_invariant_and_survives_the_disk(scorer: Any, hardware: Any, tmp_path: Path) -> None:
    scorer.model.config.reward_shift = 0.5
    whole = Scorer(scorer.model, scorer.codec, hardware)
    before = whole.score_texts(PROMPTS, RESPONSES, ended=[True, True, True, False])
    save(scorer, tmp_path)
    after = Scorer.load(tmp_path, hardware).score_texts(
        PROMPTS, RESPONSES, ended=[True, True, True, False], batch_size=1
    )
    assert before == pytest.approx(after, abs=1e-4)
    assert len(set(before.round(4))) == 4


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_saved_reward_model_scores_pairs_elsewhere_as_here_up_to_the_shift(
    scorer: Any, hardware: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    scorer.model.config.reward_shift = 0.5
    save(scorer, tmp_path)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    ours = Scorer(scorer.model, scorer.codec, hardware).score_texts(PROMPTS, RESPONSES)
    inputs = tokenizer(PROMPTS, RESPONSES, return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        theirs = model.eval()(**inputs).logits[:, 0].numpy()
    assert theirs - 0.5 == pytest.approx(ours, abs=1e-4)
    score = pipeline("text-classification", model=model, tokenizer=tokenizer, function_to_apply="none")
    pairs = [{"text": prompt, "text_pair": response} for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    found = [row["score"] - 0.5 for row in score([pair for pair in pairs if pair["text_pair"]])]  # it takes "" for none
    assert found == pytest.approx([value for value, text in zip(ours, RESPONSES, strict=True) if text], abs=1e-4)


@pytest.mark.parametrize("family", ["marian"])
def test_where_transformers_has_no_class_a_score_is_one_product_on_its_model(
    scorer: Any, hardware: Any, tmp_path: Path
) -> None:
    """The documented format, read by other means: the trunk and ``score.weight``."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    save(scorer, tmp_path)
    trunk, weight = (
        AutoModel.from_pretrained(tmp_path).eval(),
        load_file(tmp_path / "model.safetensors")["score.weight"],
    )
    ours = Scorer(scorer.model, scorer.codec, hardware).score_texts(PROMPTS, RESPONSES)
    for row, (prompt, response) in enumerate(zip(*encoded_all(scorer.codec), strict=True)):
        start = trunk.config.decoder_start_token_id
        with torch.inference_mode():
            hidden = trunk(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *response]]))[0][0, -1]
        assert float(weight[0] @ hidden) == pytest.approx(ours[row], abs=1e-4)


def encoded_all(codec: Any) -> tuple[list[list[int]], list[list[int]]]:
    return codec.encode_prompts(PROMPTS), codec.encode_responses(RESPONSES)


@EVERY
def test_dropout_is_off_even_in_training_mode(family: str, family_folder: Folder) -> None:
    rates = ("attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_dropout", "hidden_dropout")
    rates = (*rates, "dropout", "dropout_rate", "activation_dropout", "decoder_layerdrop", "encoder_layerdrop")
    folder = family_folder(family, **dict.fromkeys(rates, 0.5))
    batch = make_batch([[5, 9, 20], [12]], [[30, 31], [7, 8]], 0)
    for model in (load_language_model(folder).model, load_scorer(folder, head_seed=0).model):
        model.train()
        head = torch.nn.Linear(model.get_input_embeddings().embedding_dim, 1)
        assert torch.equal(token_values(model, batch, head), token_values(model, batch, head))


@EVERY
def test_logits_and_the_states_that_a_value_head_reads_come_of_one_pass(lm: Any) -> None:
    batch = make_batch(*encoded(lm.codec), lm.codec.pad_id)
    head = torch.nn.Linear(lm.model.config.hidden_size, 1)
    layers = (module for name, module in lm.model.named_modules() if name.endswith(".0"))
    passes: list[int] = []
    with torch.inference_mode():
        expected = response_logits(lm.model, batch), token_values(lm.model, batch, head)
        for module in layers:
            module.register_forward_hook(lambda *_: passes.append(1))
        response_logits(lm.model, batch)
        once = len(passes)
        logits, states = logits_and_states(lm.model, batch)
        values = head(states).squeeze(-1).masked_fill(~batch.response_mask, 0)
    assert len(passes) == 2 * once > 0
    mask = batch.response_mask
    torch.testing.assert_close(logits[mask], expected[0][mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values, expected[1].masked_fill(~batch.response_mask, 0), rtol=1e-5, atol=1e-5)
