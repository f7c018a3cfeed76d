"""Which models and batches each stage holds together: the phases that its expected memory is the largest of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from harness import holdings
from harness.config import OptimizerConfig, PPOConfig
from harness.context import Job
from harness.footprint import (
    FULL,
    HALF,
    Batch,
    Phase,
    activations,
    attended,
    cache,
    copies,
    dropped,
    logits,
    optimiser,
    packed_masks,
    passes,
    passing,
    product_copies,
    read_copies,
    together,
    weights,
)
from harness.models.decoding import PROMPTS_AT_ONCE
from harness.models.one_thread import are_small
from harness.models.shape import Shape
from harness.models.static_decoding import bucket, whole_columns
from harness.needs import needs_reward_model, packed_tokens, takes_finished_policy
from harness.rollouts.scored import ROWS_AT_ONCE
from harness.stages import Stage
from harness.training.updates import graph_tokens

LIBRARIES = 550e6
"""Resident bytes of Python with torch and transformers imported, 410e6 of them, and with a controlled world's examples
read; a GPU has none of them."""
SCORED_ROWS = 256
"""Rows that a reward model or judge scores, and that a validation loss is measured on, at a time."""
SFT_LOGITS, PPO_LOGITS, READ_LOGITS = 2, 2, 1
"""Copies of a batch's logits at once: in SFT the logits and those of the loss's tokens, or the gradients of both; in
PPO the logits and their gradient; where logprobs are only read, the logits."""
CHOSEN_LOGITS = 7
"""Copies (of fp32) of one step's logits while tokens are chosen: as many as top-p's sorting takes; without it four."""


class Learning(NamedTuple):
    """How a batch is learned from.

    Args:
        rows: whose graphs are held together.
        at_once: of how many pieces of the batch.
        accumulated: sets of gradients beside a graph.
    """

    rows: int
    at_once: int
    accumulated: int


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
        sft, shape = self.job.config.sft, self.shape.whole() if loaded else self.shape
        held = holdings.policy(shape)
        whole = sft.packing or shape.drops
        validation = self._read(shape, held, self.batch(SCORED_ROWS))
        if loaded:
            return validation
        return [
            *self._imitation(
                shape,
                held,
                sft.optimizer,
                self._learning(shape, sft.batch_size, sft.micro_batch_size, whole=whole),
                prompts=sft.train_on_prompt,
                packed=packed_tokens(self.job.config),
            ),
            *self._kept(shape, held, "policy"),
            *validation,
        ]

    def _feedback(self, loaded: bool) -> list[Phase]:
        if self.job.config.feedback.kind == "pairs":
            return []  # the data set's own: no model is asked
        return self._sampling(self.shape, self._sft_policy(), self.job.config.rollout.batch_size)

    def _reward_model(self, loaded: bool) -> list[Phase]:
        config, shape = self.job.config.reward_model, self.shape.whole() if loaded else self.shape
        held = holdings.scorer(shape, "reward model")
        scoring = self._scoring(shape, held)
        if loaded:
            return scoring
        learning = self._learning(shape, config.batch_size, config.micro_batch_size, whole=shape.drops, responses=2)
        trained = self._comparison(shape, held, config.optimizer, learning)
        return [*trained, *self._kept(shape, held, "reward model", scorer=True), *scoring]

    def _judge(self, loaded: bool) -> list[Phase]:
        """The backbone learns its language first, and stays while the judge that is made from it learns to prefer.

        With adapters, both are on one base.
        """
        config, shape = self.job.config.judge, self.judge
        if shape is None:
            return []
        if loaded:
            return self._scoring(shape.whole(), holdings.scorer(shape.whole(), "judge"))
        backbone, judge = holdings.policy(shape), holdings.scorer(shape, "judge")
        learning = self._learning(shape, config.batch_size, None, whole=shape.drops)
        found = self._imitation(shape, backbone, config.backbone_optimizer, learning)
        if config.responses == "samples":
            found += self._sampling(shape, backbone, SCORED_ROWS)
        both = together(backbone, holdings.beside(shape, "judge", scorer=True))
        learning = self._learning(shape, config.batch_size, None, whole=shape.drops, responses=2)
        found += self._comparison(shape, both, config.optimizer, learning)
        return [*found, *self._kept(shape, judge, "judge", scorer=True), *self._scoring(shape, judge)]

    def _algorithm(self) -> list[Phase]:
        """Policy, reference and reward model; PPO's value network, rollouts, scoring and updates."""
        config, shape = self.job.config, self.shape
        ppo = config.algorithm if isinstance(config.algorithm, PPOConfig) else None
        separate = ppo is not None and ppo.value.kind == "separate"
        roles = together(
            holdings.policy(shape), holdings.beside(shape, "reference"), self._reward_model_beside(valued=separate)
        )
        kept = self._kept(shape, roles, "policy")
        if ppo is None:
            return [*self._sampling(shape, roles, config.rollout.batch_size), *kept]
        value = shape.scorer_trained if separate else 0
        moments = optimiser(shape, shape.trained, ppo.optimizer)
        moments += optimiser(shape, value, ppo.optimizer) if separate else 0.0
        held = together(
            roles,
            holdings.beside(shape, "value", scorer=True) if separate else {},
            {"best policy": weights(shape.trained)} if ppo.checks.probes else {},
            {"optimiser": moments},
        )
        rows = min(config.rollout.batch_size, ppo.batch_size)
        read = self.batch(self._at_once(ppo.micro_batch_size or ppo.minibatch_size))
        if config.rollout.engine == "compiled":
            held = together(held, self._compiled(shape, rows))
        return [
            *self._sampling(shape, held, rows),
            *self._read(shape, self._cast(shape, held), read),
            *self._update(ppo, held, value),
            *kept,
        ]

    def _update(self, ppo: PPOConfig, held: Phase, value: int) -> list[Phase]:
        """The updates of policy and value network: one after the other, or both at the same time where they run so."""
        rows, shape = ppo.micro_batch_size or ppo.minibatch_size, self.shape
        if ppo.micro_batch_size is None:
            both = shape.parameters * (2 if shape.adapters is None else 1)  # with the reference, or the reward model
            rows = self._rows_per_pass(shape, ppo.minibatch_size, self._tokens(), parameters=both)
        batch, accumulates = self.batch(rows), rows < ppo.minibatch_size

        def learner(trained: int, scores: float, *, output: bool = True) -> tuple[Phase, Phase]:
            """A forward pass with its graph, and the optimiser's step."""
            graph = {"activations": activations(shape, batch) + self._attended(shape, batch), "logits": scores}
            gradients = {"gradients": weights(trained)}
            cast = {"bf16 copies": self._copies(shape, trained, output=output)}
            return {**graph, **cast, **(gradients if accumulates else {})}, gradients

        learners = [learner(shape.trained, logits(shape, batch, copies=PPO_LOGITS))]
        if value:
            learners.append(learner(value, 0.0, output=False))
        if self.job.hardware.at_once(len(learners)):
            return [together(held, *moment) for moment in product(*learners)]
        return [together(held, moment) for each in learners for moment in each]

    def _finished(self) -> list[Phase]:
        shape = self.shape.whole()
        return self._sampling(shape, holdings.policy(shape), 1)

    def _evaluation(self, row: Any) -> list[Phase]:
        """Answers by a policy, and the judge; a candidate is then held against the SFT policy and the reward model."""
        config, shape = self.job.config, self.shape
        judge: Phase = {} if self.judge is None else self._judge_held(self.judge)
        scoring = [] if self.judge is None else self._scoring(self.judge, judge)
        if row not in ("base", "sft", "sft-more", "best-of-n", None):
            return scoring
        held = together(judge, self._row_policy(row))
        if config.evaluation.engine == "compiled":
            held = together(held, self._compiled(shape, config.evaluation.batch_size))
        answered = self._sampling(shape, held, config.evaluation.batch_size)
        if row in ("best-of-n", None) and needs_reward_model(config):
            held = together(held, self._reward_model_beside())
        if row == "best-of-n":
            answered += self._sampling(shape, held, config.rollout.batch_size)
        if row is None:
            held = together(held, self._reference())
            answered += self._sampling(shape, held, config.rollout.batch_size)
            answered += self._read(shape, held, self.batch(min(config.rollout.batch_size, ROWS_AT_ONCE)))
        return [*answered, *scoring]

    # -- which models stages find ----------------------------------------------------------------------------------

    def _sft_policy(self) -> Phase:
        """The SFT policy; one that was given is a base without an adapter."""
        return holdings.policy(self.shape, adapted=self.job.config.sft.source == "train")

    def _reference(self) -> Phase:
        """The same beside a candidate's policy, on its base; a finished policy is whole and has none to share."""
        if self.shape.adapters is not None and takes_finished_policy(self.job.config):
            return self._sft_policy()
        return holdings.beside(self.shape, "reference", adapted=self.job.config.sft.source == "train")

    def _row_policy(self, row: Any) -> Phase:
        """The model that a row answers with."""
        if row is None and takes_finished_policy(self.job.config):
            return holdings.policy(self.shape.whole())
        if row in ("sft", "best-of-n"):
            return self._sft_policy()
        return holdings.policy(self.shape, adapted=row != "base")

    def _reward_model_beside(self, *, valued: bool = False) -> Phase:
        """The reward model beside a policy; a given one is whole, with an adapter where the value starts from it."""
        if self.job.config.reward_model.source == "train":
            return holdings.beside(self.shape, "reward model", scorer=True)
        whole = holdings.beside(self.shape.whole(), "reward model", scorer=True)
        adapter = holdings.beside(self.shape, "reward model", scorer=True) if valued and self.shape.adapters else {}
        return together(whole, adapter)

    def _judge_held(self, shape: Shape) -> Phase:
        return holdings.judge(shape if self.job.config.judge.source == "train" else shape.whole())

    # -- what stages are made of -----------------------------------------------------------------------------------

    def _at_once(self, rows: int) -> int:
        """Of rows that are worked on in pieces: those that are there at the same time."""
        hardware = self.job.hardware
        return rows if hardware.at_once(hardware.pieces) else -(-rows // hardware.pieces)

    def _tokens(self, responses: int = 1) -> int:
        """Of a prompt and so many responses."""
        task = self.job.config.task
        return task.max_prompt_tokens + responses * task.max_response_tokens

    def _learning(
        self, shape: Shape, batch: int, micro_batch: int | None, *, whole: bool, responses: int = 1
    ) -> Learning:
        if micro_batch is not None or whole:
            rows = micro_batch or batch
            return Learning(rows, 1, int(rows < batch))
        hardware = self.job.hardware
        at_once = min(hardware.pieces, batch)
        rows = self._rows_per_pass(shape, batch, self._tokens(responses), at_once)
        several = rows * at_once < batch
        sets = 1 + several if at_once > 1 else int(several)
        held = at_once if hardware.at_once(at_once) else 1
        return Learning(min(rows * held, batch), held, sets)

    def _rows_per_pass(
        self, shape: Shape, batch: int, tokens: int, at_once: int = 1, *, parameters: int | None = None
    ) -> int:
        """Rows at the limits with as many tokens as any pass has: of shorter ones there may be more."""
        rows = -(-batch // at_once)
        if self.job.hardware.device != "cpu":
            return rows
        most = graph_tokens(shape.features, shape.parameters if parameters is None else parameters)
        return min(rows, -(-most // (tokens * at_once)))

    def _imitation(
        self,
        shape: Shape,
        held: Phase,
        config: OptimizerConfig,
        learning: Learning,
        *,
        prompts: bool = False,
        packed: int | None = None,
    ) -> list[Phase]:
        """Updates of a language model on demonstrations; gradients and graph overlap where gradients accumulate."""
        batch = self.batch(learning.rows)
        masks = 0.0 if packed is None else packed_masks(shape, self._attending(batch), packed)
        trunk = shape if packed is None else shape._replace(copied=False)  # packed rows need no cache
        forward = {
            "activations": activations(trunk, batch)
            + self._attended(shape, batch, apart=packed is None)
            + dropped(shape, batch)
            + masks,
            "logits": logits(shape, batch, copies=SFT_LOGITS, prompts=prompts),
        }
        cast = self._copies(shape, shape.trained, at_once=learning.at_once)
        return self._trained(shape, held, config, shape.trained, {**forward, "bf16 copies": cast}, learning)

    def _comparison(self, shape: Shape, held: Phase, config: OptimizerConfig, learning: Learning) -> list[Phase]:
        """Updates of a classifier on pairs of responses to one prompt."""
        batch = self.batch(2 * learning.rows, shared=2)
        graph = activations(shape, batch, scored=True) + self._attended(shape, batch) + dropped(shape, batch)
        forward = {"activations": graph}
        cast = self._copies(shape, shape.scorer_trained, at_once=learning.at_once, output=False)
        return self._trained(shape, held, config, shape.scorer_trained, {**forward, "bf16 copies": cast}, learning)

    def _trained(
        self,
        shape: Shape,
        held: Phase,
        config: OptimizerConfig,
        trained: int,
        forward: Phase,
        learning: Learning,
    ) -> list[Phase]:
        held = {**held, "optimiser": optimiser(shape, trained, config)}
        gradients = {"gradients": weights(trained)}
        beside = {"gradients": learning.accumulated * weights(trained)} if learning.accumulated else {}
        return [{**held, **forward, **beside}, {**held, **gradients}]

    def _copies(self, shape: Shape, trained: int, *, at_once: int = 1, output: bool = True) -> float:
        """Weights as autocast casts them for so many batches at once, and keeps them for the gradient.

        It does so once per batch for those that are trained, but for each product on a CPU and where they are frozen.
        """
        frozen = product_copies(shape, self.compute, output=output)
        if not self._on_cpu:
            return copies(trained, self.compute) + (0.0 if shape.adapters is None else frozen)
        adapters = 0 if shape.adapters is None else passes(shape) * shape.adapters.parameters
        return at_once * (frozen + copies(adapters, self.compute))

    def _attended(self, shape: Shape, batch: Batch, *, apart: bool = True) -> float:
        return attended(shape, batch, apart=apart) if self._on_cpu else 0.0

    def _attending(self, batch: Batch) -> Batch:
        """The batch as attention has it: on a CPU always in fp32."""
        return batch._replace(compute=FULL) if self._on_cpu else batch

    @property
    def _on_cpu(self) -> bool:
        return self.job.hardware.device == "cpu"

    def _cast(self, shape: Shape, held: Phase) -> Phase:
        """The same with all matrices of layers and the output layer cast, for many passes."""
        if "compiled steps" in held:  # which have them
            return held
        return together(held, {"bf16 copies": read_copies(shape, self.compute)})

    def _kept(self, shape: Shape, held: Phase, role: str, *, scorer: bool = False) -> list[Phase]:
        """What is held while a merged model is written."""
        lora = self.job.config.judge.model.lora if role == "judge" else self.job.config.model.lora
        if shape.adapters is None or not lora.merge:
            return []
        return [together(held, holdings.merging(shape, role, scorer=scorer))]

    def _sampling(self, shape: Shape, held: Phase, rows: int) -> list[Phase]:
        """The prompt's pass, and the step for the last token, whose cache is the fullest."""
        rows = self._at_once(rows)
        batch = self.batch(rows)
        chosen, held = rows * shape.vocab_size * FULL * CHOSEN_LOGITS, self._cast(shape, held)
        last = {"cache": cache(shape, self._attending(batch), grows=True), "logits": float(chosen)}
        first = self._prompt(shape, held, batch)
        if self._reads_prompts_in_turn(shape, batch) and "compiled steps" not in held:
            most = batch._replace(rows=min(rows, self._at_once(self.job.hardware.pieces * PROMPTS_AT_ONCE)))
            first = {**first, "activations": passing(shape, most._replace(response=0))}
        return [first, {**held, **last}]

    def _reads_prompts_in_turn(self, shape: Shape, batch: Batch) -> bool:
        """Whether so many prompts are read some at a time: see ``harness.models.lean_decoding``."""
        alike = shape.lean and self._on_cpu and shape.queries == shape.keys
        return alike and are_small(batch.prompt, batch.response, size=shape.keys // shape.heads, shared=batch.shared)

    def _compiled(self, shape: Shape, rows: int) -> Phase:
        """What compiled steps keep as long as the model is there: the cache that all batches use, and cast weights."""
        task = self.job.config.task
        batch = Batch(bucket(rows), whole_columns(task.max_prompt_tokens + task.max_response_tokens), 0, self.compute)
        return {"compiled steps": cache(shape, batch) + read_copies(shape, self.compute)}

    def _scoring(self, shape: Shape, held: Phase) -> list[Phase]:
        """The prompt's pass, whose keys and values stay, then the response's; or one pass, which keeps none."""
        batch, held = self.batch(self._at_once(SCORED_ROWS)), self._cast(shape, held)
        if shape.lean:
            return [{**held, "activations": passing(shape, batch)}]
        response = passing(shape, batch._replace(prompt=0))
        grown = cache(shape, batch, grows=True)
        return [self._prompt(shape, held, batch), {**held, "activations": response, "cache": grown}]

    def _read(self, shape: Shape, held: Phase, batch: Batch) -> list[Phase]:
        """Logprobs of responses without gradient: passes as above, logits, then what is computed from those alone."""
        held = self._cast(shape, held)
        read = {**held, "logits": FULL * READ_LOGITS * float(batch.response_tokens * shape.vocab_size)}
        if shape.lean:
            logits_made = {**held, "logits": logits(shape, batch, copies=1)}
            return [{**held, "activations": passing(shape, batch)}, logits_made, read]
        response = {"activations": passing(shape, batch._replace(prompt=0)), "cache": cache(shape, batch, grows=True)}
        return [
            self._prompt(shape, held, batch),
            {**held, **response},
            {**held, "cache": cache(shape, batch), "logits": logits(shape, batch, copies=1)},
            read,
        ]

    def _prompt(self, shape: Shape, held: Phase, batch: Batch) -> Phase:
        prompt = batch._replace(response=0)
        return {**held, "activations": passing(shape, prompt), "cache": cache(shape, prompt)}
