"""The reward-model stage: Bradley–Terry from the SFT policy, shifted scores, and a report card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from harness.config import Config, PPOConfig, RewardModelConfig
from harness.context import Job, model_directory
from harness.errors import UserError
from harness.feedback.pairs import LabelledPair, balanced_by_length, read_pairs, require_pairs
from harness.models.adapters import dropping
from harness.models.kept import keep, load_new_scorer
from harness.models.loading import load_codec
from harness.models.positions import require_positions
from harness.models.scorer import Scorer
from harness.stages import Workspace
from harness.training.preferences import Comparison, learn_preferences, report_card, shift_scores
from harness.types import Example

VERSION = 13
SHIFT_EXAMPLES = 1000
"""Responses that the shift is measured on."""


def run_reward_model(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train (or load) the reward model into ``model/`` and examine it on the held-out pairs."""
    config, feedback = job.config.reward_model, workspace.inputs.get("feedback")
    pairs = [] if feedback is None else read_pairs(feedback.directory / "pairs.jsonl")
    sft = model_directory(workspace.inputs["sft"].directory)
    trained: dict[str, Any] = {}
    if config.source == "load":
        reward_model = Scorer.load(str(config.path), job.hardware, reads=load_codec(sft))
        require_positions(reward_model.model, job.config.task, key="reward_model.path")
        require_value_of_its_own(job.config, foreign=reward_model.foreign is not None)
        shifted = getattr(reward_model.model.config, "reward_shift", None) is not None
    else:
        shifted = False
        language_model = load_new_scorer(
            workspace.inputs["sft"].directory,
            job.config.model,
            device=job.hardware.device,
            seed=workspace.seed_for("adapter"),
            head_seed=workspace.seed_for("head"),
        )
        if config.balance_length:
            given, pairs = len(pairs), balanced_by_length(pairs, Random(workspace.seed_for("balance")))
            require_pairs(len(pairs), job.config.feedback.min_pairs, "feedback.min_pairs")
            trained = {"balanced": {"pairs": len(pairs), "left_out": given - len(pairs)}}
        settings = comparison_settings(config)
        steps = settings.steps(len(pairs))
        dropout = dropping(language_model.model, workspace.seed_for("dropout"))
        with workspace.progress.stage(workspace.name, steps, "steps") as bar, dropout:
            trained |= learn_preferences(
                language_model,
                [pair.tokens() for pair in pairs],
                settings,
                hardware=job.hardware,
                seed=workspace.seed_for("order"),
                log=workspace.log,
                advance=bar.update,
            )
        reward_model = Scorer(*language_model, job.hardware)
    if not shifted:
        splits = job.data(workspace).splits
        examples = splits["preference"] or splits["validation"]
        trained |= shift_on_references(reward_model, job, examples, pairs, scale=config.scale_scores)
    keep(_language_model(reward_model), workspace.directory, job.config.model.lora)
    if feedback is None:
        return {**trained, "line": "loaded; no pairs to examine it on"}
    card = examine(reward_model, read_pairs(feedback.directory / "heldout.jsonl"), workspace.seed_for("bootstrap"))
    return {**trained, "report_card": card, "line": card_line(card)}


def card_line(card: Mapping[str, Any]) -> str:
    """What a report card says first."""
    accuracy = card["accuracy"]
    line = f"held-out accuracy {accuracy['estimate']:.1f} [{accuracy['low']:.1f}, {accuracy['high']:.1f}]"
    return f"{line}, oracle {card['oracle_accuracy']:.1f}" if "oracle_accuracy" in card else line


def require_value_of_its_own(config: Config, *, foreign: bool) -> None:
    """A value network that starts as the reward model must read the policy's tokens.

    Raises:
        UserError: the reward model has another tokenizer (``foreign``), which is no obstacle to its scores.
    """
    if foreign and isinstance(config.algorithm, PPOConfig) and config.algorithm.value.kind == "separate":
        rule = "starts as the reward model, whose tokenizer is another than the policy's"
        raise UserError("algorithm.value.kind", "separate", rule, "set algorithm.value.kind=head")


def comparison_settings(config: RewardModelConfig) -> Comparison:
    """The configuration of the reward model's training as the trainer takes it."""
    return Comparison(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        micro_batch_size=config.micro_batch_size,
        margin=config.margin,
        centering=config.centering,
    )


def shift_on_references(
    scorer: Scorer, job: Job, examples: Sequence[Example], pairs: Sequence[LabelledPair], *, scale: bool
) -> dict[str, Any]:
    """Make the references of these examples average 0; where there are none, the chosen responses of the pairs.

    Args:
        scorer: changed in place.
        job: for the task's prompts and its length limit.
        examples: the first 1,000 with references are read, each with its first one.
        pairs: in the tokens of ``scorer.reader``; likewise the first 1,000.
        scale: as for ``shift_scores``.
    Returns: what ``shift_scores`` does, and under ``cuts`` the shares of cuts in the examples that were read.
    """
    with_references = [example for example in examples if example.references][:SHIFT_EXAMPLES]
    if with_references:
        prompts, report = job.prompts(with_references, scorer.reader)
        references = [example.references[0] for example in with_references]
        responses, cut = scorer.reader.cut_responses(references, job.config.task.max_response_tokens)
        shifted = shift_scores(scorer, scorer.reader.encode_prompts(prompts), responses, scale=scale)
        return {**shifted, "cuts": {**report._asdict(), "response_cut_share": cut}}
    chosen = pairs[:SHIFT_EXAMPLES]
    return shift_scores(
        scorer, [pair.prompt_tokens for pair in chosen], [pair.chosen_tokens for pair in chosen], scale=scale
    )


def examine(scorer: Scorer, held_out: Sequence[LabelledPair], seed: int) -> dict[str, Any]:
    """The report card on held-out pairs.

    Args:
        scorer: whom to examine.
        held_out: labelled pairs in the tokens of ``scorer.reader``, of two prompts at least.
        seed: of the bootstrap.
    """
    prompts = [pair.prompt_tokens for pair in held_out]
    responses = [pair.chosen_tokens for pair in held_out] + [pair.rejected_tokens for pair in held_out]
    scores = scorer.scores(prompts * 2, responses)
    known = [pair.agrees for pair in held_out if pair.agrees is not None]
    return report_card(
        scores[: len(held_out)] - scores[len(held_out) :],
        scores,
        np.array([len(response) for response in responses]),
        oracle=np.array(known) if len(known) == len(held_out) else None,
        clusters=[pair.prompt for pair in held_out],
        seed=seed % 2**32,
    )


def _language_model(scorer: Scorer) -> Any:
    from harness.models.loading import LanguageModel

    return LanguageModel(scorer.model, scorer.codec)
