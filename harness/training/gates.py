"""Gates: what must hold before PPO spends anything. A gate that fails ends the run with the reason in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.models.forward import Batch, make_batch, response_logits, sequence_scores
from harness.models.loading import LanguageModel
from harness.models.scorer import Scorer

if TYPE_CHECKING:
    import torch

GATES = ("accuracy", "ratio", "invariance", "eos", "logprobs")
ROWS = 32
"""Rollouts that the gates look at."""
NATS, NATS_HALF = 1e-4, 0.05
"""How far a token's logprob may lie from itself in another pass: each in fp32, in bf16 their root mean square, beyond
what is rounded anyway."""
MOST_ROUNDING = 0.1
"""Nats, root mean square, by which bf16 may move logprobs: ratios would be noise."""


def require_accuracy(report_card: Mapping[str, Any]) -> None:
    """The reward model, trained here or given, beats chance on held-out pairs, with its interval over their prompts.

    That interval has a width where all pairs were judged alike too: a few prompts, all of them right, are no proof.

    Args:
        report_card: with ``accuracy``: 0-100, and its 95 % interval.

    Raises:
        RunFailed: the lower end is not above 50. ``algorithm.checks.skip_gates`` takes the gate's name, as for every
            gate.
    """
    estimate, low = report_card["accuracy"]["estimate"], report_card["accuracy"]["low"]
    if low <= 50:
        raise RunFailed(
            "gate accuracy: the reward model is no better than chance on held-out pairs "
            f"({estimate:.1f}, lower bound {low:.1f}); give it more or cleaner pairs, "
            "or add accuracy to algorithm.checks.skip_gates"
        )


def require_unit_ratio(
    update: Callable[[], Mapping[str, float]], logprobs: Callable[[], np.ndarray], hardware: Hardware
) -> None:
    """An update with learning rate 0 sees ratios of 1 to the policy that sampled, and leaves every ratio at 1.

    In bf16 the passes that sample and that learn round otherwise, each over shapes of its own: there a single ratio
    that the update sees may be far from 1, but not their mean, and the KL, half the mean square of their logarithms, is
    small.

    Args:
        update: makes one optimiser step at learning rate 0 as PPO makes all of them; returns ``ratio_mean``,
            ``ratio_max`` and ``approx_kl`` to the logprobs that were collected while sampling.
        logprobs: the policy's logprobs of fixed tokens, now.
        hardware: with the precision that decides the tolerance.

    Raises:
        RunFailed: a ratio or the KL is off by more than is allowed, before the update or after it.
    """
    full = hardware.precision == "fp32"
    tolerance, allowed = (1e-4, 1e-4) if full else (1e-2, 0.05)
    before = logprobs()
    seen = update()
    looked_at = ("ratio_mean", "ratio_max") if full else ("ratio_mean",)
    off, kl = float(np.abs([seen[name] - 1 for name in looked_at]).max()), seen["approx_kl"]
    if not (off <= allowed and kl <= tolerance):
        raise RunFailed(
            f"gate ratio: the first update's ratio to the policy that sampled is off by {off:.2e} and the KL is "
            f"{kl:.2e} (allowed {allowed:.2g} and {tolerance})"
            + ("" if full else f"; if {hardware.precision} is what moves it, set hardware.precision=fp32")
        )
    log_ratio = logprobs() - before
    worst, kl = float(np.abs(np.expm1(log_ratio)).max()), float((np.expm1(log_ratio) - log_ratio).mean())
    if not (worst <= tolerance and kl <= tolerance):
        raise RunFailed(
            f"gate ratio: after an update with lr 0 a ratio is off by {worst:.2e} and the KL is {kl:.2e} "
            f"(allowed {tolerance})"
        )


def require_batch_invariance(scorer: Scorer, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> None:
    """A score does not change with batch size, neighbours or padding.

    Args:
        scorer: the optimised reward model.
        prompts: N lists of token ids, in the policy's tokens.
        responses: N lists of response ids, EOS included where the response ended.

    Raises:
        RunFailed: a score moves by more than 1e-4; in bf16 by more than 0.05, or 0.05 of the largest score.
    """
    together = scorer.scores(prompts, responses)
    alone = scorer.scores(prompts, responses, batch_size=1)
    padded = _scores_with_more_padding(scorer, prompts, responses)
    worst = float(max(np.abs(together - alone).max(), np.abs(together - padded).max()))
    # bf16 keeps 8 bits, so there the allowance grows with the scores.
    half = scorer.hardware.precision != "fp32"
    allowed = 5e-2 * max(1.0, float(np.abs(together).max())) if half else 1e-4
    if not worst <= allowed:
        raise RunFailed(
            f"gate invariance: a reward-model score moves by {worst:.2e} with its batch (allowed {allowed:.2g})"
        )


def _scores_with_more_padding(
    scorer: Scorer, prompts: Sequence[list[int]], responses: Sequence[list[int]]
) -> np.ndarray:
    import torch

    batch = make_batch(*scorer.own_tokens(prompts, responses), scorer.codec.pad_id, device=scorer.hardware.device)
    pads = torch.full((len(prompts), 3), scorer.codec.pad_id, device=batch.ids.device)
    off = torch.zeros_like(pads, dtype=torch.bool)
    wider = Batch(
        torch.cat([pads, batch.ids, pads], 1),
        torch.cat([off, batch.mask, off], 1),
        torch.cat([batch.response_mask, off], 1),
    )
    with torch.inference_mode(), scorer.hardware.autocast():
        return np.asarray(sequence_scores(scorer.model, wider).cpu().double().numpy())


def require_score_on_eos(batch: Batch, ended: Sequence[bool], stop_ids: Sequence[int]) -> None:
    """The sequence's score is paid where the response's first EOS is (or other end), in every response that ended.

    Args:
        batch: B prompts with the responses that were sampled.
        ended: (B,) bool, True where the response ended by itself.
        stop_ids: the tokens that end one.

    Raises:
        RunFailed: a response is paid somewhere else, more than once or not at all.
    """
    import torch

    from harness.training.kl import token_rewards

    ones = torch.ones(len(batch.ids), device=batch.ids.device)
    rewards = token_rewards(
        ones, torch.zeros_like(batch.response, dtype=torch.float32), batch.response_mask, kl_coef=0.0
    )
    found = [_columns(row) for row in rewards != 0]
    stops = torch.tensor(stop_ids, device=batch.response.device)
    eos = [_columns(row) for row in torch.isin(batch.response, stops)]
    wrong = [row for row, end in enumerate(ended) if len(found[row]) != 1 or (end and found[row] != eos[row][:1])]
    if wrong:
        raise RunFailed(f"gate eos: the score is not paid on EOS in rows {wrong[:5]}")


def _columns(row: torch.Tensor) -> list[int]:
    """Where a row is True."""
    return [int(column) for column in row.nonzero().flatten()]


def require_equal_logprobs(
    policy: LanguageModel, batch: Batch, sampled: np.ndarray, temperature: float, hardware: Hardware
) -> None:
    """The logprobs collected while sampling equal those of one scoring pass.

    Args:
        policy: the model that sampled.
        batch: B prompts with the responses that were sampled.
        sampled: (B, R) float, nats, the logprobs that came with them; what lies outside the response mask is not read.
        temperature: of sampling.
        hardware: with the precision that decides the tolerance.

    Raises:
        RunFailed: those of one token differ by more than 1e-4 nats. In bf16, where passes of other shapes round
            otherwise and some token of a peaked model moves by tenths, both are compared with a pass in fp32: sampling
            lies farther from it than 0.05 nats and twice what scoring does (root mean squares), or scoring farther
            than 0.1.
    """
    sampled = sampled[batch.response_mask.cpu().numpy()]
    scored = _scored(policy, batch, temperature, hardware)
    if hardware.precision == "fp32":
        worst = float(np.abs(scored - sampled).max())
        if not worst <= NATS:
            raise RunFailed(f"gate logprobs: sampling and scoring differ by {worst:.2e} nats (allowed {NATS})")
        return
    exact = _scored(policy, batch, temperature, replace(hardware, precision="fp32"))
    rounding, off = _root_mean_square(scored - exact), _root_mean_square(sampled - exact)
    if not rounding <= MOST_ROUNDING:
        raise RunFailed(
            f"gate logprobs: {hardware.precision} moves the policy's logprobs by {rounding:.2g} nats (allowed "
            f"{MOST_ROUNDING}); set hardware.precision=fp32"
        )
    allowed = NATS_HALF + 2 * rounding
    if not off <= allowed:
        raise RunFailed(
            f"gate logprobs: sampling and scoring differ: in {hardware.precision} the one is {off:.2g} nats from a "
            f"pass in fp32 (allowed {allowed:.2g}), the other {rounding:.2g}"
        )


def _scored(policy: LanguageModel, batch: Batch, temperature: float, hardware: Hardware) -> np.ndarray:
    """The logprobs of the response tokens by a scoring pass, row by row."""
    import torch

    from harness.training.token_logprobs import sequence_logprobs

    with torch.inference_mode(), hardware.autocast():
        scored = sequence_logprobs(response_logits(policy.model, batch), batch.response, temperature)
    return np.asarray(scored[batch.response_mask].cpu().numpy())


def _root_mean_square(numbers: np.ndarray) -> float:
    return float(np.sqrt(np.square(numbers.astype(np.float64)).mean()))
