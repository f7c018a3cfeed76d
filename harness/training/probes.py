"""Held-out measurements during training: KL from SFT, proxy and gold reward, and the responses themselves.

The responses are kept, so that the judge, which training must not see, can score them afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.context import Job
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Rollout, Sampling, sample
from harness.types import Example


def sequence_kl(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[list[int]],
    rollout: Rollout,
    sampling: Sampling,
    job: Job,
) -> np.ndarray:
    """(N,) k1 = log π − log π_ref summed over each sampled sequence, nats, both at the sampling temperature.

    Args:
        policy: the model that sampled, which is asked again: rollout and scoring must agree.
        reference: the SFT policy.
        prompts: N prompts.
        rollout: the policy's responses to them.
        sampling: with the temperature.
        job: for the hardware.
    """
    import torch

    from harness.rollouts.scored import response_logprobs
    from harness.training.kl import kl_estimates, sequence_sum

    lengths = torch.tensor([len(tokens) for tokens in rollout.tokens])
    width = max([1, *lengths.tolist()])
    read: dict[str, Any] = {"temperature": sampling.temperature, "width": width, "batch_size": sampling.batch_size}
    logprobs, ref_logprobs = (
        response_logprobs(lm.model, prompts, rollout.tokens, **read, pad_id=policy.codec.pad_id, hardware=job.hardware)
        for lm in (policy, reference)
    )
    mask = torch.arange(width) < lengths[:, None]
    found: np.ndarray = sequence_sum(kl_estimates(logprobs, ref_logprobs).k1, mask).double().numpy()
    return found


class Probe:
    """Samples the policy on fixed held-out prompts with fixed random streams, and keeps a row for each call.

    Args:
        job: the candidate set-up.
        reference: the SFT policy.
        reward: the optimised reward model.
        examples: held-out examples; the first ``checks.probe_prompts`` are used.
        sampling: as in training.
        seed: of the samples.
    """

    def __init__(
        self,
        job: Job,
        reference: LanguageModel,
        reward: Scorer,
        examples: Sequence[Example],
        sampling: Sampling,
        *,
        seed: int,
    ) -> None:
        checks = getattr(job.config.algorithm, "checks", None)
        self.job, self.reference, self.reward, self.sampling, self.seed = job, reference, reward, sampling, seed
        self.examples = list(examples[: checks.probe_prompts if checks is not None else 0])
        prompts, _ = job.prompts(self.examples, reference.codec)
        self.prompts = reference.codec.encode_prompts(prompts)
        self.rows: list[dict[str, Any]] = []

    def __call__(self, policy: LanguageModel, iteration: int) -> dict[str, Any]:
        """Measure now: ``kl`` (nats per sequence), ``proxy``, ``gold`` (None: unknown), ``eos_share``, ``length``."""
        if not self.prompts:
            return {}
        codec = policy.codec
        rollout = sample(
            policy.model,
            self.prompts,
            self.sampling,
            eos_id=codec.stop_ids,
            pad_id=codec.pad_id,
            seed=self.seed,
            hardware=self.job.hardware,
        )
        responses = codec.decode(rollout.tokens)
        world = self.job.world
        golds = (
            [
                sum(world.gold_parts(e.facts or {}, text).values())
                for e, text in zip(self.examples, responses, strict=True)
            ]
            if world is not None
            else None
        )
        row = {
            "iteration": iteration,
            "kl": float(sequence_kl(policy, self.reference, self.prompts, rollout, self.sampling, self.job).mean()),
            "proxy": float(self.reward.scores(self.prompts, rollout.tokens).mean()),
            "gold": float(np.mean(golds)) if golds is not None else None,
            "eos_share": float(np.mean(rollout.ended)),
            "length": float(np.mean([len(ids) for ids in rollout.tokens])),
            "responses": responses,
            "ended": rollout.ended,
        }
        self.rows.append(row)
        return row
