"""What each row of the table answers to the test prompts: policies, reranked samples, and texts that need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.context import Job
from harness.models.codec import Codec
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer
from harness.rollouts.sampler import Rollout, Sampling, sample
from harness.types import Example, Outputs, Split


def policy_answers(job: Job, policy: LanguageModel, examples: Sequence[Example], *, seed: int) -> Outputs:
    """The policy's answers as ``evaluation.*`` asks for them: greedy by default, one length limit for all.

    Args:
        job: the set-up.
        policy: who answers.
        examples: N of them.
        seed: of the samples, where ``evaluation.temperature`` is above 0.
    Returns: N responses, in the policy's tokens.
    """
    evaluation = job.config.evaluation
    sampling = Sampling(
        max_new_tokens=job.config.task.max_response_tokens,
        temperature=evaluation.temperature,
        batch_size=evaluation.batch_size,
        engine=evaluation.engine,
        engine_memory=job.config.rollout.engine_memory,
    )
    return outputs(policy.codec, draw(job, policy, prompt_tokens(job, policy.codec, examples), sampling, seed))


def prompt_tokens(job: Job, codec: Codec, examples: Sequence[Example]) -> list[list[int]]:
    """The prompts of these examples as the codec's model reads them, cut by the task's rule, as token ids."""
    prompts, _ = job.prompts(examples, codec)
    return codec.encode_prompts(prompts)


def draw(
    job: Job, policy: LanguageModel, prompts: Sequence[list[int]], sampling: Sampling, seed: int, *, shared: int = 1
) -> Rollout:
    """One response for each prompt.

    Args:
        job: for the hardware.
        policy: who responds.
        prompts: N lists of token ids.
        sampling: how tokens are chosen.
        seed: of the rows' random streams.
        shared: every so many consecutive prompts are one, as in ``sample``.
    """
    return sample(
        policy.model,
        prompts,
        sampling,
        eos_id=policy.codec.stop_ids,
        pad_id=policy.codec.pad_id,
        seed=seed,
        hardware=job.hardware,
        shared=shared,
    )


def outputs(codec: Codec, rollout: Rollout) -> Outputs:
    """A rollout with the texts of its responses, which lack EOS."""
    return Outputs(codec.decode(rollout.tokens), rollout.tokens, rollout.ended)


def samples_per_prompt(
    job: Job, policy: LanguageModel, examples: Sequence[Example], count: int, *, seed: int
) -> tuple[list[list[int]], Rollout]:
    """``count`` samples of each prompt at the training temperature, those of one prompt next to each other.

    Args:
        job: with the training's sampling.
        policy: who responds.
        examples: M of them.
        count: samples of each.
        seed: of the rows' random streams.
    Returns: the M · count prompts as token ids, and a response to each.
    """
    prompts = [ids for ids in prompt_tokens(job, policy.codec, examples) for _ in range(count)]
    return prompts, draw(job, policy, prompts, job.training_sampling(), seed, shared=count)


class Reranked(NamedTuple):
    """Of n samples of each prompt: the one that a reward model likes best, and the first, which is one sample."""

    best: Outputs
    first: Outputs


def best_of_n(
    job: Job, policy: LanguageModel, reward: Scorer, examples: Sequence[Example], n: int, *, seed: int
) -> Reranked:
    """The choice of the optimised reward model among n samples of each prompt (the first among equals).

    Args:
        job: with the training's sampling.
        policy: who responds.
        reward: who chooses; it reads the policy's tokens.
        examples: M of them.
        n: samples of each.
        seed: of the samples.
    Returns: M responses each.
    """
    prompts, rollout = samples_per_prompt(job, policy, examples, n, seed=seed)
    every = outputs(policy.codec, rollout)
    best = reward.scores(prompts, rollout.tokens).reshape(-1, n).argmax(1)
    starts = range(0, len(prompts), n)
    chosen = [start + int(choice) for start, choice in zip(starts, best, strict=True)]
    return Reranked(_rows(every, chosen), _rows(every, starts))


def _rows(every: Outputs, rows: Sequence[int]) -> Outputs:
    return Outputs(
        [every.responses[row] for row in rows], [every.tokens[row] for row in rows], [every.ended[row] for row in rows]
    )


def text_answers(
    job: Job, row: str, examples: Sequence[Example], splits: Mapping[Split, list[Example]], codec: Codec | None
) -> Outputs:
    """The rows that need no model, cut at the same length limit as every policy.

    ``references``: the first reference. ``copy-input``: what the task calls a copy. ``empty``: nothing. ``longest``:
    the longest demonstration of the SFT split that the limit admits, the same for every prompt: what length alone is
    worth.

    Args:
        job: with the task and its limit.
        row: one of these four.
        examples: N of them.
        splits: ``longest`` is found in ``sft``.
        codec: whose tokens the limit counts: the judge's; None (there is no judge): words are counted.
    """
    if row == "references":
        texts = [example.references[0] if example.references else example.response for example in examples]
    elif row == "copy-input":
        texts = [job.task.copy_of_input(example.fields) for example in examples]
    elif row == "empty":
        texts = [""] * len(examples)
    elif row == "longest":
        texts = [_longest(job, [example.response for example in splits["sft"]], codec)] * len(examples)
    else:
        raise ValueError(f"{row} is no row without a model")
    limit = job.config.task.max_response_tokens
    if codec is None:
        return _word_outputs(texts, limit)
    tokens = codec.encode_responses(texts, max_tokens=limit)
    ended = [bool(ids) and ids[-1] == codec.eos_id for ids in tokens]
    cut = codec.decode(tokens)
    return Outputs(
        [text.strip() if end else short for text, short, end in zip(texts, cut, ended, strict=True)], tokens, ended
    )


def text_outputs(texts: Sequence[str], ended: Sequence[bool], codec: Codec | None) -> Outputs:
    """Texts that are whole as they are: tokens are the codec's, or words, and only tell lengths and repetition.

    Args:
        texts: N responses.
        ended: (N,) bool, True where the response ended by itself.
        codec: whose tokens, with EOS where the response ended; None: a number for each word.
    """
    if codec is None:
        numbers: dict[str, int] = {}
        words = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
        return Outputs(list(texts), words, list(ended))
    return Outputs(list(texts), codec.encode_responses(texts, ended=ended), list(ended))


def _longest(job: Job, responses: Sequence[str], codec: Codec | None) -> str:
    limit = job.config.task.max_response_tokens
    lengths = (
        [len(ids) for ids in codec.encode_responses(responses)]
        if codec is not None
        else [len(r.split()) + 1 for r in responses]
    )
    admitted = [(length, text) for length, text in zip(lengths, responses, strict=True) if length <= limit]
    return max(admitted)[1] if admitted else max(responses, key=len)


def _word_outputs(texts: Sequence[str], limit: int) -> Outputs:
    numbers: dict[str, int] = {}
    words = [text.split() for text in texts]
    ended = [len(row) < limit for row in words]
    tokens = [[numbers.setdefault(word, len(numbers)) for word in row[:limit]] for row in words]
    return Outputs([" ".join(row[:limit]) for row in words], tokens, ended)


def gold_scores(job: Job, examples: Sequence[Example], responses: Sequence[str]) -> dict[str, np.ndarray]:
    """``gold`` and ``gold_<part>``, (N,) float each, in gold points; empty where no gold reward is known.

    Args:
        job: with the controlled world, if there is one.
        examples: N of them, with their latent facts.
        responses: N texts.
    """
    if job.world is None:
        return {}
    rows = [job.world.gold_parts(example.facts or {}, text) for example, text in zip(examples, responses, strict=True)]
    parts = {f"gold_{name}": np.array([row[name] for row in rows]) for name in job.world.part_maxima}
    return {"gold": np.sum(list(parts.values()), axis=0), **parts}
