"""A reward: scores for prompts and responses, whatever is behind it. Here: a sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.hardware import Hardware
from harness.models.codec import Codec
from harness.models.forward import make_batch, sequence_scores
from harness.models.loading import load_scorer, positions

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class Scorer:
    """A reward model or judge that scores in batches of similar length.

    Args:
        model: a sequence classifier with one label.
        codec: its tokenizer.
        hardware: where and in which precision.
    """

    def __init__(self, model: Any, codec: Codec, hardware: Hardware) -> None:
        self.model, self.codec, self.hardware = model, codec, hardware

    @classmethod
    def load(cls, path: str | Path, hardware: Hardware, *, key: str = "reward_model.path") -> Scorer:
        return cls(*load_scorer(path, device=hardware.device, key=key), hardware)

    def scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, batch_size: int = 256
    ) -> np.ndarray:
        """(N,) float64 shifted scores; an empty prompt-and-response pair is scored on the pad token alone.

        Args:
            prompts: N lists of token ids in this scorer's vocabulary.
            responses: N lists of response ids, EOS included where the response ended.
            batch_size: rows at a time; the result does not depend on it.
        """
        import numpy as np
        import torch

        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
        result = np.zeros(len(prompts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = make_batch(
                [prompts[r] for r in rows], [responses[r] for r in rows], self.codec.pad_id, device=self.hardware.device
            )
            with torch.inference_mode(), self.hardware.autocast():
                result[rows] = sequence_scores(self.model, batch).cpu().double().numpy()
        return result

    def score_texts(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        ended: Sequence[bool] | None = None,
        max_tokens: int | None = None,
    ) -> np.ndarray:
        """(N,) scores of texts, encoded by this scorer's own tokenizer.

        A response that another tokenizer let grow beyond this model's positions is read as far as they go.
        """
        prompt_ids = self.codec.encode_prompts(prompts)
        response_ids = self.codec.encode_responses(responses, ended=ended, max_tokens=max_tokens)
        known = positions(self.model)
        if known is not None:
            response_ids = [r[: max(known - len(p), 0)] for p, r in zip(prompt_ids, response_ids, strict=True)]
        return self.scores(prompt_ids, response_ids)
