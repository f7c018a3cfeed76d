"""Direct preference optimisation as somebody would add it: one class behind the seam of algorithms, and no more.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7: −log σ(β (Δ log π − Δ log π_ref)), chosen minus rejected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.models.forward import make_batch, response_logits
from harness.models.loading import LanguageModel
from harness.training.algorithm import Result, Setup
from harness.training.preferences import TokenPair
from harness.training.token_logprobs import sequence_logprobs

BETA, PAIRS_AT_ONCE, PASSES = 0.1, 16, 4


class DPO:
    def __init__(self, config: Any) -> None:
        self.config = config

    def steps(self) -> int:
        return PASSES

    def response_passes(self) -> int:
        return 64

    def train(self, setup: Setup) -> Result:
        optimizer = torch.optim.AdamW(setup.policy.model.parameters(), lr=1e-3)
        pairs = setup.pairs()
        for _ in range(PASSES):
            wins = 0
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                some = pairs[start : start + PAIRS_AT_ONCE]
                with torch.no_grad():
                    before = margins(setup.reference, some)
                gained = margins(setup.policy, some) - before
                (-logsigmoid(BETA * gained).mean()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                wins += int((gained > 0).sum())
            setup.log({"accuracy": wins / len(pairs), "pairs": len(pairs)})
            setup.advance(1)
        setup.probe(setup.policy, PASSES)
        return Result("ok", None, 0, [])


def margins(lm: LanguageModel, pairs: list[TokenPair]) -> Tensor:
    """(N,) log probability of the chosen response less that of the rejected one."""

    def of(responses: list[list[int]]) -> Tensor:
        batch = make_batch([pair.prompt for pair in pairs], responses, lm.codec.pad_id)
        logprobs = sequence_logprobs(response_logits(lm.model, batch), batch.response)
        return logprobs.masked_fill(~batch.response_mask, 0.0).sum(1)

    return of([pair.chosen for pair in pairs]) - of([pair.rejected for pair in pairs])
