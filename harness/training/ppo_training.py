"""How PPO trains a language model, readable top to bottom beside the papers.

Ziegler et al. 2019 (arXiv 1909.08593), Stiennon et al. 2020 (arXiv 2009.01325), and the details of arXiv 2403.17031.
One iteration: roll out, score, turn scores and KL into token rewards, estimate advantages, then several epochs of
clipped updates. Everything that changes from one iteration to the next is in ``PPOState``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import torch

from harness.config import PPOConfig
from harness.errors import RunFailed
from harness.hardware import Hardware, batches
from harness.memory import peak_memory_mb
from harness.models.adapters import trainable, twin
from harness.models.cast_once import cast_once
from harness.models.forward import Batch, logits_and_states, make_batch, response_logits, token_values
from harness.models.heads import read_head
from harness.rollouts.sampler import sample
from harness.training import gates
from harness.training.advantages import explained_variance, gae, whiten
from harness.training.algorithm import Result, Setup
from harness.training.experience import Experience, trim
from harness.training.kl import (
    AdaptiveKL,
    FixedKL,
    KLController,
    kl_estimates,
    missing_eos_scores,
    sequence_sum,
    token_rewards,
)
from harness.training.learners import Learner, Measured, combined, multiplications, shares, together
from harness.training.limits import CollapseMonitor
from harness.training.losses import masked_mean, policy_loss, value_loss
from harness.training.ppo import PPO
from harness.training.token_logprobs import logprobs_and_entropies, sequence_logprobs
from harness.training.updates import Updates, accumulate, rows_per_pass


@dataclass
class PPOState:
    """What changes while PPO runs, in one object.

    Args:
        policy: the model being trained.
        value: the value model: a network of its own, or the policy itself where the value is a head on its trunk.
        value_head: the linear layer on the policy's trunk; None where the value network has its own.
        updates: the policy's optimiser and schedule; with a value head, the head's too.
        value_updates: the value network's; None with a value head.
        controller: of β.
        generator: the stream that orders prompts and minibatches.
        order: prompts of the present pass that are still to come.
        iteration: iterations done.
        tokens: response tokens trained on.
    """

    policy: Any
    value: Any
    value_head: Any
    updates: Updates
    value_updates: Updates | None
    controller: KLController
    generator: torch.Generator
    order: list[int]
    iteration: int = 0
    tokens: int = 0


class PPOTraining:
    """Proximal policy optimisation with a KL penalty against the SFT policy.

    Args:
        config: ``algorithm.*``.
    """

    def __init__(self, config: PPOConfig) -> None:
        self.config, self.steps = config, PPO(config).steps()

    def train(self, setup: Setup) -> Result:
        """Train ``setup.policy`` in place. A run that leaves its limits stops with its best probe's weights."""
        config = self.config
        state = self._start(setup)
        flags = self._check_gates(setup, state)
        monitor = self._monitor(setup)
        best = (-np.inf, {}) if not config.checks.probes else self._best((-np.inf, {}), setup, state, monitor)
        reason: str | None = None
        while state.iteration < self.steps and reason is None:
            try:
                metrics = self._iterate(setup, state)
            except RunFailed as error:
                reason = str(error)
                break
            reason = monitor.reason(metrics)
            if reason is None:  # a KL that is no number has no error to follow
                state.controller.update(metrics["kl"], config.batch_size)
            setup.log({name: value if math.isfinite(value) else None for name, value in metrics.items()})
            setup.advance(1, score=metrics["score"], kl=metrics["kl"], tokens_per_second=metrics["tokens_per_second"])
            if self._probes_after(state.iteration):
                probed = self._best(best, setup, state, monitor)
                best = probed if reason is None else best  # what has left the limits is no checkpoint to keep
        if reason is not None and best[1]:
            state.policy.load_state_dict(best[1], strict=False)  # all that was trained
        return Result("ok" if reason is None else "collapsed", reason, state.tokens, flags)

    def _probes_after(self, iteration: int) -> bool:
        """Whether there is a held-out probe after this iteration, of ``checks.probes`` spread evenly up to the last."""
        due, before = (done * self.config.checks.probes // self.steps for done in (iteration, iteration - 1))
        return due > before

    def _start(self, setup: Setup) -> PPOState:
        config, policy = self.config, setup.policy.model
        total = self.steps * config.epochs * (config.batch_size // config.minibatch_size)
        controller: KLController = FixedKL(config.kl_coef)
        if config.kl.target is not None:
            controller = AdaptiveKL(config.kl_coef, config.kl.target, config.kl.horizon)
        generator = torch.Generator().manual_seed(setup.seed_for("order"))
        updates_of = partial(Updates, config=config.optimizer, total=total, hardware=setup.hardware, alone=False)
        if config.value.kind == "head":
            width = policy.get_output_embeddings().in_features  # not hidden_size, which some OPT models project from
            head = torch.nn.Linear(width, 1, device=policy.device)
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
            return PPOState(policy, policy, head, updates_of(policy, head), None, controller, generator, [])
        value = twin(setup.reward.model)
        value_updates = updates_of(value, lr=config.value.lr)
        return PPOState(policy, value, None, updates_of(policy), value_updates, controller, generator, [])

    def _iterate(self, setup: Setup, state: PPOState) -> dict[str, float]:
        """One rollout and its updates; returns what is logged (docs/logged.md defines each quantity)."""
        started = time.perf_counter()
        experience = self._experience(setup, state)
        update_started = time.perf_counter()
        metrics = {"iteration": state.iteration + 1, "lr": state.updates.lr, "kl_coef": state.controller.coef}
        metrics |= experience.metrics | self._update(setup, state, experience)
        state.iteration += 1
        tokens = int(experience.batch.response_mask.sum())
        state.tokens += tokens * self.config.epochs
        metrics["seconds_update"] = time.perf_counter() - update_started
        metrics["tokens_per_second"] = tokens / (time.perf_counter() - started)
        metrics["peak_memory_mb"] = peak_memory_mb()
        return metrics

    # -- experience ------------------------------------------------------------------------------------------------

    def _experience(self, setup: Setup, state: PPOState) -> Experience:
        config, codec = self.config, setup.policy.codec
        rows = self._next_prompts(setup, state)
        prompts = [setup.prompts[row] for row in rows]
        clock = [time.perf_counter()]
        rollout = sample(
            state.policy,
            prompts,
            setup.sampling,
            eos_id=codec.stop_ids,
            pad_id=codec.pad_id,
            seed=setup.seed_for(f"rollout/{state.iteration}"),
            hardware=setup.hardware,
        )
        clock.append(time.perf_counter())
        batch = make_batch(prompts, rollout.tokens, codec.pad_id, device=setup.hardware.device)
        mask, size = batch.response_mask, batch.response_mask.shape[1]
        logprobs = rollout.logprobs[:, :size].to(mask.device)
        ref_logprobs, values = self._read(setup, state, batch)
        proxy = torch.from_numpy(setup.reward.scores(prompts, rollout.tokens)).float().to(mask.device)
        scores = proxy
        if config.missing_eos_penalty is not None:
            ended = torch.tensor(rollout.ended, device=mask.device)
            scores = missing_eos_scores(proxy, ended, penalty=config.missing_eos_penalty)
        kl = kl_estimates(logprobs, ref_logprobs)
        penalty = kl.k3 if config.kl.estimator == "k3" else kl.k1
        rewards = token_rewards(scores, penalty, mask, kl_coef=state.controller.coef)
        if config.advantage.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        estimates = gae(rewards, values, mask, gamma=config.advantage.gamma, lam=config.advantage.lam)
        clock.append(time.perf_counter())
        kl1 = sequence_sum(kl.k1, mask)
        metrics = {
            "score": float(proxy.mean()),
            "score_std": float(proxy.std(correction=0)),
            "kl": float(kl1.mean()),
            "kl_k3": float(sequence_sum(kl.k3, mask).mean()),
            "objective": float((scores - state.controller.coef * kl1).mean()),
            "eos_share": float(np.mean(rollout.ended)),
            "response_length": float(mask.sum(1).float().mean()),
            "explained_variance": float(explained_variance(values, estimates.returns, mask)),
            "seconds_rollout": clock[1] - clock[0],
            "seconds_scoring": clock[2] - clock[1],
        }
        if setup.gold is not None:
            metrics["gold"] = float(np.mean(setup.gold(rows, codec.decode(rollout.tokens))))
        return Experience(batch, logprobs, values, whiten(estimates.advantages, mask), estimates.returns, metrics)

    def _next_prompts(self, setup: Setup, state: PPOState) -> list[int]:
        """The next batch of prompt rows: passes over all prompts, each in a fresh order."""
        while len(state.order) < self.config.batch_size:
            state.order += torch.randperm(len(setup.prompts), generator=state.generator).tolist()
        rows, state.order = state.order[: self.config.batch_size], state.order[self.config.batch_size :]
        return rows

    def _read(self, setup: Setup, state: PPOState, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, R) logprobs by the reference and (B, R) values, 0 outside the mask.

        As many rows at a time as an update reads, since the logits of all would take more memory than anything else
        does; those with prompts of similar length together, which leaves little padding.
        """
        logprobs = torch.zeros(batch.response_mask.shape, device=batch.ids.device)
        values = torch.zeros_like(logprobs)

        def read(rows: Sequence[int]) -> None:
            piece = trim(batch.rows(torch.tensor(rows)))
            mask, size = piece.response_mask, piece.response_mask.shape[1]
            with torch.inference_mode(), setup.hardware.autocast():
                logits = response_logits(setup.reference.model, piece)
                found = sequence_logprobs(logits, piece.response, setup.sampling.temperature)
                logprobs[rows, :size] = found.masked_fill(~mask, 0.0)
                del logits, found  # else they stay while the values are computed
                values[rows, :size] = self._values(setup, state, piece)

        order = (batch.mask.sum(1) - batch.response_mask.sum(1)).argsort(stable=True).tolist()
        at_once = self.config.micro_batch_size or self.config.minibatch_size
        precision = setup.hardware.precision
        with cast_once(setup.reference.model, precision), cast_once(state.value, precision):
            setup.hardware.share_out(read, batches(order, at_once, pieces=setup.hardware.pieces))
        return logprobs, values

    def _values(self, setup: Setup, state: PPOState, batch: Batch) -> torch.Tensor:
        """(B, R) values; the value network starts as the reward model, whose shift it shares."""
        values = token_values(state.value, batch, state.value_head)
        shift = 0.0 if state.value_head is not None else float(setup.reward.model.config.reward_shift)
        return (values - shift).masked_fill(~batch.response_mask, 0.0)

    # -- update ----------------------------------------------------------------------------------------------------

    def _update(self, setup: Setup, state: PPOState, experience: Experience) -> dict[str, float]:
        """Several epochs over one rollout, each in a fresh order of minibatches; returns means over all of them.

        A value network of its own shares nothing with the policy, so that both can learn at the same time. The one with
        more to compute, the policy with its output layer, has some minibatches left when the other is through: those it
        learns from in halves, at the same time, where ``micro_batch_size`` does not say otherwise.
        """
        orders = [torch.randperm(self.config.batch_size, generator=state.generator) for _ in range(self.config.epochs)]
        minibatches = [rows for order in orders for rows in order.split(self.config.minibatch_size)]  # type: ignore[no-untyped-call]
        learners = self._learners(setup, state)
        alone = [len(minibatches)] * len(learners)
        if len(learners) > 1 and setup.hardware.pieces > 1:
            alone = shares([multiplications(each.model, experience.batch) for each in learners], of=len(minibatches))
        failed = Event()

        def learn(learner: Learner, some: Sequence[torch.Tensor], halves: bool) -> list[dict[str, float]]:
            steps = []
            for rows in some:
                if failed.is_set():  # the other one, or Ctrl-C: nobody waits for the rest
                    break
                steps.append(self._learn(learner, experience, rows, hardware=setup.hardware, halves=halves))
            return steps

        works = [partial(learn, each, minibatches[:own], False) for each, own in zip(learners, alone, strict=True)]
        first = setup.hardware.beside(*works, stop=failed)
        rest = [learn(each, minibatches[own:], True) for each, own in zip(learners, alone, strict=True)]
        share = 1 / len(minibatches)
        return together([combined([*one, *other], share=share) for one, other in zip(first, rest, strict=True)])

    def _learners(self, setup: Setup, state: PPOState) -> list[Learner]:
        """What is updated apart: the policy with the head on its trunk, or the policy and the value network."""

        def policy(piece: Experience, denominator: torch.Tensor) -> Measured:
            with setup.hardware.autocast():
                logits = response_logits(state.policy, piece.batch)
            return self._policy_loss(setup, piece, denominator, logits)

        def value(piece: Experience, denominator: torch.Tensor) -> Measured:
            with setup.hardware.autocast():
                values = self._values(setup, state, piece.batch)
            return self._value_loss(piece, denominator, values)

        def joint(piece: Experience, denominator: torch.Tensor) -> Measured:
            with setup.hardware.autocast():
                logits, states = logits_and_states(state.policy, piece.batch)
                values = read_head(state.value_head, states)
            ours = self._policy_loss(setup, piece, denominator, logits)
            theirs = self._value_loss(piece, denominator, values.masked_fill(~piece.batch.response_mask, 0.0))
            return Measured(ours.loss + theirs.loss, ours.metrics | theirs.metrics)

        reference, reward = setup.reference.model, setup.reward.model
        if state.value_updates is None:
            return [Learner(joint, state.updates, state.policy, reference)]
        return [
            Learner(policy, state.updates, state.policy, reference),
            Learner(value, state.value_updates, state.value, reward),
        ]

    def _learn(
        self, learner: Learner, experience: Experience, rows: torch.Tensor, *, hardware: Hardware, halves: bool = False
    ) -> dict[str, float]:
        """One optimiser step on a minibatch, in micro-batches whose losses add up to the minibatch's."""
        denominator = experience.batch.response_mask[rows].sum().clamp(min=1)

        def learn(piece: Sequence[int]) -> dict[str, float]:
            measured = learner.loss(experience.rows(torch.tensor(piece)), denominator)
            measured.loss.backward()  # type: ignore[no-untyped-call]
            return measured.metrics

        size, model = self.config.micro_batch_size, learner.model
        tokens = 0 if size else trim(experience.batch.rows(rows)).ids.shape[1]
        if not halves:
            size = size or rows_per_pass(tokens, of=len(rows), model=model, hardware=hardware, beside=[learner.beside])
        pieces = accumulate(rows.tolist(), size, learn, model=model, hardware=hardware, tokens=tokens)
        return combined(pieces) | {"grad_norm": learner.updates.step()}

    def _policy_loss(
        self, setup: Setup, piece: Experience, denominator: torch.Tensor, logits: torch.Tensor
    ) -> Measured:
        """L_π − c_H · entropy over these rows, and what is logged of it."""
        config, mask = self.config, piece.batch.response_mask
        logprobs, entropies = logprobs_and_entropies(logits, piece.batch.response, setup.sampling.temperature)
        policy = policy_loss(
            logprobs,
            piece.logprobs,
            piece.advantages,
            mask,
            clip_range=config.clip_range,
            denominator=denominator,
        )
        loss = policy.loss
        token_entropy = masked_mean(entropies, mask, denominator=denominator)
        if config.entropy_coef:
            loss = loss - config.entropy_coef * token_entropy
        return Measured(
            loss,
            {
                "policy_loss": float(policy.loss.detach()),
                "entropy": float(token_entropy.detach()),
                "approx_kl": float(policy.approx_kl),
                "clip_fraction": float(policy.clip_fraction),
                "ratio_mean": float(policy.ratio_mean),
                "ratio_max": float(policy.ratio_max),
            },
        )

    def _value_loss(self, piece: Experience, denominator: torch.Tensor, values: torch.Tensor) -> Measured:
        """c_V · L_V over these rows, and what is logged of it."""
        config = self.config.value
        value = value_loss(
            values,
            piece.values,
            piece.returns,
            piece.batch.response_mask,
            clip_range=config.clip_range,
            denominator=denominator,
        )
        metrics = {"value_loss": float(value.loss.detach()), "value_clip_fraction": float(value.clip_fraction)}
        return Measured(config.coef * value.loss, metrics)

    # -- gates, probes, limits -------------------------------------------------------------------------------------

    def _check_gates(self, setup: Setup, state: PPOState) -> list[str]:
        """Run the gates that are not skipped; returns the flags of those that are."""
        skipped = set(self.config.checks.skip_gates)
        if "accuracy" not in skipped:
            assert setup.report_card is not None  # its stage examines every reward model
            gates.require_accuracy(setup.report_card)
        codec, prompts = setup.policy.codec, setup.prompts[: gates.ROWS]
        ids: dict[str, Any] = {"eos_id": codec.stop_ids, "pad_id": codec.pad_id}
        rollout = sample(
            state.policy, prompts, setup.sampling, **ids, seed=setup.seed_for("gates"), hardware=setup.hardware
        )
        batch = make_batch(prompts, rollout.tokens, codec.pad_id, device=setup.hardware.device)
        if "logprobs" not in skipped and setup.sampling.engine != "vllm":  # vLLM's are compared in every call
            sampled = rollout.logprobs[:, : batch.response_mask.shape[1]].numpy()
            gates.require_equal_logprobs(setup.policy, batch, sampled, setup.sampling.temperature, setup.hardware)
        if "invariance" not in skipped:
            gates.require_batch_invariance(setup.reward, prompts, rollout.tokens)
        if "eos" not in skipped:
            gates.require_score_on_eos(batch, rollout.ended, codec.stop_ids)
        if "ratio" not in skipped:
            self._check_ratio(setup, state, batch, rollout.logprobs)
        return [f"gate skipped: {name}" for name in gates.GATES if name in skipped]

    def _check_ratio(self, setup: Setup, state: PPOState, batch: Batch, sampled: torch.Tensor) -> None:
        """One step of the policy as most updates make it, at learning rate 0, on a rollout whose advantages are 1."""
        still = copy.deepcopy(self.config.optimizer)
        still.lr = 0.0
        modules = [state.policy] if state.value_head is None else [state.policy, state.value_head]
        updates = Updates(*modules, config=still, total=1, hardware=setup.hardware, alone=False)
        learner = self._learners(setup, state)[0]._replace(updates=updates)
        logprobs = sampled[:, : batch.response_mask.shape[1]].to(batch.ids.device)
        zeros, ones = torch.zeros_like(logprobs), torch.ones_like(logprobs)
        experience = Experience(batch, logprobs, values=zeros, advantages=ones, returns=zeros, metrics={})

        def scored() -> np.ndarray:
            with torch.inference_mode(), setup.hardware.autocast():
                current = sequence_logprobs(
                    response_logits(state.policy, batch), batch.response, setup.sampling.temperature
                )
            return np.asarray(current.masked_fill(~batch.response_mask, 0.0).cpu().numpy())

        every = torch.arange(len(batch.ids))
        gates.require_unit_ratio(
            lambda: self._learn(learner, experience, every, hardware=setup.hardware), scored, setup.hardware
        )

    def _best(
        self, best: tuple[float, dict[str, Any]], setup: Setup, state: PPOState, monitor: CollapseMonitor
    ) -> tuple[float, dict[str, Any]]:
        """Probe the policy; returns the better of the best so far and this one, by held-out proxy score.

        A trained policy that leaves the limits on held-out prompts is never the best: the proxy may like it.
        """
        row = setup.probe(setup.policy, state.iteration)
        if not row or not row["proxy"] > best[0]:  # so that NaN is never the best
            return best
        measured = {"kl": row["kl"], "response_length": row["length"], "score": row["proxy"]}
        if state.iteration and monitor.reason(measured, tuple(measured)) is not None:
            return best
        return row["proxy"], {name: tensor.detach().clone() for name, tensor in trainable(state.policy).items()}

    def _monitor(self, setup: Setup) -> CollapseMonitor:
        limits = asdict(self.config.checks.limits)
        return CollapseMonitor(**limits, max_response_tokens=setup.sampling.max_new_tokens)
