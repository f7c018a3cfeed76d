from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.training import language_model, updates
from harness.training.language_model import (
    Imitation,
    TokenExample,
    _add_gradients,
    imitate,
    imitation_loss,
    total_steps,
    validation_loss,
)


@pytest.fixture
def examples(ragged):
    return [TokenExample(prompt, response) for prompt, response in zip(*ragged, strict=True)]


def settings(**changes: Any) -> Imitation:
    optimizer = OptimizerConfig(lr=1e-2, warmup=0.0)
    return Imitation(**{"epochs": 1, "batch_size": 4, "optimizer": optimizer, **changes})


def ignore(*_: Any, **__: Any) -> None:
    """Takes metrics and progress."""


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_the_loss_is_that_of_transformers_labels(make_lm, examples, hardware, architecture, train_on_prompt):
    """Right-padded whole sequences with -100 on what does not count: another layout, another code path."""
    lm = make_lm(architecture)
    lm.model.double()  # so that what differs is no rounding
    width = max(len(e.prompt) + len(e.response) for e in examples)
    ids = torch.full((5, width), lm.codec.pad_id)
    labels, attention = torch.full((5, width), -100), torch.zeros(5, width, dtype=torch.long)
    for row, (prompt, response) in enumerate(examples):
        whole = prompt + response
        ids[row, : len(whole)] = torch.tensor(whole)
        attention[row, : len(whole)] = 1
        start = 0 if train_on_prompt else len(prompt)
        labels[row, start : len(whole)] = ids[row, start : len(whole)]
    theirs = lm.model(input_ids=ids, attention_mask=attention, labels=labels).loss
    theirs.backward()
    expected = gradients(lm.model)
    lm.model.zero_grad()
    ours = imitation_loss(lm, examples, hardware, train_on_prompt=train_on_prompt)
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    for name, gradient in gradients(lm.model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_accumulation_gives_the_gradients_of_one_batch(make_lm, examples, hardware, train_on_prompt):
    lm, found = make_lm(), {}
    for size in (None, 1, 2):
        lm.model.zero_grad()
        choice = settings(micro_batch_size=size, train_on_prompt=train_on_prompt)
        found[size] = (_add_gradients(lm, examples, choice, hardware), gradients(lm.model))
    for size in (1, 2):
        assert found[size][0] == pytest.approx(found[None][0], rel=1e-5)
        for name, gradient in found[size][1].items():
            torch.testing.assert_close(gradient, found[None][1][name], atol=1e-5, rtol=1e-4)


def hold_small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass has one group alone."""
    monkeypatch.setattr(updates, "GRAPH_NUMBERS", 1)
    monkeypatch.setattr(updates, "PARAMETERS_PER_GRAPH_NUMBER", 10**9)


@pytest.mark.parametrize("shared", [1, 2])
def test_several_rounds_give_the_gradients_of_one_batch(make_lm, hardware, monkeypatch, shared):
    """Six examples of different lengths, of which every two have one prompt."""
    lm, found, passes = make_lm(), [], []
    examples = [TokenExample([5 + row // 2, 9, 8][: 1 + row // 2], [20 + row] * (1 + row)) for row in range(6)]
    whole = language_model.imitation_loss
    monkeypatch.setattr(
        language_model, "imitation_loss", lambda lm, rows, *a, **k: passes.append(len(rows)) or whole(lm, rows, *a, **k)
    )
    for small in (False, True):
        if small:
            hold_small_graphs(monkeypatch)
        lm.model.zero_grad()
        found.append((_add_gradients(lm, examples, settings(shared=shared), hardware), gradients(lm.model)))
    assert sorted(passes[:2]) == ([3, 3] if shared == 1 else [2, 4])
    assert passes[2:] == [shared] * (6 // shared)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("train_on_prompt", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_packing_gives_the_gradients_of_a_row_for_each_example(
    make_lm, examples, hardware, architecture, train_on_prompt
):
    """The mean is over tokens, of whatever example and row; micro-batches of packed rows add up as others do."""
    lm, found = make_lm(architecture, spread=2.0), []
    for packed, micro in ((None, None), (13, None), (1000, None), (13, 3), (13, 1)):
        lm.model.zero_grad()
        choice = settings(micro_batch_size=micro, train_on_prompt=train_on_prompt, packed_tokens=packed)
        found.append((_add_gradients(lm, examples, choice, hardware), gradients(lm.model)))
    for loss, packed in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for name, gradient in packed.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-4)


def test_a_packed_run_has_the_updates_of_an_unpacked_one(make_lm, hardware):
    """The same seed gives the same batches, so that losses and weights are those of the other up to rounding."""
    weights, losses = [], []
    for packed in (None, 20):
        lm, rows = make_lm(spread=1.0), []
        choice = settings(batch_size=8, packed_tokens=packed, optimizer=OptimizerConfig(lr=1e-4, eps=1e-3))
        imitate(lm, copying(40, 0), choice, hardware=hardware, seed=3, log=rows.append, advance=ignore)
        weights.append(torch.cat([p.detach().flatten() for p in lm.model.parameters()]))
        losses.append([row["loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_responses_that_share_a_prompt_give_the_gradients_of_separate_ones(make_lm, ragged, hardware, architecture):
    lm, (prompts, responses) = make_lm(architecture), ragged
    examples = [TokenExample(prompt, response) for prompt in prompts[:3] for response in responses[:2]]
    found = []
    for shared in (1, 2):
        lm.model.zero_grad()
        imitation_loss(lm, examples, hardware, shared=shared).backward()
        found.append(gradients(lm.model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_groups_of_examples_stay_together(make_lm, ragged, hardware, monkeypatch, batch_size):
    seen: list[list[TokenExample]] = []

    def note(lm, examples, settings, hardware):
        seen.append(list(examples))
        return 1.0

    monkeypatch.setattr("harness.training.language_model._add_gradients", note)
    monkeypatch.setattr("harness.training.updates.Updates.step", lambda self: 0.0)
    examples = [TokenExample(prompt, [number, 0]) for prompt in ragged[0][:4] for number in (40, 41, 42)]
    group = settings(batch_size=batch_size, shared=3, epochs=3)
    imitate(make_lm(), examples, group, hardware=hardware, seed=1, log=ignore, advance=ignore)
    for batch in seen:
        assert len(batch) == max(batch_size // 3, 1) * 3
        for start in range(0, len(batch), 3):
            assert len({tuple(example.prompt) for example in batch[start : start + 3]}) == 1
            assert [example.response[0] for example in batch[start : start + 3]] == [40, 41, 42]


def test_every_token_weighs_the_same_however_long_its_example_is(make_lm, examples, hardware):
    lm = make_lm()
    with torch.inference_mode():
        whole = float(imitation_loss(lm, examples, hardware))
        sums = [float(imitation_loss(lm, [e], hardware)) * len(e.response) for e in examples]
    assert whole == pytest.approx(sum(sums) / sum(len(e.response) for e in examples), rel=1e-5)


def test_validation_loss_does_not_depend_on_the_batches(make_lm, examples, hardware):
    lm = make_lm()
    with torch.inference_mode():
        whole = float(imitation_loss(lm, examples, hardware))
    for size in (1, 2, 256):
        assert validation_loss(lm, examples, hardware, batch_size=size) == pytest.approx(whole, rel=1e-5)


def test_training_leaves_prompts_alone_unless_told(make_lm, hardware):
    """With one response token, EOS, only logits at the prompt's last token are trained."""
    lm = make_lm()
    plain = imitation_loss(lm, [TokenExample([5, 9, 20], [0])], hardware)
    logits = lm.model(torch.tensor([[5, 9, 20, 0]])).logits[0]
    assert float(plain.detach()) == pytest.approx(-float(logits[2].log_softmax(-1)[0].detach()), rel=1e-5)
    both = imitation_loss(lm, [TokenExample([5, 9, 20], [0])], hardware, train_on_prompt=True)
    terms = [-float(logits[t].log_softmax(-1)[token].detach()) for t, token in enumerate([9, 20, 0])]
    assert float(both.detach()) == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_steps_of_an_epoch():
    assert total_steps(10, settings(epochs=2)) == 6
    assert total_steps(10, settings(epochs=0.5)) == 2
    assert total_steps(3, settings(epochs=0.1)) == 1
    assert total_steps(10, settings(epochs=5, max_steps=4)) == 4


def test_steps_count_whole_groups_as_batches_hold_them():
    assert total_steps(24, settings(batch_size=10, shared=4, epochs=1)) == 3  # batches of 8
    assert total_steps(24, settings(batch_size=2, shared=4, epochs=1)) == 6  # of one group, 4


def copying(count: int, seed: int) -> list[TokenExample]:
    """Copy two tokens in reverse order: nothing but the prompt tells the response."""
    tokens = torch.randint(10, 16, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return [TokenExample([5, *pair, 6], [*pair[::-1], 0]) for pair in tokens]


def test_it_learns_to_copy(make_lm, hardware):
    lm = make_lm(width=32)
    before = validation_loss(lm, copying(50, seed=1), hardware)
    rows: list[Any] = []
    steps: list[int] = []

    def advance(count: int, **_: Any) -> None:
        steps.append(count)

    result = imitate(
        lm,
        copying(256, seed=0),
        settings(epochs=15, batch_size=32),
        hardware=hardware,
        seed=0,
        log=rows.append,
        advance=advance,
    )
    after = validation_loss(lm, copying(50, seed=1), hardware)
    assert before > math.log(100)
    assert after < 0.05
    assert result["steps"] == 120 == sum(steps)
    assert result["tokens"] == 120 * 32 * 3 == rows[-1]["tokens"]
    assert result["loss"] < 0.1
    assert rows[0]["loss"] > 3
    assert [row["step"] for row in rows] == [0, 25, 50, 75, 100, 119]


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(make_lm, hardware):
    weights = []
    for seed in (3, 3, 4):
        lm = make_lm(spread=1.0)
        imitate(lm, copying(40, 0), settings(), hardware=hardware, seed=seed, log=ignore, advance=ignore)
        weights.append(torch.cat([p.detach().flatten() for p in lm.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("rounds", [1, 2])
def test_halves_at_the_same_time_give_the_weights_of_one_after_the_other(make_lm, monkeypatch, rounds):
    """Also where a batch has several rounds of them."""
    if rounds > 1:
        hold_small_graphs(monkeypatch)
    weights = []
    for workers in (1, 2, 2):
        lm, hardware = make_lm(spread=1.0), Hardware("cpu", "fp32", 1, workers)
        imitate(lm, copying(40, 0), settings(), hardware=hardware, seed=3, log=ignore, advance=ignore)
        weights.append(torch.cat([p.detach().flatten() for p in lm.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_a_run_that_blows_up_says_so(make_lm, hardware):
    lm = make_lm()
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[10:16] = math.nan
    with pytest.raises(RunFailed, match=r"gradient norm is nan at update 0: lower the learning rate"):
        imitate(lm, copying(8, 0), settings(), hardware=hardware, seed=0, log=ignore, advance=ignore)
