"""Sampling responses: prompts and settings in; tokens, logprobs and masks out, whatever engine makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.hardware import Hardware
from harness.rollouts import native_engine

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    Args:
        max_new_tokens: the length limit R, EOS included.
        temperature: T; 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens with this much probability; 1 keeps all.
        batch_size: prompts at a time, over all pieces that are worked on at the same time.
        engine: ``native``, our own loop; ``compiled``, the same with its steps compiled; or ``vllm``.
        engine_memory: share of a GPU's memory that vLLM takes.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch_size: int = 256
    engine: str = "native"
    engine_memory: float = 0.4


class Rollout(NamedTuple):
    """What was sampled.

    Args:
        tokens: N lists of response tokens, EOS (or another of the tokens that end one) included where it was chosen.
        ended: (N,) bool, True where the response ended so.
        logprobs: (N, R) float32, log softmax(logits / T) of each chosen token (T = 1 where greedy); 0 after the end.
    """

    tokens: list[list[int]]
    ended: list[bool]
    logprobs: torch.Tensor


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    *,
    eos_id: int | Sequence[int],
    pad_id: int,
    seed: int,
    hardware: Hardware | None = None,
    shared: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Rollout:
    """Sample one response for each prompt.

    Args:
        model: a causal or an encoder–decoder language model of transformers.
        prompts: N lists of token ids.
        settings: how to choose tokens.
        eos_id: the token, or the tokens, that end a response; as many as are listed.
        pad_id: fills up shorter prompts.
        seed: of the rows' random streams: the same seed and row number give the same draws in any batch.
        hardware: where and in which precision; None: fp32, one batch at a time.
        shared: every so many consecutive prompts are one prompt, which is computed once for all of them.
        advance: told how many responses each batch has made.

    Raises:
        RunFailed: ``rollout.engine=vllm`` or ``evaluation.engine=vllm``: it does not start, cannot run such a model,
            fails, or did not answer with its weights.
    """
    stop_ids = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)
    how: dict[str, Any] = {"pad_id": pad_id, "seed": seed, "hardware": hardware, "advance": advance}
    if settings.engine == "vllm":
        from harness.rollouts import vllm_engine

        tokens, logprobs = vllm_engine.sample(model, prompts, settings, stop_ids, **how)
    else:
        tokens, logprobs = native_engine.sample(model, prompts, settings, stop_ids, **how, shared=shared)
    ended = [len(ids) > 0 and ids[-1] in stop_ids for ids in tokens]
    return Rollout(tokens, ended, logprobs)
