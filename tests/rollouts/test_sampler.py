from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from harness.hardware import Hardware
from harness.models.forward import make_batch, response_logits
from harness.models.kernels import use_fast_kernels
from harness.rollouts.native_engine import choose, drawn, kept
from harness.rollouts.sampler import Sampling, sample
from harness.training.token_logprobs import sequence_logprobs

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])


def run(model: Any, codec: Any, prompts: list[list[int]], settings: Sampling, seed: int = 3) -> Any:
    return sample(model, prompts, settings, eos_id=codec.eos_id, pad_id=codec.pad_id, seed=seed)


@pytest.fixture
def ending_model(make_model, codec):
    """A causal model that ends about every sixth time: its output layer gets a bias towards EOS."""

    def make(architecture: str, seed: int = 0, *, greedy: bool = False) -> Any:
        model = make_model(architecture, seed=seed, spread=12.0)
        contexts = torch.randint(2, 200, (64, 5), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logits = model(contexts).logits[:, -1]
            bias = torch.zeros(logits.shape[1])
            level = logits.amax(-1) if greedy else logits.logsumexp(-1) - 1.6
            bias[codec.eos_id] = (level - logits[:, codec.eos_id]).quantile(0.15 if greedy else 0.5)
        model.lm_head.bias = torch.nn.Parameter(bias)
        return model

    return make


@ARCHITECTURES
def test_greedy_equals_transformers_generate_on_left_padded_prompts(ending_model, codec, ragged, architecture):
    prompts, length, ends = [*ragged[0], *ragged[1], [50, 51, 52]], 10, 0
    for seed in range(3):
        model = ending_model(architecture, seed, greedy=True)
        ours = run(model, codec, prompts, Sampling(length, temperature=0))
        inputs = codec.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")
        theirs = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=codec.eos_id,
            pad_token_id=codec.pad_id,
        )[:, inputs["input_ids"].shape[1] :].tolist()
        for tokens, ended, row in zip(ours.tokens, ours.ended, theirs, strict=True):
            assert tokens == row[: len(tokens)]
            assert set(row[len(tokens) :]) <= {codec.pad_id}
            assert ended == (codec.eos_id in row)
        ends += sum(ours.ended)
    assert 0 < ends < 3 * len(prompts), "rows that end and rows that do not were both compared"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_of_several_tokens_ends_a_response(ending_model, codec, ragged, temperature):
    """Up to the first of them, what is sampled is what is sampled without; greedy as by transformers' ``generate``."""
    prompts, model = [*ragged[0], *ragged[1]] * 3, ending_model("gpt2", greedy=temperature == 0)
    settings, ids = Sampling(12, temperature=temperature), {"pad_id": codec.pad_id, "seed": 3}
    whole = sample(model, prompts, settings, eos_id=-1, **ids)
    stops = sorted({tokens[4] for tokens in whole.tokens})[:3]
    some = sample(model, prompts, settings, eos_id=stops, **ids)
    for ours, all_of_it, ended in zip(some.tokens, whole.tokens, some.ended, strict=True):
        first = next((place for place, token in enumerate(all_of_it) if token in stops), len(all_of_it))
        assert ours == all_of_it[: first + 1]
        assert ended == (first < len(all_of_it))
    ends = {tokens[-1] for tokens, ended in zip(some.tokens, some.ended, strict=True) if ended}
    assert len(ends) > 1, "more than one of them was met"
    if temperature == 0:
        inputs = codec.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")
        config = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": stops, "pad_token_id": codec.pad_id}
        theirs = model.generate(**inputs, **config)[:, inputs["input_ids"].shape[1] :].tolist()
        assert [row[: len(ours)] for ours, row in zip(some.tokens, theirs, strict=True)] == some.tokens
        assert all(set(row[len(ours) :]) <= {codec.pad_id} for ours, row in zip(some.tokens, theirs, strict=True))


@ARCHITECTURES
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_equal_one_scoring_pass(ending_model, codec, ragged, architecture, temperature):
    prompts = ragged[0] * 6
    rollout = run(ending_model(architecture), codec, prompts, Sampling(12, temperature=temperature))
    batch = make_batch(prompts, rollout.tokens, codec.pad_id)
    with torch.inference_mode():
        logits = response_logits(ending_model(architecture), batch)
    scored = sequence_logprobs(logits, batch.response, temperature or 1.0)
    size = batch.response_mask.shape[1]
    assert rollout.logprobs.shape == (30, 12)
    sampled = rollout.logprobs[:, :size]
    assert float((scored - sampled)[batch.response_mask].abs().max()) < 1e-4
    assert (sampled[~batch.response_mask] == 0).all()
    assert (rollout.logprobs[:, size:] == 0).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_empty_prompt_is_answered_as_it_is_scored(ending_model, codec, architecture):
    """From the pad in its column, which alone it sees."""
    prompts, eos = [[5, 9, 20], [], [12, 14]], codec.eos_id
    rollout = run(ending_model(architecture), codec, prompts, Sampling(1))
    batch = make_batch(prompts, rollout.tokens, codec.pad_id)
    with torch.inference_mode():
        scored = sequence_logprobs(response_logits(ending_model(architecture), batch), batch.response)
    assert rollout.logprobs.isfinite().all()
    torch.testing.assert_close(rollout.logprobs, scored, rtol=0, atol=1e-4)
    longer = run(ending_model(architecture), codec, prompts, Sampling(6))
    assert longer.logprobs.isfinite().all()
    assert all(tokens[-1] == eos or len(tokens) == 6 for tokens in longer.tokens)


@ARCHITECTURES
def test_a_row_does_not_depend_on_its_neighbours_or_the_batch_size(ending_model, codec, ragged, architecture):
    model, prompts = ending_model(architecture), ragged[0] * 4
    whole = run(model, codec, prompts, Sampling(12))
    for size in (1, 3, 7):
        pieces = run(model, codec, prompts, Sampling(12, batch_size=size))
        assert pieces.tokens == whole.tokens
        assert float((pieces.logprobs - whole.logprobs).abs().max()) < 1e-4
    fewer = run(model, codec, prompts[:9], Sampling(12))
    assert fewer.tokens == whole.tokens[:9], "the same row number, the same draws"
    others = run(model, codec, [*prompts[:9], *([[60, 61, 62, 63] * 3] * 5)], Sampling(12))
    assert others.tokens[:9] == whole.tokens[:9]


def test_the_seed_decides_and_the_global_stream_is_left_alone(ending_model, codec, ragged):
    model, prompts = ending_model("gpt2"), ragged[0] * 3
    torch.manual_seed(1)
    first = run(model, codec, prompts, Sampling(8), seed=5).tokens
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    assert run(model, codec, prompts, Sampling(8), seed=5).tokens == first
    assert run(model, codec, prompts, Sampling(8), seed=6).tokens != first


def test_equal_prompts_get_different_samples(ending_model, codec):
    tokens = run(ending_model("gpt2"), codec, [[9, 9]] * 12, Sampling(6)).tokens
    assert len({tuple(row) for row in tokens}) > 6


def test_nothing_follows_eos_and_ended_says_so(ending_model, codec, ragged):
    rollout = run(ending_model("gpt2"), codec, ragged[0] * 12, Sampling(10))
    assert 5 < sum(rollout.ended) < 60
    for row, (tokens, ended) in enumerate(zip(rollout.tokens, rollout.ended, strict=True)):
        assert 1 <= len(tokens) <= 10
        assert codec.eos_id not in tokens[:-1]
        assert ended == (tokens[-1] == codec.eos_id)
        assert ended or len(tokens) == 10
        assert (rollout.logprobs[row, : len(tokens)] < 0).all()
        assert (rollout.logprobs[row, len(tokens) :] == 0).all()


def test_eos_at_the_first_step_and_at_the_limit(make_model, codec):
    """All rows end at once, and a limit of one token that is EOS is still an end."""
    model = make_model("gpt2")
    for limit in (1, 4):
        logits = torch.full((1, 1, len(codec)), -50.0)
        logits[..., codec.eos_id] = 50.0
        rollout = run(Fixed(model, logits), codec, [[5], [6, 7]], Sampling(limit))
        assert rollout.tokens == [[codec.eos_id]] * 2
        assert rollout.ended == [True, True]


def test_no_prompts_no_responses(make_model, codec):
    rollout = run(make_model("gpt2"), codec, [], Sampling(4))
    assert (rollout.tokens, rollout.ended, rollout.logprobs.shape) == ([], [], (0, 4))


class Fixed:
    """A causal model whose next-token logits are always the same."""

    def __init__(self, model: Any, logits: torch.Tensor) -> None:
        self.model, self.logits, self.config, self.device = model, logits, model.config, model.device
        self.base_model = model.base_model

    def __call__(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.logits = self.logits.expand(out.logits.shape[0], 1, -1)
        return out


P = [0.5, 0.25, 0.15, 0.07, 0.03]
"""Next-token probabilities of five tokens; temperature T makes them p^(1/T), normalised."""


def normalised(weights: list[float]) -> list[float]:
    return [weight / math.fsum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Sampling(1), P),
        (Sampling(1, temperature=0.5), normalised([p**2 for p in P])),
        (Sampling(1, temperature=2.0), normalised([p**0.5 for p in P])),
        (Sampling(1, top_k=2), [2 / 3, 1 / 3, 0, 0, 0]),
        (Sampling(1, top_k=1), [1, 0, 0, 0, 0]),
        (Sampling(1, top_k=9), P),
        # 0.5 + 0.25 < 0.8 <= 0.9: the third token crosses the line and stays.
        (Sampling(1, top_p=0.8), [*normalised(P[:3]), 0, 0]),
        (Sampling(1, top_p=0.4), [1, 0, 0, 0, 0]),
        # Temperature first (weights 0.25, 0.0625, 0.0225, ...), then top-k, then top-p of what is left: 0.746 of 1.
        (Sampling(1, temperature=0.5, top_k=3, top_p=0.74), [1, 0, 0, 0, 0]),
        (Sampling(1, temperature=0.5, top_k=3, top_p=0.75), [*normalised([0.25, 0.0625]), 0, 0, 0]),
        (Sampling(1, temperature=0.0), [1, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_tokens_follow_the_distribution(settings, expected):
    """20,000 equally spaced draws through the inverse distribution function hit each share to one draw per boundary."""
    n = 20_000
    logits = torch.tensor(P).log().expand(n, -1)
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = choose(logits, uniforms, settings)
    counts = Counter(tokens.tolist())
    for token, share in enumerate(expected):
        assert counts[token] / n == pytest.approx(share, abs=2e-4)
        if share == 0:
            assert counts[token] == 0
    temperature = settings.temperature or 1.0
    tempered = [math.log(p) for p in normalised([p ** (1 / temperature) for p in P])]
    expected_logprobs = torch.tensor([tempered[token] for token in tokens.tolist()])
    torch.testing.assert_close(logprobs, expected_logprobs, atol=1e-5, rtol=0)


def test_the_order_of_the_vocabulary_does_not_matter_to_top_p():
    shuffled = [3, 0, 4, 1, 2]
    logits = torch.tensor([P[i] for i in shuffled]).log().expand(1000, -1)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens, _ = choose(logits, uniforms, Sampling(1, top_p=0.8))
    assert {shuffled[token] for token in tokens.tolist()} == {0, 1, 2}


def test_the_ends_of_the_unit_interval_choose_tokens_that_have_probability():
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf]).expand(2, -1)
    last = math.nextafter(1.0, 0.0)
    tokens, _ = choose(logits, torch.tensor([0.0, last], dtype=torch.float64), Sampling(1))
    assert tokens.tolist() == [1, 2]


def test_rows_that_stay_are_all_that_go_on_and_few_enough_numbers_of_them():
    """oneDNN keeps code for each number of rows that it meets."""
    numbers = set()
    for ended in range(256):
        going = torch.ones(256, dtype=torch.bool)
        going[torch.randperm(256, generator=torch.Generator().manual_seed(ended))[:ended]] = False
        rows = kept(going, half=True)
        assert torch.equal(kept(going, half=False), going.nonzero().squeeze(1))
        assert torch.equal(rows, rows.sort().values)
        assert set(going.nonzero().squeeze(1).tolist()) <= set(rows.tolist())
        assert len(rows) <= (256 - ended) * 9 / 8
        numbers.add(len(rows))
    assert len(numbers) == 15 + 4 * 8 + 1  # 1 to 15, eight between each power of two and the next, and 256


@pytest.mark.parametrize("places", [1, 63, 64, 65, 200, 2003])
def test_a_draw_is_the_first_place_beyond_its_share(places):
    """By blocks as by one running sum over all; places of no weight, whole blocks of them too, are never chosen."""
    generator = torch.Generator().manual_seed(places)
    weights = torch.rand(500, places, generator=generator) ** 8
    weights[torch.rand(500, places, generator=generator) < 0.5] = 0
    weights[:, places // 3 : 2 * places // 3] = 0
    weights[:, -1] = torch.where(weights.sum(1) == 0, 1.0, weights[:, -1])
    uniforms = torch.rand(500, generator=generator, dtype=torch.float64)
    uniforms[:100], uniforms[100:200] = 0.0, math.nextafter(1.0, 0.0)
    found = drawn(weights, uniforms)
    assert (weights.gather(1, found[:, None]) > 0).all()
    sums = weights.double().cumsum(1)
    below, target = (sums - weights).gather(1, found[:, None]), uniforms[:, None] * sums[:, -1:]
    tolerance = 1e-6 * sums[:, -1:]
    assert (below <= target + tolerance).all()
    assert (target < sums.gather(1, found[:, None]) + tolerance).all()


def test_a_row_that_is_not_numbers_still_gives_a_token():
    assert 0 <= int(drawn(torch.full((1, 100), torch.nan), torch.zeros(1, dtype=torch.float64))) < 100


def test_frequencies_of_a_whole_model_follow_its_probabilities(make_model, codec):
    """Through cache, batches and streams: 4,000 first tokens against softmax(logits / T), by chi-squared."""
    model, n, temperature = make_model("llama", spread=4.0), 4000, 1.5
    with torch.inference_mode():
        p = torch.softmax(model(torch.tensor([[9, 20, 33]])).logits[0, -1].double() / temperature, -1)
    rollout = run(model, codec, [[9, 20, 33]] * n, Sampling(1, temperature=temperature, batch_size=1000))
    counts = Counter(tokens[0] for tokens in rollout.tokens)
    likely = [token for token in range(len(p)) if p[token] * n >= 8]
    chi = sum((counts[token] - n * float(p[token])) ** 2 / (n * float(p[token])) for token in likely)
    freedom = len(likely) - 1
    assert freedom > 20
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_samples_that_share_a_prompt_are_those_of_separate_prompts(make_lm, ragged, architecture, batch_size):
    lm, repeated = make_lm(architecture), [prompt for prompt in ragged[0] for _ in range(3)]
    settings = Sampling(8, temperature=0.9, batch_size=batch_size)
    ids = {"eos_id": lm.codec.eos_id, "pad_id": lm.codec.pad_id}
    separate, shared = (sample(lm.model, repeated, settings, **ids, seed=5, shared=shared) for shared in (1, 3))
    assert shared.tokens == separate.tokens
    assert shared.ended == separate.ended
    torch.testing.assert_close(shared.logprobs, separate.logprobs, atol=1e-4, rtol=0)


@ARCHITECTURES
@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("batch_size", [2, 6, 64])
def test_batches_at_the_same_time_are_the_same_batches(make_lm, ragged, architecture, shared, batch_size):
    lm, prompts = make_lm(architecture), [prompt for prompt in ragged[0] for _ in range(3)]
    settings, made = Sampling(8, temperature=0.9, batch_size=batch_size), []
    options = {"eos_id": lm.codec.eos_id, "pad_id": lm.codec.pad_id, "seed": 5, "shared": shared}
    alone, beside = (
        sample(
            lm.model, prompts, settings, **options, hardware=Hardware("cpu", "fp32", 1, workers), advance=made.append
        )
        for workers in (1, 2)
    )
    assert sum(made) == 2 * len(prompts)
    assert (beside.tokens, beside.ended) == (alone.tokens, alone.ended)
    assert torch.equal(beside.logprobs, alone.logprobs)
    one = sample(lm.model, prompts, settings, **options)
    assert one.tokens == alone.tokens
    torch.testing.assert_close(one.logprobs, alone.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("batch_size", "shared", "whole", "half"),
    [(6, 1, 6, 3), (7, 1, 7, 3), (6, 2, 6, 2), (3, 1, 3, 1), (10, 4, 8, 4), (1, 1, 1, 1), (1, 4, 4, 4)],
)
def test_no_more_rows_at_a_time_than_the_batch_has(make_lm, batch_size, shared, whole, half, workers):
    lm, made = make_lm("gpt2"), []
    sample(
        lm.model,
        [[5, 6, 7]] * 24,
        Sampling(2, batch_size=batch_size),
        eos_id=lm.codec.eos_id,
        pad_id=lm.codec.pad_id,
        seed=1,
        hardware=Hardware("cpu", "fp32", 1, workers) if workers else None,
        shared=shared,
        advance=made.append,
    )
    assert sum(made) == 24
    assert max(made) == (half if workers else whole)


@ARCHITECTURES
@pytest.mark.parametrize("lean", [True, False])
def test_in_bf16_sampling_rounds_as_scoring_does(ending_model, codec, ragged, architecture, lean, monkeypatch):
    """All but a few logprobs are equal to the last digits; with attention in bf16 most differ."""
    if not lean:
        monkeypatch.setattr("harness.models.decoding.lean_step", lambda *_: None, raising=False)
        monkeypatch.setattr("harness.models.lean_step.lean_step", lambda *_: None)
    model, prompts = use_fast_kernels(ending_model(architecture)), ragged[0] * 12
    hardware = Hardware("cpu", "bf16", 1, 1)
    ids = {"eos_id": codec.eos_id, "pad_id": codec.pad_id}
    rollout = sample(model, prompts, Sampling(12), **ids, seed=3, hardware=hardware)
    batch = make_batch(prompts, rollout.tokens, codec.pad_id)
    with torch.inference_mode(), hardware.autocast():
        scored = sequence_logprobs(response_logits(model, batch), batch.response)
    apart = (scored - rollout.logprobs[:, : scored.shape[1]])[batch.response_mask].abs()
    assert float(apart.quantile(0.9)) < 1e-4
    assert float(apart.mean()) < 2e-3
