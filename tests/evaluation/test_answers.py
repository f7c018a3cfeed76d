"""What rows answer: the reranked samples, and what they are compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.config import EvaluationConfig
from harness.data.prompts import CutReport
from harness.evaluation import answers
from harness.evaluation.answers import best_of_n
from harness.evaluation.stage import Scored, _gain, score
from harness.rollouts.sampler import Rollout
from harness.types import Outputs

SAMPLES = [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
SCORES = [[0.5, 2.0, 2.0], [1.0, -1.0, 0.0]]


def job() -> Any:
    return SimpleNamespace(config=SimpleNamespace(evaluation=EvaluationConfig(best_of_n=3, resamples=100)))


def test_the_best_liked_sample_of_each_prompt_and_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = Rollout([[7, i] for i in range(6)], [i != 2 for i in range(6)], np.zeros((6, 2)))  # type: ignore[arg-type]

    def drawn(*_: Any, **__: Any) -> Any:
        return [[1]] * 3 + [[2]] * 3, rollout

    monkeypatch.setattr(answers, "samples_per_prompt", drawn)
    codec = SimpleNamespace(decode=lambda tokens: [SAMPLES[ids[1] // 3][ids[1] % 3] for ids in tokens])
    reward: Any = SimpleNamespace(scores=lambda prompts, tokens: np.array(SCORES).flatten())
    policy: Any = SimpleNamespace(codec=codec)
    best, first = best_of_n(job(), policy, reward, [], 3, seed=0)
    assert best == Outputs(["a1", "b0"], [[7, 1], [7, 3]], [True, True])  # of equals the first
    assert first == Outputs(["a0", "b0"], [[7, 0], [7, 3]], [True, True])


def test_the_gain_is_over_one_sample_and_equal_responses_are_ties() -> None:
    def scored(texts: list[str], judge: list[float]) -> Scored:
        return Scored(Outputs(texts, [[1]] * len(texts), [True] * len(texts)), np.array(judge), {})

    first = scored(["a0", "b0"], [0.0, 3.0])
    assert _gain(job(), first, first, ["p", "q"]) == {"n": 3, "win_rate": {"value": 50.0, "low": 50.0, "high": 50.0}}
    gain = _gain(job(), scored(["a1", "b0"], [1.0, 3.0]), first, ["p", "q"])
    assert gain is not None
    assert gain["win_rate"]["value"] == 75.0  # one won, one tied
    assert _gain(job(), Scored(first.outputs, None, {}), first, ["p", "q"]) is None


def test_what_is_cut_of_test_prompts_for_the_judge_is_kept() -> None:
    cuts = CutReport(cut_share=0.5, lost_answer_share=0.25)
    reading: Any = SimpleNamespace(prompts=lambda examples, codec: (["p"], cuts), world=None)
    judge: Any = SimpleNamespace(codec=None, score_texts=lambda *_, **__: np.array([1.0]))
    outputs = Outputs(["a"], [[1]], [True])
    assert score(reading, [], outputs, judge).judge_cuts == cuts
    assert score(reading, [], outputs, None).judge_cuts is None
