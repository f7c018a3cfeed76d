"""Which models and batches each stage holds together: the phases that its expected memory is the largest of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.config import OptimizerConfig, PPOConfig
from harness.context import Job
from harness.footprint import (
    FULL,
    HALF,
    Batch,
    Phase,
    activations,
    cache,
    copies,
    logits,
    optimiser,
    packed_masks,
    passing,
    weights,
)
from harness.models.shape import Shape
from harness.needs import needs_reward_model, packed_tokens
from harness.stages import Stage

LIBRARIES = 550e6
"""Resident bytes of Python with torch and transformers imported; a GPU has none of them."""
SCORED_ROWS = 256
"""Rows that a reward model or judge scores, and that a validation loss is measured on, at a time."""
SFT_LOGITS, PPO_LOGITS, READ_LOGITS = 3, 6, 3
"""Copies of a batch's logits at once: in SFT the logits, those of the loss's tokens and their log-softmax; in PPO the
entropy's on top; where logprobs are only read, the logits, divided by the temperature, and their log-softmax."""
CHOSEN_LOGITS = 7
"""Copies (of fp32) of one step's logits while tokens are chosen, on the CPU and in fp64."""


@dataclass(frozen=True)
class Memory:
    """The phases of one job's stages.

    Args:
        job: limits, batches and precision.
        shape: of the policy.
        judge: of the judge's language model; None where it has none.
    """

    job: Job
    shape: Shape
    judge: Shape | None = None

    @property
    def compute(self) -> int:
        return HALF if self.job.hardware.precision == "bf16" else FULL

    def batch(self, rows: int, *, shared: int = 1) -> Batch:
        task = self.job.config.task
        return Batch(rows, task.max_prompt_tokens, task.max_response_tokens, self.compute, shared)

    def phases(self, stage: Stage, *, loaded: bool) -> list[Phase]:
        """What is held together at each step of a stage; ``loaded``: it takes a finished model as it is."""
        if stage.name == self.job.config.algorithm.name:
            found = self._finished() if loaded else self._algorithm()
        else:
            phases_of = {"sft": self._sft, "feedback": self._feedback, "reward_model": self._reward_model}
            if stage.name == "judge":
                found = self._judge(loaded)
            elif stage.name in phases_of:
                found = phases_of[stage.name](loaded)
            else:
                found = self._evaluation(stage.config.get("row"))
        base = 0.0 if self.job.hardware.device.startswith("cuda") else LIBRARIES
        return [{**phase, "libraries": base} for phase in (found or [{}])]

    # -- stages ----------------------------------------------------------------------------------------------------

    def _sft(self, loaded: bool) -> list[Phase]:
        sft, held = self.job.config.sft, {"policy": weights(self.shape.parameters)}
        rows = sft.micro_batch_size or sft.batch_size
        validation = self._read(self.shape, held, self.batch(SCORED_ROWS))
        if loaded:
            return validation
        return [
            *self._imitation(
                self.shape,
                "policy",
                sft.optimizer,
                rows,
                rows < sft.batch_size,
                prompts=sft.train_on_prompt,
                packed=packed_tokens(self.job.config),
            ),
            *validation,
        ]

    def _feedback(self, loaded: bool) -> list[Phase]:
        if self.job.config.feedback.kind == "pairs":
            return []  # the data set's own: no model is asked
        return self._sampling(
            self.shape, {"policy": weights(self.shape.parameters)}, self.job.config.rollout.batch_size
        )

    def _reward_model(self, loaded: bool) -> list[Phase]:
        config = self.job.config.reward_model
        scoring = self._scoring(self.shape, {"reward model": weights(self.shape.scorer_parameters)})
        if loaded:
            return scoring
        rows = config.micro_batch_size or config.batch_size
        trained = self._comparison(self.shape, "reward model", config.optimizer, rows, rows < config.batch_size)
        return [*trained, *scoring]

    def _judge(self, loaded: bool) -> list[Phase]:
        """The backbone learns its language first, and stays while the judge that is made from it learns to prefer."""
        config, shape = self.job.config.judge, self.judge
        if shape is None:
            return []
        scoring = self._scoring(shape, {"judge": weights(shape.scorer_parameters)})
        if loaded:
            return scoring
        backbone = {"policy": weights(shape.parameters)}
        found = self._imitation(shape, "policy", config.backbone_optimizer, config.batch_size, False)
        if config.responses == "samples":
            found += self._sampling(shape, backbone, SCORED_ROWS)
        for phase in self._comparison(shape, "judge", config.optimizer, config.batch_size, False):
            found.append({**backbone, **phase})
        return [*found, *scoring]

    def _algorithm(self) -> list[Phase]:
        """Policy, reference and reward model; PPO's value network, rollouts, scoring and updates."""
        config, shape = self.job.config, self.shape
        held = {
            "policy": weights(shape.parameters),
            "reference": weights(shape.parameters),
            "reward model": weights(shape.scorer_parameters),
        }
        ppo = config.algorithm
        if not isinstance(ppo, PPOConfig):
            return self._sampling(shape, held, config.rollout.batch_size)
        separate = ppo.value.kind == "separate"
        value = shape.scorer_parameters if separate else 0
        held["optimiser"] = optimiser(shape, shape.parameters, ppo.optimizer)
        if separate:
            held["value"] = weights(value)
            held["optimiser"] += optimiser(shape, value, ppo.optimizer)
        if ppo.checks.probes:
            held["best policy"] = weights(shape.parameters)
        return [
            *self._sampling(shape, held, min(config.rollout.batch_size, ppo.batch_size)),
            *self._read(shape, held, self.batch(ppo.micro_batch_size or ppo.minibatch_size)),
            *self._update(ppo, held, value),
        ]

    def _update(self, ppo: PPOConfig, held: Phase, value: int) -> list[Phase]:
        """The forward passes of policy and value network, whose graphs are there together, and the optimisers' step."""
        rows = ppo.micro_batch_size or ppo.minibatch_size
        batch, graphs = self.batch(rows), 2 if value else 1
        parameters = self.shape.parameters + value
        forward = {
            **held,
            "activations": graphs * activations(self.shape, batch),
            "bf16 copies": copies(parameters, self.compute),
            "logits": logits(self.shape, batch, copies=PPO_LOGITS),
        }
        gradients = {"gradients": weights(parameters)}
        return [{**forward, **(gradients if rows < ppo.minibatch_size else {})}, {**held, **gradients}]

    def _finished(self) -> list[Phase]:
        return self._sampling(self.shape, {"policy": weights(self.shape.parameters)}, 1)

    def _evaluation(self, row: Any) -> list[Phase]:
        """Answers by a policy, and the judge; a candidate is then held against the SFT policy and the reward model."""
        config, shape = self.job.config, self.shape
        judge: Phase = {} if self.judge is None else {"judge": weights(self.judge.scorer_parameters)}
        scoring = [] if self.judge is None else self._scoring(self.judge, judge)
        if row not in ("base", "sft", "sft-more", "best-of-n", None):
            return scoring
        held = {**judge, "policy": weights(shape.parameters)}
        answered = self._sampling(shape, held, config.evaluation.batch_size)
        if row in ("best-of-n", None) and needs_reward_model(config):
            held["reward model"] = weights(shape.scorer_parameters)
        if row == "best-of-n":
            answered += self._sampling(shape, held, config.rollout.batch_size)
        if row is None:
            held["reference"] = weights(shape.parameters)
            answered += self._sampling(shape, held, config.rollout.batch_size)
            answered += self._read(shape, held, self.batch(config.rollout.batch_size))
        return [*answered, *scoring]

    # -- what stages are made of -----------------------------------------------------------------------------------

    def _imitation(
        self,
        shape: Shape,
        role: str,
        config: OptimizerConfig,
        rows: int,
        accumulates: bool,
        *,
        prompts: bool = False,
        packed: int | None = None,
    ) -> list[Phase]:
        """Updates of a language model on demonstrations; gradients and graph overlap where gradients accumulate."""
        batch = self.batch(rows)
        masks = 0.0 if packed is None else packed_masks(shape, batch, packed)
        forward = {
            "activations": activations(shape, batch) + masks,
            "logits": logits(shape, batch, copies=SFT_LOGITS, prompts=prompts),
        }
        return self._trained(shape, role, config, shape.parameters, forward, accumulates)

    def _comparison(
        self, shape: Shape, role: str, config: OptimizerConfig, pairs: int, accumulates: bool
    ) -> list[Phase]:
        """Updates of a classifier on pairs of responses to one prompt."""
        forward = {"activations": activations(shape, self.batch(2 * pairs, shared=2))}
        return self._trained(shape, role, config, shape.scorer_parameters, forward, accumulates)

    def _trained(
        self, shape: Shape, role: str, config: OptimizerConfig, parameters: int, forward: Phase, accumulates: bool
    ) -> list[Phase]:
        held = {role: weights(parameters), "optimiser": optimiser(shape, parameters, config)}
        gradients = {"gradients": weights(parameters)}
        cast = {"bf16 copies": copies(parameters, self.compute)}
        return [{**held, **cast, **forward, **(gradients if accumulates else {})}, {**held, **gradients}]

    def _sampling(self, shape: Shape, held: Phase, rows: int) -> list[Phase]:
        """The prompt's pass, and the step for the last token, whose cache is the fullest."""
        batch = self.batch(rows)
        on_gpu = self.job.hardware.device.startswith("cuda")
        chosen = rows * shape.vocab_size * FULL * (1 if on_gpu else CHOSEN_LOGITS)
        last = {"cache": cache(shape, batch, grows=True), "logits": float(chosen)}
        return [self._prompt(shape, held, batch), {**held, **last}]

    def _scoring(self, shape: Shape, held: Phase) -> list[Phase]:
        """The prompt's pass, whose keys and values stay, then the response's."""
        batch = self.batch(SCORED_ROWS)
        response = passing(shape, batch._replace(prompt=0))
        grown = cache(shape, batch, grows=True)
        return [self._prompt(shape, held, batch), {**held, "activations": response, "cache": grown}]

    def _read(self, shape: Shape, held: Phase, batch: Batch) -> list[Phase]:
        """Logprobs of responses without gradient: both passes, the logits, then what is computed from those alone."""
        response = {"activations": passing(shape, batch._replace(prompt=0)), "cache": cache(shape, batch, grows=True)}
        return [
            self._prompt(shape, held, batch),
            {**held, **response},
            {**held, "cache": cache(shape, batch), "logits": logits(shape, batch, copies=1)},
            {**held, "logits": FULL * READ_LOGITS * float(batch.response_tokens * shape.vocab_size)},
        ]

    def _prompt(self, shape: Shape, held: Phase, batch: Batch) -> Phase:
        prompt = batch._replace(response=0)
        return {**held, "activations": passing(shape, prompt), "cache": cache(shape, prompt)}
