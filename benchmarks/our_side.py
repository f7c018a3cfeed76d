"""This harness's side: SFT, reward model and PPO, each through the code that ``python -m harness`` runs."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.materials import read_rows
from benchmarks.worker import Prepare, Prepared, serve
from harness.errors import RunFailed

Request = Mapping[str, Any]
NEVER = 1e9
"""A norm that no gradient reaches: TRL's PPO does not clip."""
PHASES = ("rollout", "scoring", "update")


def load() -> Mapping[str, Prepare]:
    """Import what the stages run on."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: F401

    import harness.training.language_model
    import harness.training.ppo_training
    import harness.training.preferences  # noqa: F401

    return {"sft": sft, "reward_model": reward_model, "ppo": ppo}


def sft(request: Request) -> Prepared:
    """Steps of plain language modelling: every token but the first counts."""
    from harness.models.loading import load_language_model, save
    from harness.training.language_model import Imitation, TokenExample, imitate

    lm = load_language_model(request["model"], device=_device(request))
    # A prompt of one token: what no other token predicts.
    examples = [TokenExample(row["input_ids"][:1], row["input_ids"][1:]) for row in read_rows(request["rows"])]
    settings = Imitation(epochs=1, batch_size=request["batch_size"], optimizer=_optimizer(request))

    logged: list[Mapping[str, Any]] = []

    def train() -> dict[str, Any]:
        done = imitate(lm, examples, settings, hardware=_hardware(request), **_quietly(request, logged))
        seen = {"updates": done["steps"], "tokens": done["tokens"], "learning_rate": logged[-1]["lr"]}
        return {"seen": seen, "work": done["tokens"] + len(examples), "loss": done["loss"]}

    return Prepared(train, lambda folder: save(lm, folder))


def reward_model(request: Request) -> Prepared:
    """Steps of Bradley–Terry training on pairs, from the SFT policy."""
    from harness.models.loading import load_scorer, save
    from harness.training.preferences import Comparison, TokenPair, learn_preferences

    scorer = load_scorer(request["model"], device=_device(request), head_seed=request["seed"])
    pairs = Taken(TokenPair(row["prompt"], row["chosen"], row["rejected"]) for row in read_rows(request["rows"]))
    settings = Comparison(epochs=1, batch_size=request["batch_size"], optimizer=_optimizer(request))

    logged: list[Mapping[str, Any]] = []

    def train() -> dict[str, Any]:
        pairs.taken.clear()
        done = learn_preferences(scorer, pairs, settings, hardware=_hardware(request), **_quietly(request, logged))
        tokens = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs.taken)
        seen = {"updates": done["steps"], "pairs": len(pairs.taken), "tokens": tokens}
        return {
            "seen": {**seen, "learning_rate": logged[-1]["lr"]},
            "work": len(pairs.taken),
            "loss": done["loss"],
            "accuracy": done["accuracy"],
        }

    return Prepared(train, lambda folder: save(scorer, folder))


class Taken(list[Any]):
    """A list that remembers what was taken from it, one by one: what training has seen."""

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(items)
        self.taken: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        if isinstance(index, int):
            self.taken.append(item)
        return item


class PPORun(NamedTuple):
    """PPO and all that it works with; ``logged`` fills as it runs, each row with the second that it was logged at."""

    algorithm: Any
    setup: Any
    logged: list[Mapping[str, Any]]


def ppo(request: Request) -> Prepared:
    """PPO with a value network of its own."""
    from harness.models.loading import save

    algorithm, setup, logged = ppo_run(request)

    def train() -> dict[str, Any]:
        result = algorithm.train(setup)
        if result.status != "ok":
            raise RuntimeError(f"PPO ended as {result.status}: {result.reason}")
        phases = {f"seconds_{name}": sum(row[f"seconds_{name}"] for row in logged) for name in PHASES}
        seen = {**counted(), "learning_rate": logged[-1]["lr"]}
        return {"seen": seen, "work": seen["episodes"], "scores": [row["score"] for row in logged], **phases}

    counted = _count(algorithm, setup.policy.model)
    return Prepared(train, lambda folder: save(setup.policy, folder))


def _count(algorithm: Any, policy: Any) -> Callable[[], dict[str, int]]:
    """Have PPO's own steps counted: returns what was sampled and learned from, when it is called.

    Raises, when called:
        RunFailed: the value network made another number of updates than the policy.
    """
    experience, learn = algorithm._experience, algorithm._learn
    sampled: list[tuple[int, int]] = []
    learned: dict[bool, list[int]] = {True: [], False: []}

    def counted_experience(*given: Any) -> Any:
        result = experience(*given)
        mask = result.batch.response_mask
        sampled.append((len(mask), int(mask.sum())))
        return result

    def counted_learn(learner: Any, whole: Any, rows: Any, **more: Any) -> Any:
        measured = learn(learner, whole, rows, **more)
        learned[learner.model is policy].append(len(rows))
        return measured

    algorithm._experience, algorithm._learn = counted_experience, counted_learn

    def counts() -> dict[str, int]:
        own, of_values = learned[True], learned[False]
        if sorted(own) != sorted(of_values):
            raise RunFailed(f"the policy made {len(own)} updates, the value network {len(of_values)}")
        episodes, tokens = (sum(each) for each in zip(*sampled, strict=True))
        return {"updates": len(own), "episodes": episodes, "tokens": tokens, "rows_learned_from": sum(own)}

    return counts


def ppo_run(request: Request) -> PPORun:
    """Models and prompts loaded; every response is as long as the limit, as no token ends one."""
    from harness.config import ChecksConfig, LimitsConfig, PPOConfig
    from harness.models.loading import LanguageModel, load_language_model
    from harness.models.scorer import Scorer
    from harness.rollouts.sampler import Sampling
    from harness.training.algorithm import Setup
    from harness.training.gates import GATES
    from harness.training.ppo_training import PPOTraining

    hardware = _hardware(request)
    policy = load_language_model(request["model"], device=_device(request))
    policy.codec.stop_ids = (-1,)
    no_limits = LimitsConfig(max_kl=None, min_entropy=None, min_length=None, max_length_share=None)
    config = PPOConfig(
        episodes=request["episodes"],
        batch_size=request["batch_size"],
        minibatch_size=request["minibatch_size"],
        epochs=request["epochs"],
        kl_coef=request["kl_coef"],
        missing_eos_penalty=None,
        checks=ChecksConfig(skip_gates=list(GATES), probes=0, limits=no_limits),
        optimizer=_optimizer(request),
    )
    logged: list[Mapping[str, Any]] = []
    setup = Setup(
        policy=policy,
        reference=LanguageModel(copy.deepcopy(policy.model).requires_grad_(False), policy.codec),
        reward=Scorer.load(request["reward_model"], hardware),
        prompts=[row["input_ids"] for row in read_rows(request["rows"])],
        sampling=Sampling(
            request["response_tokens"], temperature=request["temperature"], engine=request.get("engine", "native")
        ),
        probe=lambda _policy, _iteration: {},
        gold=None,
        report_card=None,
        hardware=hardware,
        seed_for=seeds(request["seed"]),
        log=lambda row: logged.append({**row, "logged_at": time.perf_counter()}),
        advance=_nothing,
        pairs=list,
    )
    return PPORun(PPOTraining(config), setup, logged)


def seeds(seed: int) -> Callable[[str], int]:
    """A seed for each random stream, by its purpose."""
    return lambda purpose: int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")


def _optimizer(request: Request) -> Any:
    """AdamW as Hugging Face's trainers have it (eps, no decay, gradients' norm clipped at 1), at a constant rate.

    A rate that falls would fall otherwise here: this harness counts minibatches of PPO, TRL's schedule its rollouts.
    """
    from harness.config import OptimizerConfig

    return OptimizerConfig(
        kind="adamw",
        lr=request["lr"],
        eps=1e-8,
        schedule="constant",
        warmup=0.0,
        max_grad_norm=request.get("max_grad_norm", 1.0),
    )


def _hardware(request: Request) -> Any:
    from harness.config import HardwareConfig
    from harness.hardware import Hardware

    threads = int(os.environ["HARNESS_BENCHMARK_THREADS"])
    precision = request["precision"]
    wanted = HardwareConfig(device=_device(request), precision=precision, threads=threads, workers=1)
    return Hardware.resolve(wanted).prepare()


def _device(request: Request) -> str:
    """A GPU is asked for by name alone: what is compared with TRL runs on the CPU."""
    return str(request.get("device", "cpu"))


def _quietly(request: Request, logged: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {"seed": request["seed"], "log": logged.append, "advance": _nothing}


def _nothing(*_values: Any, **_shown: Any) -> None:
    """Takes what is logged or shown, and drops it."""


if __name__ == "__main__":
    serve(load)
