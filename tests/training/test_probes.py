from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.prompts import CutReport
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Rollout, Sampling
from harness.training.probes import Probe, sequence_kl
from harness.types import Example

SAMPLING = Sampling(6, temperature=0.8, batch_size=3)


class World:
    """Gold is the number of the prompt, so that a mix-up of rows shows."""

    def gold_parts(self, facts: Any, response: str) -> dict[str, float]:
        return {"number": float(facts["number"]), "one": 1.0}


def make_job(hardware: Any, *, world: Any = None, probe_prompts: int = 4) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(algorithm=SimpleNamespace(checks=SimpleNamespace(probe_prompts=probe_prompts))),
        prompts=lambda examples, codec: ([example.fields["text"] for example in examples], CutReport(0.0, 0.0)),
        hardware=hardware,
        world=world,
    )


EXAMPLES = [
    Example(id=str(n), fields={"text": "the fox " * (n + 1)}, response="", references=[], facts={"number": n})
    for n in range(7)
]


def test_kl_is_the_sum_of_log_ratios_at_the_sampling_temperature(make_lm, hardware, ragged, naive):
    policy, reference = make_lm(seed=0), make_lm(seed=1)
    prompts, responses = ragged
    rollout = Rollout(responses, [True] * 5, torch.zeros(5, 6))
    kl = sequence_kl(policy, reference, prompts, rollout, SAMPLING, make_job(hardware))
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected = 0.0
        with torch.inference_mode():
            logits = [lm.model(torch.tensor([prompt + response])).logits[0] for lm in (policy, reference)]
        for t, token in enumerate(response):
            ours, theirs = (naive.logprob(rows[len(prompt) - 1 + t].tolist(), token, 0.8) for rows in logits)
            expected += naive.kl_estimates(ours, theirs)[0]
        assert kl[row] == pytest.approx(expected, abs=1e-3)
    one = sequence_kl(policy, reference, prompts, rollout, Sampling(6, 0.8, batch_size=1), make_job(hardware))
    np.testing.assert_allclose(one, kl, atol=1e-3)


def test_identical_policies_have_kl_0(make_lm, hardware, ragged):
    policy = make_lm()
    rollout = Rollout(ragged[1], [True] * 5, torch.zeros(5, 6))
    assert (sequence_kl(policy, policy, ragged[0], rollout, SAMPLING, make_job(hardware)) == 0).all()


def test_a_probe_keeps_what_it_measured_and_what_was_answered(make_lm, make_scorer, hardware):
    policy, reference = make_lm(seed=2), make_lm(seed=0)
    reward = Scorer(*make_scorer(), hardware)
    probe = Probe(make_job(hardware, world=World()), reference, reward, EXAMPLES, SAMPLING, seed=4)
    first, again = probe(policy, 0), probe(policy, 5)
    assert probe.rows == [first, again]
    assert (first["iteration"], again["iteration"]) == (0, 5)
    assert {**first, "iteration": 5} == again, "fixed prompts, fixed random streams"
    assert first["gold"] == np.mean([0, 1, 2, 3]) + 1, "the first probe_prompts examples"
    assert len(first["responses"]) == len(first["ended"]) == 4
    assert first["kl"] > 1
    assert first["eos_share"] == np.mean(first["ended"])
    assert 1 <= first["length"] <= 6
    assert np.isfinite(first["proxy"])


def test_at_the_reference_kl_is_0_and_gold_may_be_unknown(make_lm, make_scorer, hardware):
    reference = make_lm()
    probe = Probe(make_job(hardware), reference, Scorer(*make_scorer(), hardware), EXAMPLES, SAMPLING, seed=4)
    row = probe(reference, 0)
    assert row["kl"] == pytest.approx(0.0, abs=1e-6)
    assert row["gold"] is None


def test_an_algorithm_without_checks_is_not_probed(make_lm, make_scorer, hardware):
    job = make_job(hardware)
    job.config.algorithm = SimpleNamespace()
    probe = Probe(job, make_lm(), Scorer(*make_scorer(), hardware), EXAMPLES, SAMPLING, seed=4)
    assert probe(make_lm(), 0) == {}
    assert probe.rows == []
