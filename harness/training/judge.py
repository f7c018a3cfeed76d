"""The judge stage: a reward model that scores the table and is never optimised against.

Its backbone, its seed, its split and its annotator are its own, so its fingerprint does not depend on the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from harness.context import Job, model_directory
from harness.data.prepared import PreparedData
from harness.errors import RunFailed
from harness.feedback.annotators import Annotator, gold_utility, metric_utility
from harness.feedback.pairs import (
    Candidates,
    Collected,
    LabelledPair,
    candidates,
    collect_pairs,
    examinable,
    sampled_candidates,
)
from harness.feedback.stage import encode_pairs, own_pairs
from harness.models.adapters import dropping, is_adapted
from harness.models.kept import keep, start_scorer
from harness.models.loading import LanguageModel, load_scorer, save
from harness.models.positions import require_positions
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Sampling, sample
from harness.stages import Workspace
from harness.training.language_model import Imitation, TokenExample, imitate, some_of, total_steps
from harness.training.preferences import Comparison, learn_preferences
from harness.training.reward_model import card_line, examine, shift_on_references
from harness.training.sft import adapt, base_model, token_examples
from harness.types import Example, Split, World

VERSION = 18
FOIL_SHARE = 0.1
"""Comparisons with a foil among those that the judge learns from."""
ATTEMPTS = 3
"""Rounds in which an uninformative comparison is drawn anew."""


def run_judge(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train (or load) the judge into ``model/``; below ``judge.min_pairs`` there is none, and the summary says so."""
    config, data = job.config.judge, job.data(workspace)
    if config.source == "load":
        judge = Scorer.load(str(config.path), job.hardware, key="judge.path")
        require_positions(judge.model, job.config.task, key="judge.path")
        save(LanguageModel(judge.model, judge.codec), model_directory(workspace.directory))
        return {"available": True, **_examine_loaded(workspace, job, judge, data)}
    backbone = base_model(config.model, job.task, data.splits["judge"], workspace.seed_for("init"), job.hardware)
    require_positions(backbone.model, job.config.task, key="judge.model.name")
    adapt(backbone, config.model, workspace, key="judge.model")
    backbone_cuts = _train_backbone(workspace, job, backbone, data)
    pairs, *_, train_cuts = _pairs(workspace, job, backbone, data, "judge", config.max_pairs)
    held_out, *_, heldout_cuts = _pairs(workspace, job, backbone, data, "validation", config.heldout_pairs)
    cuts = {"backbone": backbone_cuts, "train": dict(train_cuts), "heldout": dict(heldout_cuts)}
    if len(pairs) < config.min_pairs or not examinable(held_out):
        reason = f"{len(pairs)} pairs, {len(held_out)} held out; judge.min_pairs={config.min_pairs}"
        return {"available": False, "reason": reason, "cuts": cuts, "line": f"no judge: {reason}"}
    judge = _train_judge(workspace, job, backbone, pairs, data)
    card = examine(judge, held_out, workspace.seed_for("bootstrap"))
    keep(LanguageModel(judge.model, judge.codec), workspace.directory, config.model.lora)
    return {"available": True, "report_card": card, "cuts": cuts, "line": f"{len(pairs)} pairs, {card_line(card)}"}


def _examine_loaded(workspace: Workspace, job: Job, judge: Scorer, data: PreparedData) -> dict[str, Any]:
    """A loaded judge's report card, on held-out pairs of the data set's own or of the world's mixture, if there are."""
    source = "pairs" if data.pairs["validation"] else "mixture"
    held_out: list[LabelledPair] = []
    cuts: dict[str, Any] = {}
    if source == "pairs" or job.world is not None:
        loaded, count = LanguageModel(judge.model, judge.codec), job.config.judge.heldout_pairs
        held_out, *_, heldout_cuts = _pairs(workspace, job, loaded, data, "validation", count, source)
        cuts = {"heldout": dict(heldout_cuts)}
    if not examinable(held_out):
        return {"cuts": cuts, "line": "loaded; no pairs to examine it on"}
    card = examine(judge, held_out, workspace.seed_for("bootstrap"))
    return {"report_card": card, "cuts": cuts, "line": f"loaded, {card_line(card)}"}


def _train_backbone(workspace: Workspace, job: Job, backbone: LanguageModel, data: PreparedData) -> dict[str, float]:
    """Language modelling on the responses that the judge will compare: they teach it to read prompt and response.

    Returns the shares of cuts in the judge split's examples.
    """
    config = job.config.judge
    examples: Sequence[Example] = data.splits["judge"]
    settings = Imitation(
        epochs=config.sft_epochs,
        batch_size=config.batch_size,
        optimizer=config.backbone_optimizer,
        shared=config.samples_per_prompt if config.responses == "mixture" else 1,
    )
    if config.responses != "pairs":  # which bring examples of their own
        examples, settings = some_of(examples, settings, workspace.seed_for("backbone part"))
    if config.responses == "mixture":
        examples = _redrawn(_world(job), examples, config.samples_per_prompt, Random(workspace.seed_for("backbone")))
    tokens, cuts = token_examples(job, examples, backbone.codec)
    if config.responses == "pairs":
        pairs, _ = encode_pairs(job, data.pairs["judge"], backbone.codec)  # counted where they are compared
        tokens += [
            TokenExample(pair.prompt_tokens, response)
            for pair in pairs
            for response in (pair.chosen_tokens, pair.rejected_tokens)
        ]
    dropout = dropping(backbone.model, workspace.seed_for("backbone dropout"))
    with workspace.progress.stage("judge backbone", total_steps(len(tokens), settings), "steps") as bar, dropout:
        imitate(
            backbone,
            tokens,
            settings,
            hardware=job.hardware,
            seed=workspace.seed_for("backbone order"),
            log=workspace.log,
            advance=bar.update,
        )
    return cuts


def _redrawn(world: World, examples: Sequence[Example], count: int, rng: Random) -> list[Example]:
    """Each example ``count`` times, with responses drawn anew from the world's mixture."""
    return [
        Example(
            id=example.id,
            fields=example.fields,
            response=world.demonstrate(example.facts or {}, rng).response,
            references=[],
        )
        for example in examples
        for _ in range(count)
    ]


def _pairs(
    workspace: Workspace,
    job: Job,
    backbone: LanguageModel,
    data: PreparedData,
    split: Split,
    count: int,
    source: str | None = None,
) -> Collected:
    """Labelled comparisons from the judge's fixed source of responses, ``judge.responses`` unless another is named."""
    config, codec = job.config.judge, backbone.codec
    source = source or config.responses
    if source == "pairs":
        return own_pairs(job, data.pairs[split], codec, count)
    examples = data.splits[split]
    prompts, cuts = job.prompts(examples, codec)
    prompt_tokens = codec.encode_prompts(prompts)
    rng = Random(workspace.seed_for(f"{split}/responses"))

    def from_mixture(rows: list[int], attempt: int, _comparisons: int) -> Candidates:
        foils = FOIL_SHARE if split == "judge" else 0.0
        texts = [text for row in rows for text in mixture_pair(_world(job), examples, row, rng, foils=foils)]
        return candidates(texts, codec.encode_responses(texts, max_tokens=job.config.task.max_response_tokens), 2)

    def from_samples(rows: list[int], attempt: int, _comparisons: int) -> Candidates:
        settings = Sampling(max_new_tokens=job.config.task.max_response_tokens)
        rollout = sample(
            backbone.model,
            [prompt_tokens[row] for row in rows for _ in range(2)],
            settings,
            eos_id=codec.stop_ids,
            pad_id=codec.pad_id,
            seed=workspace.seed_for(f"{split}/{attempt}"),
            hardware=job.hardware,
            shared=2,
        )
        return sampled_candidates(rollout, codec, 2)

    manner = asdict(config.annotator)
    metric = manner.pop("metric") or job.smooth_metric()
    utility = gold_utility(_world(job)) if job.world is not None else metric_utility(metric)
    collected = collect_pairs(
        examples,
        prompts,
        prompt_tokens,
        respond=from_mixture if source == "mixture" else from_samples,
        annotator=Annotator(utility, **manner),
        rng=Random(workspace.seed_for(f"{split}/labels")),
        per_prompt=max(config.samples_per_prompt // 2, math.ceil(count / max(len(examples), 1))),
        max_pairs=count,
        attempts=ATTEMPTS,
    )
    return collected._replace(cuts=cuts._asdict())


def mixture_pair(
    world: World, examples: Sequence[Example], row: int, rng: Random, *, foils: float = 0.0
) -> tuple[str, str]:
    """Two responses to one prompt: two draws from the mixture, or (a share of ``foils``) one and a foil, in any order.

    A judge that saw sound responses alone may rate broken ones anywhere, and broken ones are what a table must sort
    out: so foils are added to what it learns from. It is examined on the mixture alone.

    Args:
        world: with the mixture.
        examples: of a split; foils are made of their responses too.
        row: of the example to respond to.
        rng: draws responses, foil and order.
        foils: share of pairs with a foil, 0 to 1.
    """
    first, second = (world.demonstrate(examples[row].facts or {}, rng).response for _ in range(2))
    if rng.random() >= foils:
        return first, second
    pair = (first, _foil(second, examples, rng))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _foil(response: str, examples: Sequence[Example], rng: Random) -> str:
    """A broken response: another prompt's, shuffled words, words of many responses, a piece, or one said over again."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(examples).response
    words = response.split()
    if kind == 1:
        return " ".join(rng.sample(words, len(words)))
    if kind == 2:
        return " ".join(
            rng.choice(rng.choice(examples).response.split()) for _ in range(rng.randint(1, 3 * len(words)))
        )
    if kind == 3:
        return " ".join(words[: rng.randrange(len(words))])
    return " ".join([response] * rng.randint(2, 4))


def _train_judge(
    workspace: Workspace, job: Job, backbone: LanguageModel, pairs: list[LabelledPair], data: PreparedData
) -> Scorer:
    config = job.config.judge
    head_seed = workspace.seed_for("head")
    if is_adapted(backbone.model):
        language_model = start_scorer(backbone, head_seed=head_seed)
    else:
        save(backbone, workspace.directory / "backbone")
        language_model = load_scorer(workspace.directory / "backbone", device=job.hardware.device, head_seed=head_seed)
    settings = Comparison(epochs=config.epochs, batch_size=config.batch_size, optimizer=config.optimizer)
    steps = settings.steps(len(pairs))
    dropout = dropping(language_model.model, workspace.seed_for("dropout"))
    with workspace.progress.stage("judge", steps, "steps") as bar, dropout:
        learn_preferences(
            language_model,
            [pair.tokens() for pair in pairs],
            settings,
            hardware=job.hardware,
            seed=workspace.seed_for("order"),
            log=workspace.log,
            advance=bar.update,
        )
    judge = Scorer(*language_model, job.hardware)
    shift_on_references(judge, job, data.splits["judge"], pairs, scale=False)
    return judge


def _world(job: Job) -> World:
    if job.world is None:
        raise RunFailed("judge.responses=mixture needs a controlled world")
    return job.world
