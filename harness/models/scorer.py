"""A reward: scores for prompts and responses, whatever is behind it. Here: a sequence classifier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import RunFailed
from harness.hardware import Hardware, batches
from harness.models.cast_once import cast_once
from harness.models.codec import Codec, same_tokens
from harness.models.forward import make_batch, sequence_scores
from harness.models.loading import load_scorer
from harness.models.positions import positions, room_for_response

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


GROUPS = (4, 2, 1)
"""Responses to one prompt that are scored together, so that the prompt is computed once for all of them."""


class Scorer:
    """A reward model or judge that scores in batches of similar length.

    Args:
        model: a sequence classifier with one label.
        codec: its tokenizer.
        hardware: where and in which precision.
        reads: whose tokens ``scores`` is given, where that may be another tokenizer than its own: a policy's. They are
            then read as the text that they stand for.
    """

    def __init__(self, model: Any, codec: Codec, hardware: Hardware, reads: Codec | None = None) -> None:
        self.model, self.codec, self.hardware = model, codec, hardware
        self.foreign = None if reads is None or can_read(model, codec, reads) else reads
        if reads is not None and self.foreign is None:
            codec.follow(reads)

    @classmethod
    def load(
        cls, path: str | Path, hardware: Hardware, *, key: str = "reward_model.path", reads: Codec | None = None
    ) -> Scorer:
        """A classifier from disk.

        Args:
            path: the folder.
            hardware: where and in which precision.
            key: the configuration key to name in an error.
            reads: as of the class.

        Raises:
            UserError: naming ``key``: as ``load_scorer`` without a head seed.
        """
        return cls(*load_scorer(path, device=hardware.device, key=key), hardware, reads)

    @property
    def reader(self) -> Codec:
        """Whose tokens ``scores`` takes: its own, unless it was told to read another's."""
        return self.codec if self.foreign is None else self.foreign

    def scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, batch_size: int = 256
    ) -> np.ndarray:
        """(N,) float64 shifted scores; an empty prompt-and-response pair is scored on the pad token alone.

        Args:
            prompts: N lists of token ids in the vocabulary of ``reader``.
            responses: N lists of response ids, EOS included where the response ended.
            batch_size: rows at a time; the result does not depend on it.
        """
        return self._scores(*self.own_tokens(prompts, responses), batch_size)

    @property
    def _reads_eos(self) -> bool:
        """False for a classifier that was trained with pad = EOS: see ``load_scorer``."""
        return bool(getattr(self.model.config, "reward_reads_eos", True))

    def own_tokens(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
        """The same prompts and responses in this scorer's own tokens, which end in EOS, or without where it reads none.

        Raises:
            RunFailed: a prompt that fits the policy is longer than this scorer can read.
        """
        if self.foreign is None:
            codec, reads_eos = self.codec, self._reads_eos
            return prompts, [codec.closed(ids) if reads_eos or not codec.ended(ids) else ids[:-1] for ids in responses]
        texts = self.foreign.tokenizer.batch_decode([list(ids) for ids in prompts], skip_special_tokens=True)
        guarded = self.codec.guard([{"prompt": text} for text in texts])
        own = self.codec.encode_prompts([each["prompt"] for each in guarded])
        known, longest = positions(self.model), max(map(len, own), default=0)
        if known is not None and longest >= known:
            raise RunFailed(
                f"the reward model reads {known} tokens and a prompt of the policy has {longest} of them in its "
                "tokenizer; lower task.max_prompt_tokens"
            )
        ended = [self.foreign.ended(ids) for ids in responses]
        return own, self._encoded(own, self.foreign.decode(responses), ended)

    def _encoded(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[str],
        ended: Sequence[bool] | None,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """Responses in own tokens, as far as the model's positions go after their prompts."""
        ends = ended if self._reads_eos else [False] * len(responses)
        encoded = self.codec.encode_responses(responses, ended=ends, max_tokens=max_tokens)
        return [r[: room_for_response(self.model, len(p))] for p, r in zip(prompts, encoded, strict=True)]

    def _scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int
    ) -> np.ndarray:
        """(N,) scores of own tokens."""
        import numpy as np
        import torch

        result, pieces = np.zeros(len(prompts)), self.hardware.pieces

        def score(work: tuple[Sequence[int], int]) -> None:
            rows, shared = work
            texts = [prompts[row] for row in rows], [responses[row] for row in rows]
            batch = make_batch(*texts, self.codec.pad_id, device=self.hardware.device, shared=shared)
            with torch.inference_mode(), self.hardware.autocast():
                result[rows] = sequence_scores(self.model, batch).cpu().double().numpy()

        works: list[tuple[Sequence[int], int]] = []
        for shared, groups in alike(prompts, most=max(batch_size // pieces, 1)).items():
            groups.sort(key=lambda rows: len(prompts[rows[0]]) + max(len(responses[row]) for row in rows))
            order = [row for rows in groups for row in rows]
            works += [(rows, shared) for rows in batches(order, batch_size, pieces=pieces, group=shared)]
        with cast_once(self.model, self.hardware.precision):
            self.hardware.share_out(score, works)
        return result

    def score_texts(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        ended: Sequence[bool] | None = None,
        max_tokens: int | None = None,
        batch_size: int = 256,
    ) -> np.ndarray:
        """(N,) float64 shifted scores of texts, encoded by this scorer's own tokenizer.

        A response that another tokenizer let grow beyond this model's positions is read as far as they go.

        Args:
            prompts: N texts, worded by the task.
            responses: N texts.
            ended: (N,) bool, False where a response was cut before its EOS; None: all of them ended.
            max_tokens: length limit of responses, EOS included; None: as far as the positions go.
            batch_size: rows at a time; the result does not depend on it.
        """
        prompt_ids = self.codec.encode_prompts(prompts)
        return self._scores(prompt_ids, self._encoded(prompt_ids, responses, ended, max_tokens), batch_size)


def alike(prompts: Sequence[Sequence[int]], *, most: int) -> dict[int, list[list[int]]]:
    """Rows of one prompt in groups of four, two and one, as few groups as that makes: by their size.

    >>> alike([[5], [7], [5], [5], [5], [5], [5]], most=256)
    {4: [[0, 2, 3, 4]], 2: [[5, 6]], 1: [[1]]}

    Args:
        prompts: N lists of token ids.
        most: rows of a group.
    """
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        same[tuple(prompt)].append(row)
    groups: dict[int, list[list[int]]] = {size: [] for size in GROUPS if size <= most}
    for rows in same.values():
        start = 0
        for size, found in groups.items():
            while len(rows) - start >= size:
                found.append(rows[start : start + size])
                start += size
    return groups


def can_read(model: Any, codec: Codec, other: Codec) -> bool:
    """Whether a model reads another tokenizer's tokens as it would its own, EOS included."""
    rows = model.get_input_embeddings().weight.shape[0]
    return codec.eos_id == other.eos_id and len(other) <= rows and same_tokens(codec, other)
