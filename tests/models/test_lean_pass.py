"""A lean pass against the passes over prompt and response that any model makes: outputs, gradients, who takes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lean_models import MODELS, OTHERS, gpt2, llama
from transformers import GPT2ForSequenceClassification, LlamaForSequenceClassification

from harness.config import LoraConfig
from harness.models import lean_pass
from harness.models.adapters import Base, add_adapter, dropping, trainable
from harness.models.forward import Batch, logits_and_states, make_batch, response_logits, sequence_scores, token_values
from harness.models.kernels import use_fast_kernels
from harness.models.lean_pass import lean_family

PROMPTS = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14]]
RESPONSES = [[3, 4], [44, 45, 46, 47, 48, 0], [1], [9, 8, 7, 6]]
BATCHES: dict[str, Callable[[], Batch]] = {
    "padded": lambda: make_batch(PROMPTS, RESPONSES, 0),
    "wide": lambda: make_batch(PROMPTS, RESPONSES, 0, width=9),
    "prompts of one token": lambda: make_batch([[5], [6], [7], [8]], RESPONSES, 0),
    "shared prompts": lambda: make_batch([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], RESPONSES, 0, shared=2),
}


def scorer(model: Any) -> Any:
    kind = GPT2ForSequenceClassification if model.config.model_type == "gpt2" else LlamaForSequenceClassification
    model.config.num_labels, model.config.pad_token_id = 1, 0
    return kind(model.config).eval()


def read(model: Any, batch: Batch, ask: Callable[[Any, Batch], torch.Tensor], mask: Any = None) -> list[torch.Tensor]:
    """What is asked for, and the gradient of a weighted sum of it by each parameter that has one."""
    model.zero_grad()
    found = ask(model, batch)
    found = found if mask is None else found[mask]
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return [found.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def both_ways(monkeypatch: pytest.MonkeyPatch, *asked: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    assert lean_family(asked[0]) is not None
    ours = read(*asked)
    with monkeypatch.context() as patch:
        patch.setattr(lean_pass, "FAMILIES", {})
        theirs = read(*asked)
    assert len(ours) == len(theirs) > 10
    return ours, theirs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", BATCHES)
def test_logits_and_gradients_are_those_of_two_passes(name: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batch = BATCHES[rows]()
    for ours, theirs in zip(
        *both_ways(monkeypatch, MODELS[name](), batch, response_logits, batch.response_mask), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("ask", [sequence_scores, token_values])
@pytest.mark.parametrize("rows", BATCHES)
def test_so_are_a_classifiers_scores_and_values(
    make: Callable[[], Any], ask: Any, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    batch = BATCHES[rows]()
    mask = batch.response_mask if ask is token_values else None
    for ours, theirs in zip(*both_ways(monkeypatch, scorer(make()), batch, ask, mask), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_in_bf16_a_score_and_its_gradient_are_those_of_two_passes(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    seen, attention = [], torch.nn.functional.scaled_dot_product_attention

    def note(query: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        seen.append(query.dtype)
        return attention(query, *given, **named)

    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        ways = both_ways(monkeypatch, use_fast_kernels(scorer(make())), BATCHES["padded"](), sequence_scores, None)
        for ours, theirs in zip(*ways, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02 * float(theirs.abs().max()))
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
        sequence_scores(use_fast_kernels(scorer(make())), BATCHES["padded"]())
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", BATCHES)
def test_so_are_logits_and_their_gradients(name: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows that fill up what goes through oneDNN, of which there are some here."""
    torch.manual_seed(0)
    model, batch = use_fast_kernels(MODELS[name]()), BATCHES[rows]()
    monkeypatch.setattr(lean_pass, "more_rows", lambda rows: rows + 3)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        ways = both_ways(monkeypatch, model, batch, response_logits, batch.response_mask)
    for ours, theirs in zip(*ways, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.03 * float(theirs.abs().max()))


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_take_part_in_either_precision(
    make: Callable[[], Any], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model, batch = make(), BATCHES["padded"]()
    add_adapter(model, LoraConfig(rank=2, alpha=8), Base("/base"), seed=0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if bf16 else nullcontext():
        for ours, theirs in zip(
            *both_ways(monkeypatch, model, batch, response_logits, batch.response_mask), strict=True
        ):
            close = {"rtol": 0.05, "atol": 0.02 * float(theirs.abs().max())} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_each_layer_sees_all_tokens_at_once_and_the_last_the_responses_alone(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, seen = make(), BATCHES["shared prompts"](), []
    monkeypatch.setattr(type(model), "forward", None)
    blocks = [block.mlp for block in (model.transformer.h if make is gpt2 else model.model.layers)]
    forward = type(blocks[0]).forward
    monkeypatch.setattr(type(blocks[0]), "forward", lambda self, rows: (seen.append(len(rows)), forward(self, rows))[1])
    response_logits(model, batch)
    # Of two prompts all but the last tokens, or one column; four last tokens with responses of 2, 6, 1 and 4 tokens,
    # less the column after which nothing is chosen.
    assert seen == [6 + 1 + 3 + 6 + 2 + 5, 3 + 6 + 2 + 5]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_for_a_score_the_last_layer_has_one_token_of_each_response(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, seen = scorer(make()), BATCHES["shared prompts"](), []
    blocks = [block.mlp for block in (model.transformer.h if make is gpt2 else model.model.layers)]
    forward = type(blocks[0]).forward
    monkeypatch.setattr(type(blocks[0]), "forward", lambda self, rows: (seen.append(len(rows)), forward(self, rows))[1])
    sequence_scores(model, batch)
    assert seen == [6 + 1 + 3 + 7 + 2 + 5, 4]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_goes_through_the_model(name: str) -> None:
    assert lean_family(OTHERS[name]()) is None


def test_attention_that_drops_out_or_reads_an_encoder_goes_through_the_model() -> None:
    assert lean_family(gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.1).train()) is None
    assert lean_family(gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()) is not None
    assert lean_family(llama(attention_dropout=0.1)) is not None
    assert lean_family(llama(attention_dropout=0.1).train()) is None
    assert lean_family(gpt2(add_cross_attention=True)) is None


def test_dropout_of_adapters_is_their_own() -> None:
    pytest.importorskip("peft")
    model, batch = gpt2(), BATCHES["padded"]()
    add_adapter(model, LoraConfig(rank=2, alpha=8, dropout=0.5), Base("/base"), seed=0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1)
    with dropping(model, 0):
        assert lean_family(model) is not None
        first = response_logits(model, batch)
    with dropping(model, 0):
        assert torch.equal(response_logits(model, batch), first)
    with dropping(model, 1):
        assert not torch.equal(response_logits(model, batch), first)


@pytest.mark.parametrize("name", MODELS)
def test_what_reads_without_learning_reads_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = MODELS[name](), BATCHES["shared prompts"]()
    learning = response_logits(model, batch).detach()
    with torch.inference_mode():
        torch.testing.assert_close(response_logits(model, batch), learning, rtol=0, atol=1e-6)
        monkeypatch.setattr(lean_pass, "FAMILIES", {})
        other = response_logits(model, batch)
    mask = batch.response_mask
    torch.testing.assert_close(other[mask], learning[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_logits_and_the_states_that_they_come_from_are_of_one_pass(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, batch, mask = make(), BATCHES["padded"](), BATCHES["padded"]().response_mask
    expected = response_logits(model, batch)
    asked, states_from = [], lean_pass.states_from
    monkeypatch.setattr(lean_pass, "states_from", lambda *given, **at: (asked.append(1), states_from(*given, **at))[1])
    logits, states = logits_and_states(model, batch)
    assert len(asked) == 1
    assert torch.equal(logits, expected)
    assert torch.equal(model.get_output_embeddings()(states)[mask], logits[mask])


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("prompts", "responses"),
    [
        (PROMPTS, [[3], [44], [1], [9]]),
        (PROMPTS, [[]] * 4),
        ([[5, 6], [7, 8]], RESPONSES[:2]),
        ([[], [5, 6]], [[3]] * 2),
    ],
    ids=["one token", "no response", "prompts of two tokens", "an empty prompt"],
)
def test_parts_of_a_single_column_are_read_too(
    make: Callable[[], Any], bf16: bool, prompts: Any, responses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, batch = scorer(make()), make_batch(prompts, responses, 0)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
        ours = sequence_scores(model, batch)
        monkeypatch.setattr(lean_pass, "FAMILIES", {})
        theirs = sequence_scores(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * float(theirs.abs().max()) if bf16 else 1e-5)
