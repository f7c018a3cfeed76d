"""The feedback stage: samples of the SFT policy → labelled preference pairs, for training and held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from harness.context import Job, model_directory
from harness.errors import RunFailed
from harness.feedback.annotators import Annotator, gold_utility, metric_utility
from harness.feedback.pairs import (
    Candidates,
    Collected,
    LabelledPair,
    collect_pairs,
    examinable,
    require_pairs,
    sampled_candidates,
    write_pairs,
)
from harness.models.codec import Codec
from harness.models.kept import load_policy
from harness.models.loading import LanguageModel, load_codec
from harness.progress import Stage
from harness.rollouts.sampler import sample
from harness.stages import Workspace
from harness.types import Example, PairExample

VERSION = 10
COMPARISONS = 2
"""Comparisons of one prompt at a time, where there are fewer prompts than pairs are wanted: four responses share its
computation, and fewer comparisons are ties. Else each pair has a prompt of its own."""


def run_feedback(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Write ``pairs.jsonl`` (to train on) and ``heldout.jsonl`` (fresh, from validation prompts, labelled alike).

    Raises:
        RunFailed: fewer pairs than ``feedback.min_pairs``, or held-out ones of fewer than two prompts.
    """
    config, data = job.config.feedback, job.data(workspace)
    sft = workspace.inputs["sft"]
    with workspace.progress.stage(workspace.name, config.max_pairs + config.heldout_pairs, "pairs") as bar:
        if config.kind == "pairs":
            codec = load_codec(model_directory(sft.directory))
            trained = own_pairs(job, data.pairs["preference"], codec, config.max_pairs)
            held_out = own_pairs(job, data.pairs["validation"], codec, config.heldout_pairs)
            bar.update(len(trained.pairs) + len(held_out.pairs))
        else:
            policy = load_policy(sft.directory, job.config.model, device=job.hardware.device)
            annotator = make_annotator(job)
            trained = sample_pairs(
                workspace, job, policy, annotator, data.splits["preference"], "train", config.max_pairs, bar
            )
            held_out = sample_pairs(
                workspace, job, policy, annotator, data.splits["validation"], "heldout", config.heldout_pairs, bar
            )
    require_pairs(len(trained.pairs), config.min_pairs, "feedback.min_pairs")
    if not examinable(held_out.pairs):
        count = len(held_out.pairs)
        raise RunFailed(f"too few held-out preference pairs ({count}): the reward model could not be examined")
    write_pairs(workspace.directory / "pairs.jsonl", trained.pairs)
    write_pairs(workspace.directory / "heldout.jsonl", held_out.pairs)
    line = f"{len(trained.pairs)} pairs, {len(held_out.pairs)} held out"
    cuts = {"train": dict(trained.cuts), "heldout": dict(held_out.cuts)}
    return {"train": trained.counts(), "heldout": held_out.counts(), "cuts": cuts, "line": line}


def make_annotator(job: Job) -> Annotator:
    """The candidate's annotator, as ``feedback.*`` says."""
    config = job.config.feedback
    if config.kind == "gold":
        assert job.world is not None  # checked with the configuration
        utility = gold_utility(job.world)
    else:
        utility = metric_utility(config.metric or job.smooth_metric())
    return Annotator(utility, config.temperature, config.indifference, config.noise, config.length_bias)


def sample_pairs(
    workspace: Workspace,
    job: Job,
    policy: LanguageModel,
    annotator: Annotator,
    examples: Sequence[Example],
    purpose: str,
    max_pairs: int,
    bar: Stage,
) -> Collected:
    """Pairs of the policy's own samples at ``feedback.sampling_temperature``.

    Args:
        workspace: of the stage, for the seeds.
        job: with ``feedback.*``.
        policy: who responds.
        annotator: who labels.
        examples: whose prompts are responded to.
        purpose: names the random streams.
        max_pairs: enough pairs.
        bar: told of responses as they are sampled, and of pairs.
    """
    config = job.config.feedback
    prompts, cuts = job.prompts(examples, policy.codec)
    prompt_tokens = policy.codec.encode_prompts(prompts)
    settings = replace(job.training_sampling(), temperature=config.sampling_temperature, top_k=0, top_p=1.0)
    sampled = 0

    def tell(responses: int) -> None:
        nonlocal sampled
        sampled += responses
        bar.update(0, sampled=sampled)

    def respond(rows: list[int], attempt: int, comparisons: int) -> Candidates:
        count = 2 * comparisons
        rollout = sample(
            policy.model,
            [prompt_tokens[row] for row in rows for _ in range(count)],
            settings,
            eos_id=policy.codec.stop_ids,
            pad_id=policy.codec.pad_id,
            seed=workspace.seed_for(f"{purpose}/{attempt}/{comparisons}"),
            hardware=job.hardware,
            shared=count,
            advance=tell,
        )
        return sampled_candidates(rollout, policy.codec, count)

    collected = collect_pairs(
        examples,
        prompts,
        prompt_tokens,
        respond=respond,
        annotator=annotator,
        rng=Random(workspace.seed_for(f"{purpose}/labels")),
        per_prompt=max(config.samples_per_prompt // 2, math.ceil(max_pairs / max(len(examples), 1))),
        max_pairs=max_pairs,
        attempts=config.max_attempts,
        at_once=COMPARISONS if max_pairs > len(examples) else 1,
        advance=bar.update,
    )
    return collected._replace(cuts=cuts._asdict())


def own_pairs(job: Job, pairs: Sequence[PairExample], codec: Codec, count: int) -> Collected:
    """The first ``count`` of the data set's own pairs whose tokens differ; those passed over are counted.

    Args:
        job: for the task's prompts and its length limit.
        pairs: of one split.
        codec: of the model that is to learn from them, or to be examined on them.
        count: most pairs.
    """
    kept: list[LabelledPair] = []
    read, shares = 0, list[tuple[int, dict[str, float]]]()
    while not shares or (len(kept) < count and read < len(pairs)):
        rows = pairs[read : read + count - len(kept)]  # no more than are missing: none is read and left
        labelled, cuts = encode_pairs(job, rows, codec)
        kept, read = kept + labelled, read + len(rows)
        shares.append((len(rows), cuts))
    total = {name: sum(size * cuts[name] for size, cuts in shares) / max(read, 1) for name in shares[0][1]}
    return Collected(kept, read - len(kept), 0, total)


def encode_pairs(job: Job, pairs: Sequence[PairExample], codec: Codec) -> tuple[list[LabelledPair], dict[str, float]]:
    """The data set's own pairs as tokens, and the shares of prompts and responses that were cut.

    Pairs that are equal after cutting to the response limit are dropped.

    Args:
        job: for the task's prompts and its length limit.
        pairs: of one split.
        codec: whose tokens.
    """
    limit = job.config.task.max_response_tokens
    examples = [Example(id=pair.id, fields=pair.fields, response=pair.chosen, references=[]) for pair in pairs]
    prompts, report = job.prompts(examples, codec)
    texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    responses, cut = codec.cut_responses(texts, limit)
    sides = responses[: len(pairs)], responses[len(pairs) :]
    columns = zip(pairs, prompts, codec.encode_prompts(prompts), *sides, strict=True)
    labelled = [
        LabelledPair(pair.id, prompt, pair.chosen, pair.rejected, tokens, better, worse)
        for pair, prompt, tokens, better, worse in columns
        if better != worse
    ]
    return labelled, {**report._asdict(), "response_cut_share": cut}
