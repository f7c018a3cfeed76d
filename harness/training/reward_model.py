"""The reward-model stage: Bradley–Terry from the SFT policy, shifted scores, and a report card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.config import RewardModelConfig
from harness.context import Job, model_directory
from harness.errors import UserError
from harness.feedback.pairs import LabelledPair, read_pairs
from harness.models.codec import Codec
from harness.models.loading import load_codec, load_scorer, require_positions, save
from harness.models.scorer import Scorer
from harness.stages import Workspace
from harness.training.preferences import Comparison, learn_preferences, report_card, shift_scores
from harness.types import Example

VERSION = 2
SHIFT_EXAMPLES = 1000
"""Responses that the shift is measured on."""


def run_reward_model(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train (or load) the reward model into ``model/`` and examine it on the held-out pairs."""
    config, feedback = job.config.reward_model, workspace.inputs["feedback"].directory
    pairs = read_pairs(feedback / "pairs.jsonl")
    trained: dict[str, Any] = {}
    if config.source == "load":
        reward_model = Scorer.load(str(config.path), job.hardware)
        require_positions(reward_model.model, job.config.task, key="reward_model.path")
        require_same_tokens(
            reward_model, load_codec(model_directory(workspace.inputs["sft"].directory)), str(config.path)
        )
        shifted = getattr(reward_model.model.config, "reward_shift", None) is not None
    else:
        shifted = False
        sft = model_directory(workspace.inputs["sft"].directory)
        language_model = load_scorer(sft, device=job.hardware.device, head_seed=workspace.seed_for("head"))
        settings = comparison_settings(config)
        steps = settings.steps(len(pairs))
        with workspace.progress.stage(workspace.name, steps, "steps") as bar:
            trained = learn_preferences(
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
        examples = job.data(workspace).splits["preference"]
        trained |= shift_on_references(reward_model, job, examples, pairs, scale=config.scale_scores)
    save(_language_model(reward_model), model_directory(workspace.directory))
    card = examine(reward_model, read_pairs(feedback / "heldout.jsonl"), workspace.seed_for("bootstrap"))
    accuracy = card["accuracy"]
    line = f"held-out accuracy {accuracy['estimate']:.1f} [{accuracy['low']:.1f}, {accuracy['high']:.1f}]"
    if "oracle_accuracy" in card:
        line += f", oracle {card['oracle_accuracy']:.1f}"
    return {**trained, "report_card": card, "line": line}


def require_same_tokens(scorer: Scorer, codec: Codec, name: str) -> None:
    """A reward model reads the policy's tokens as they were chosen, so both need one vocabulary.

    Raises:
        UserError: theirs differ.
    """
    if scorer.codec.tokenizer.get_vocab() != codec.tokenizer.get_vocab():
        rule = "has another vocabulary than the policy, whose tokens it would have to score"
        raise UserError(
            "reward_model.path", name, rule, "give a reward model that was trained from the same base model"
        )


def comparison_settings(config: RewardModelConfig) -> Comparison:
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
) -> dict[str, float]:
    """Make the references of these examples average 0; where there are none, the chosen responses of the pairs."""
    with_references = [example for example in examples if example.references][:SHIFT_EXAMPLES]
    if with_references:
        prompts, _ = job.prompts(with_references, scorer.codec)
        responses = scorer.codec.encode_responses(
            [example.references[0] for example in with_references], max_tokens=job.config.task.max_response_tokens
        )
        return shift_scores(scorer, scorer.codec.encode_prompts(prompts), responses, scale=scale)
    chosen = pairs[:SHIFT_EXAMPLES]
    return shift_scores(
        scorer, [pair.prompt_tokens for pair in chosen], [pair.chosen_tokens for pair in chosen], scale=scale
    )


def examine(scorer: Scorer, held_out: Sequence[LabelledPair], seed: int) -> dict[str, Any]:
    """The report card on held-out pairs, whose tokens must be in the scorer's vocabulary."""
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
