"""Peak memory of one stage's real training code on a random model, against what the plan expects of it.

Run as a process of its own, since a peak is a process's: ``python measure_memory.py ARCHITECTURE STAGE [RANK]``, with
adapters of that rank where one is given. Prints JSON: MB measured and expected, with and without what the libraries
take. There is no data set in its memory, for which the plan's constant for libraries has room.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ARCHITECTURES = ("gpt2", "gpt_neox", "llama")
STAGES = ("sft", "reward_model", "ppo")
PROMPT, RESPONSE, VOCABULARY = 96, 32, 8192
TYPED = (
    *(f"task.max_prompt_tokens={PROMPT}", f"task.max_response_tokens={RESPONSE}", "judge=none", "hardware.threads=1"),
    *("sft.batch_size=32", "sft.micro_batch_size=16", "sft.optimizer={kind: adamw, lr: 1e-5}"),
    *("reward_model.batch_size=24", "reward_model.optimizer={kind: adamw, lr: 1e-5}", "hardware.device=cpu"),
    "hardware.precision=fp32",
    "hardware.workers=1",
    *("algorithm.episodes=64", "algorithm.batch_size=64", "algorithm.minibatch_size=32", "algorithm.epochs=1"),
    *("algorithm.micro_batch_size=16", "algorithm.checks.probes=0"),
    "algorithm.checks.skip_gates=[accuracy,ratio,invariance,eos,logprobs]",
)


class Codec:
    """Ids alone are asked of it."""

    eos_id, pad_id = 0, 1


def new_model(architecture: str, factory: str) -> Any:
    import transformers
    from transformers import AutoConfig

    from harness.models.kernels import use_fast_kernels

    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    if architecture == "gpt2":
        sizes |= {"n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 256}
        sizes |= dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
    else:
        sizes |= {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "max_position_embeddings": 256}
        sizes |= {"intermediate_size": 2048 if architecture == "gpt_neox" else 1376}
    config = AutoConfig.for_model(architecture, **sizes)
    if factory == "AutoModelForSequenceClassification":
        config.num_labels = 1
    model = use_fast_kernels(getattr(transformers, factory).from_config(config).eval())
    if factory == "AutoModelForSequenceClassification":
        model.config.reward_shift = 0.0
    return model


def new_policy(job: Any, architecture: str) -> Any:
    """A language model, with an adapter where the job asks for one."""
    from harness.models.adapters import Base, add_adapter
    from harness.models.loading import LanguageModel

    model, lora = new_model(architecture, "AutoModelForCausalLM"), job.config.model.lora
    if lora.rank is not None:
        add_adapter(model, lora, Base("base"), seed=0)
    return LanguageModel(model, Codec())  # type: ignore[arg-type]


def new_scorer(job: Any, architecture: str, policy: Any = None) -> Any:
    """A classifier; with adapters one on the base of ``policy``, or of a policy that is not kept."""
    from harness.models.adapters import scorer_on
    from harness.models.loading import LanguageModel

    if job.config.model.lora.rank is None:
        return LanguageModel(new_model(architecture, "AutoModelForSequenceClassification"), Codec())  # type: ignore[arg-type]
    model = scorer_on(policy or new_policy(job, architecture), head_seed=0)
    return LanguageModel(model, Codec())  # type: ignore[arg-type]


def keep(job: Any, model: Any) -> None:
    """Save it as a stage does: with adapters, a merged model is made for that."""
    from harness.models.kept import keep as keep_model
    from harness.models.loading import LanguageModel

    codec = SimpleNamespace(tokenizer=SimpleNamespace(save_pretrained=ignore))
    with tempfile.TemporaryDirectory() as folder:
        keep_model(LanguageModel(model, codec), Path(folder), job.config.model.lora)  # type: ignore[arg-type]


def sft(job: Any, architecture: str) -> Any:
    """Two updates, the model saved, and a validation loss as the stage measures it."""
    from harness.training.language_model import TokenExample, imitate, validation_loss
    from harness.training.sft import imitation_settings

    lm = new_policy(job, architecture)
    examples = [TokenExample([5] * PROMPT, [6] * RESPONSE) for _ in range(256)]

    def work() -> None:
        settings = imitation_settings(job.config, epochs=0.25)
        imitate(lm, examples, settings, hardware=job.hardware, seed=0, log=ignore, advance=ignore)
        keep(job, lm.model)
        validation_loss(lm, examples, job.hardware)

    return work


def reward_model(job: Any, architecture: str) -> Any:
    """Two updates, the model saved, and the scores of 256 responses."""
    from harness.models.scorer import Scorer
    from harness.training.preferences import TokenPair, learn_preferences
    from harness.training.reward_model import comparison_settings

    lm = new_scorer(job, architecture)
    pairs = [TokenPair([5] * PROMPT, [6] * RESPONSE, [7] * RESPONSE) for _ in range(48)]

    def work() -> None:
        settings = comparison_settings(job.config.reward_model)
        learn_preferences(lm, pairs, settings, hardware=job.hardware, seed=0, log=ignore, advance=ignore)
        keep(job, lm.model)
        prompts = [[5 + row] * PROMPT for row in range(256)]  # of one prompt several responses would be scored together
        Scorer(*lm, job.hardware).scores(prompts, [[6] * RESPONSE] * 256)

    return work


def ppo(job: Any, architecture: str) -> Any:
    """One iteration: rollout, scoring, two minibatches of two micro-batches; then the policy is saved."""
    from harness.models.adapters import twin
    from harness.models.loading import LanguageModel
    from harness.models.scorer import Scorer
    from harness.training.algorithm import Setup
    from harness.training.ppo_training import PPOTraining

    policy = new_policy(job, architecture)
    reward = Scorer(*new_scorer(job, architecture, policy), job.hardware)
    setup = Setup(
        policy=policy,
        reference=LanguageModel(twin(policy.model).requires_grad_(False), policy.codec),
        reward=reward,
        prompts=[[5 + row] * PROMPT for row in range(64)],
        sampling=job.training_sampling(),
        probe=lambda *_: {},
        gold=None,
        report_card=None,
        hardware=job.hardware,
        seed_for=lambda _: 0,
        log=ignore,
        advance=ignore,
        pairs=list,
    )

    def work() -> None:
        PPOTraining(job.config.algorithm).train(setup)
        keep(job, policy.model)

    return work


def ignore(*_: Any, **__: Any) -> None:
    """Nothing is logged or shown."""


def main(architecture: str, stage: str, rank: str | None = None) -> dict[str, float]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from harness.config import register_schemas
    from harness.footprint import by_role, peak
    from harness.memory import peak_memory_mb, reset_peak_memory
    from harness.models.shape import measured, measured_adapters
    from harness.pipeline import make_job
    from harness.stage_memory import LIBRARIES, Memory

    register_schemas()
    with initialize_config_module("harness.conf", version_base="1.3"):
        typed = [*TYPED, *([f"model.lora.rank={rank}"] if rank else [])]
        config: Any = OmegaConf.to_object(compose("config", overrides=["task=summarize", *typed]))
    job = make_job(config)
    job.hardware.prepare()
    import transformers.models.auto  # noqa: F401

    shape = measured(new_model(architecture, "AutoModelForCausalLM"))
    if rank:
        import peft  # noqa: F401

        adapters = measured_adapters(new_model(architecture, "AutoModelForCausalLM"), config.model.lora)
        shape = shape._replace(adapters=adapters)
    reset_peak_memory()
    libraries = peak_memory_mb()
    phases = Memory(job, shape).phases(SimpleNamespace(name=stage, config={}), loaded=False)  # type: ignore[arg-type]
    work = {"sft": sft, "reward_model": reward_model, "ppo": ppo}[stage](job, architecture)
    reset_peak_memory()
    work()
    return {
        "parameters": shape.parameters,
        "libraries": libraries,
        "measured": peak_memory_mb(),
        "expected": peak(phases) / 1e6,
        "measured_own": peak_memory_mb() - libraries,
        "expected_own": (peak(phases) - LIBRARIES) / 1e6,
        "roles": {role: round(size / 1e6) for role, size in by_role(phases).items()},
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
