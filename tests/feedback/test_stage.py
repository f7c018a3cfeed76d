"""The data set's own pairs as tokens, the annotator that the configuration names, and samples of a policy."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import FeedbackConfig, RolloutConfig
from harness.context import Job
from harness.data.prompts import CutReport
from harness.feedback.annotators import Annotator
from harness.feedback.stage import encode_pairs, make_annotator, own_pairs, sample_pairs
from harness.types import Example, PairExample

CUTS = CutReport(cut_share=0.25, lost_answer_share=0.125)


class World:
    def gold_parts(self, facts: Any, response: str) -> dict[str, float]:
        return {"length": float(len(response))}


def make_job(hardware: Any = None, world: Any = None, **feedback: Any) -> Any:
    """As much of a job as feedback reads; a prompt is its fields' text."""
    job = SimpleNamespace(
        config=SimpleNamespace(
            feedback=FeedbackConfig(**{"kind": "gold", **feedback}),
            rollout=RolloutConfig(),
            task=SimpleNamespace(max_response_tokens=6),
        ),
        prompts=lambda examples, codec: ([example.fields["text"] for example in examples], CUTS),
        smooth_metric=lambda: "chrf",
        hardware=hardware,
        world=world,
    )
    job.training_sampling = partial(Job.training_sampling, job)
    return job


def pair(number: int, chosen: str, rejected: str) -> PairExample:
    return PairExample(id=str(number), fields={"text": f"the fox {number}"}, chosen=chosen, rejected=rejected)


def test_pairs_become_tokens_cut_at_the_response_limit(codec):
    given = [pair(1, "a b", "the red fox sings and sings and sings")]
    (labelled,), cuts = encode_pairs(make_job(), given, codec)
    assert (labelled.id, labelled.prompt, labelled.chosen) == ("1", "the fox 1", "a b")
    assert labelled.prompt_tokens == codec.encode_prompts(["the fox 1"])[0]
    assert labelled.chosen_tokens == codec.encode_responses(["a b"])[0]
    assert labelled.chosen_tokens[-1] == codec.eos_id
    assert labelled.rejected_tokens == codec.encode_responses([labelled.rejected])[0][:6]
    assert codec.eos_id not in labelled.rejected_tokens
    assert cuts == {**CUTS._asdict(), "response_cut_share": 0.5}  # one of two responses
    assert labelled.agrees is None, "nobody knows the utility behind it"


def test_own_pairs_are_limited_and_the_equal_ones_counted(codec):
    long = "the red fox sings and sings and sings"
    pairs = [pair(1, "a", "b"), pair(2, "a", "a"), pair(3, f"{long} here", f"{long} there"), pair(4, "b", "a")]
    collected = own_pairs(make_job(), pairs, codec, 10)
    assert [labelled.id for labelled in collected.pairs] == ["1", "4"]
    assert collected.counts() == {"pairs": 2, "equal_tokens": 2, "equal_value": 0}
    first = own_pairs(make_job(), pairs, codec, 1)
    assert first.counts() == {"pairs": 1, "equal_tokens": 0, "equal_value": 0}
    assert first.cuts["response_cut_share"] == 0
    assert collected.cuts == {**CUTS._asdict(), "response_cut_share": 0.25}  # two of eight responses
    assert own_pairs(make_job(), [], codec, 2).counts() == {"pairs": 0, "equal_tokens": 0, "equal_value": 0}


def test_own_pairs_that_are_equal_are_replaced_by_those_that_follow(codec):
    long = "the red fox sings and sings and sings"
    texts = [("a", "a")] * 5 + [("a", "b"), (long, f"{long} again"), ("b", "a"), (long, "a")]
    collected = own_pairs(make_job(), [pair(row, *both) for row, both in enumerate(texts)], codec, 2)
    assert [labelled.id for labelled in collected.pairs] == ["5", "7"]
    assert collected.counts() == {"pairs": 2, "equal_tokens": 6, "equal_value": 0}
    assert collected.cuts["response_cut_share"] == pytest.approx(2 / 16)  # of the eight pairs that were read


def test_the_annotator_is_the_configured_one():
    job = make_job(world=World(), temperature=2.0, noise=0.1, length_bias=0.3)
    annotator = make_annotator(job)
    assert (annotator.temperature, annotator.noise, annotator.length_bias) == (2.0, 0.1, 0.3)
    example = Example(id="x", fields={}, response="ab", references=["ab"], facts={"any": 1})
    assert annotator.utility(example, ["abc", ""]) == [3.0, 0.0]
    assert make_annotator(make_job(kind="metric", metric="f1")).utility(example, ["ab"]) == [10.0]
    assert make_annotator(make_job(kind="metric")).utility(example, ["ab"]) == pytest.approx([10.0]), "the task's: chrF"


def test_samples_of_the_policy_are_compared_and_their_tokens_are_kept(make_lm, codec, hardware):
    policy = make_lm()
    examples = [
        Example(id=f"x{n}", fields={"text": f"the fox {n}"}, response="", references=[], facts={"n": n})
        for n in range(6)
    ]
    seeds: list[str] = []

    def seed_for(purpose: str) -> int:
        seeds.append(purpose)
        return len(purpose)

    workspace: Any = SimpleNamespace(seed_for=seed_for)
    drawn: list[int] = []
    found: list[int] = []

    def update(pairs: int, sampled: int | None = None) -> None:
        found.append(pairs)
        drawn.extend([sampled] if sampled is not None else [])

    bar: Any = SimpleNamespace(update=update)

    def utility(example: Any, responses: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    def run(count: int) -> Any:
        job = make_job(hardware, samples_per_prompt=4)
        annotator = Annotator(utility, temperature=1e-6)
        return sample_pairs(workspace, job, policy, annotator, examples, "train", count, bar)

    collected = run(10)
    assert len(collected.pairs) == 10
    assert collected.cuts == CUTS._asdict()
    assert sum(found) == 10
    assert drawn[-1] >= 20, "two responses each"
    assert {"train/labels", "train/0/2"} <= set(seeds)
    for labelled in collected.pairs:
        assert len(labelled.chosen) > len(labelled.rejected)
        assert labelled.prompt == f"the fox {labelled.id[1:]}"
        assert labelled.prompt_tokens == codec.encode_prompts([labelled.prompt])[0]
        for text, tokens in ((labelled.chosen, labelled.chosen_tokens), (labelled.rejected, labelled.rejected_tokens)):
            assert codec.decode([tokens]) == [text], "the tokens are those that were sampled"
            assert 1 <= len(tokens) <= 6
    assert run(10).pairs == collected.pairs
    seeds.clear()
    assert len({pair.id for pair in run(4).pairs}) == 4, "as many prompts as pairs: each has its own"
    assert {"train/labels", "train/0/1"} <= set(seeds)
    assert not any(seed.endswith("/2") for seed in seeds)
