"""The SFT stage: base model → a policy that imitates the demonstrations; and SFT continued, the control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import Config, ModelConfig
from harness.context import Job
from harness.data.prepared import PreparedData
from harness.hardware import Hardware
from harness.models.adapters import adapted_count, add_adapter, dropping
from harness.models.codec import Codec
from harness.models.kept import configured_base, keep, load_trainable_policy
from harness.models.loading import LanguageModel, load_base, load_language_model, save
from harness.models.nano import new_model, train_tokenizer
from harness.models.packed_forward import require_packable
from harness.models.positions import require_positions
from harness.models.soundness import require_sound
from harness.needs import packed_tokens
from harness.stages import Workspace
from harness.training.language_model import Imitation, TokenExample, imitate, some_of, total_steps, validation_loss
from harness.training.schedule import factor, warmup_updates
from harness.types import Example, Task

VERSION = 13
MORE_VERSION = 13
"""Of SFT continued, whose meaning can change alone."""
VALIDATION_EXAMPLES = 500
"""Examples that the validation loss is measured on."""


def run_sft(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train (or load) the SFT policy into ``model/``; a nano base is kept beside it in ``base/``."""
    config, data = job.config, job.data(workspace)
    if config.sft.source == "load":
        policy = load_language_model(str(config.sft.path), device=job.hardware.device, key="sft.path")
        require_positions(policy.model, config.task, key="sft.path")
        require_sound(policy, key="sft.path")
        if config.sft.packing:  # for the control that continues SFT
            require_packable(policy)
        if config.model.chat:
            policy.codec.converse(config.model.system)
        return _finish(workspace, job, data, policy, {"steps": 0, "tokens": 0})
    policy = base_model(config.model, job.task, data.splits["sft"], workspace.seed_for("init"), job.hardware)
    require_positions(policy.model, config.task)
    if config.sft.packing:
        require_packable(policy)
    if config.model.kind == "nano":
        save(policy, workspace.directory / "base")
    adapt(policy, config.model, workspace)
    examples, cuts = token_examples(job, data.splits["sft"], policy.codec)
    settings = imitation_settings(config)
    trained = _imitate(workspace, job, policy, examples, settings)
    return {**_finish(workspace, job, data, policy, trained), "cuts": cuts}


def run_sft_more(workspace: Workspace, job: Job, response_passes: int) -> dict[str, Any]:
    """Continue SFT over as many responses as the algorithm trains on: what the same budget buys without feedback.

    Its learning rate begins where one schedule over the updates of both would stand by then, and falls to 0: a short
    run does not come back from a second peak. A policy that was given has no updates to count: its run has its own.
    """
    data = job.data(workspace)
    policy = load_trainable_policy(
        workspace.inputs["sft"].directory,
        job.config.model,
        device=job.hardware.device,
        seed=workspace.seed_for("adapter"),
    )
    demonstrations = data.splits["sft"]
    settings = imitation_settings(job.config, epochs=response_passes / len(demonstrations))
    chosen, settings = some_of(demonstrations, settings, workspace.seed_for("part"))
    examples, _ = token_examples(job, chosen, policy.codec)
    if made := workspace.inputs["sft"].summary["steps"]:
        optimizer, total = settings.optimizer, made + total_steps(len(examples), settings)
        lr = optimizer.lr * factor(optimizer.schedule, made, total, warmup_updates(optimizer.warmup, total))
        settings = replace(settings, optimizer=replace(optimizer, lr=lr, warmup=0.0))
    trained = _imitate(workspace, job, policy, examples, settings)
    return _finish(workspace, job, data, policy, trained)


def imitation_settings(config: Config, *, epochs: float | None = None) -> Imitation:
    """The configuration of SFT as the trainer takes it; ``epochs`` overrides both epochs and max_steps."""
    sft = config.sft
    return Imitation(
        epochs=sft.epochs if epochs is None else epochs,
        max_steps=sft.max_steps if epochs is None else None,
        batch_size=sft.batch_size,
        micro_batch_size=sft.micro_batch_size,
        train_on_prompt=sft.train_on_prompt,
        packed_tokens=packed_tokens(config),
        optimizer=sft.optimizer,
    )


def base_model(
    config: ModelConfig, task: Task, examples: list[Example], seed: int, hardware: Hardware
) -> LanguageModel:
    """The untrained model: nano, with a tokenizer trained on these examples, or what ``model=hf`` names.

    Args:
        config: ``model.*``, or the judge's ``judge.model.*``.
        task: nano: whose prompts the tokenizer is trained on.
        examples: nano: with which fields and responses.
        seed: nano: of the weights.
        hardware: whose device it goes to.

    Raises:
        UserError: what ``model.name`` names cannot be loaded, or computes otherwise in a batch than alone; or the
            sizes of nano do not fit each other.
    """
    if config.kind == "hf":
        base = load_base(config, device=hardware.device)
        require_sound(base)
        return base
    from harness.models.kernels import use_fast_kernels

    texts = (f"{task.prompt(example.fields)} {example.response}" for example in examples)
    codec = Codec(train_tokenizer(texts, config.vocab_size))
    model = new_model(config, vocab_size=len(codec), eos_id=codec.eos_id, pad_id=codec.pad_id, seed=seed)
    return LanguageModel(use_fast_kernels(model.to(hardware.device).eval()), codec)


def adapt(policy: LanguageModel, config: ModelConfig, workspace: Workspace, *, key: str = "model") -> None:
    """Put an adapter on a base model where one is asked for; a nano base is kept in ``base/`` for it.

    Args:
        policy: gets it in place.
        config: of the model, with ``lora``.
        workspace: the stage's: its folder, and the seed of the first matrices.
        key: the model's group, to name in an error.
    """
    if config.lora.rank is None:
        return
    folder = workspace.directory / "base"
    if config.kind == "nano" and not folder.is_dir():
        save(policy, folder)
    add_adapter(policy.model, config.lora, configured_base(config, folder), seed=workspace.seed_for("adapter"), key=key)


def base_directory(sft_directory: Path, config: ModelConfig) -> str:
    """Where the base model of an SFT policy is: beside it (nano), or what ``model.name`` says."""
    return str(sft_directory / "base") if config.kind == "nano" else str(config.name)


def token_examples(job: Job, examples: Sequence[Example], codec: Codec) -> tuple[list[TokenExample], dict[str, float]]:
    """Prompts and demonstrations as tokens, and what was cut: responses are cut at ``task.max_response_tokens``.

    Args:
        job: for the task's prompts and its length limits.
        examples: N of them.
        codec: of the model that learns.
    Returns: N pairs of prompt and response, and shares of the examples (0 to 1): those of ``CutReport``, and
        ``response_cut_share``.
    """
    prompts, report = job.prompts(examples, codec)
    limit = job.config.task.max_response_tokens
    responses, cut = codec.cut_responses([example.response for example in examples], limit)
    pairs = zip(codec.encode_prompts(prompts), responses, strict=True)
    return [TokenExample(*pair) for pair in pairs], {**report._asdict(), "response_cut_share": cut}


def _imitate(
    workspace: Workspace, job: Job, policy: LanguageModel, examples: list[TokenExample], settings: Imitation
) -> dict[str, float]:
    steps = total_steps(len(examples), settings)
    dropout = dropping(policy.model, workspace.seed_for("dropout"))
    with workspace.progress.stage(workspace.name, steps, "steps") as bar, dropout:
        return imitate(
            policy,
            examples,
            settings,
            hardware=job.hardware,
            seed=workspace.seed_for("order"),
            log=workspace.log,
            advance=bar.update,
        )


def _finish(
    workspace: Workspace, job: Job, data: PreparedData, policy: LanguageModel, trained: dict[str, float]
) -> dict[str, Any]:
    keep(policy, workspace.directory, job.config.model.lora)
    held_out, _ = token_examples(job, data.splits["validation"][:VALIDATION_EXAMPLES], policy.codec)
    loss = validation_loss(policy, held_out, job.hardware) if held_out else math.nan
    parameters, adapter = adapted_count(policy.model)
    of_them = f", {adapter:,} of them in an adapter" if adapter else ""
    return {
        **trained,
        "validation_loss": loss if math.isfinite(loss) else None,
        "parameters": parameters,
        "adapter_parameters": adapter or None,
        "line": f"{parameters / 1e6:.2f} M parameters{of_them}, {trained['steps']} steps, validation loss {loss:.3f}",
    }
