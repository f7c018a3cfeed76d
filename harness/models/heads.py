"""The part of a classifier that turns a hidden state into a score: found, read in full precision, and drawn anew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    import torch

HEADS = ("score", "classification_head")
"""What classifiers call the part that turns the last token's hidden state into a score: causal ones and ours; BART's
and T5's, which has two layers."""


def score_head(model: Any) -> Any:
    """The part that turns a hidden state into a score, whatever the architecture calls it.

    Args:
        model: a sequence classifier.

    Raises:
        UserError: naming ``model.name``: it is of an architecture whose head has another name.
    """
    for name in HEADS:
        if hasattr(model, name):
            return getattr(model, name)
    remedy = "use a GPT-2, Llama, Qwen, NeoX, T5, BART or Marian model"
    raise UserError("model.name", type(model).__name__, "has no score head that we know", remedy)


def read_head(head: Any, states: torch.Tensor) -> torch.Tensor:
    """(…, H) -> (…) float32: what a head of one output makes of each state, in fp32 under autocast too.

    Two scores, or two values, are told apart by what a number in bf16 has no digits for.

    Args:
        head: of ``score_head``, or a linear layer.
        states: the trunk's output.
    """
    import torch

    kind = next(head.parameters()).dtype  # fp32 as models are loaded here; one that was made elsewhere may differ
    with torch.autocast(states.device.type, enabled=False):
        found: torch.Tensor = head(states.to(kind)).squeeze(-1).float()
    return found


def head_layers(model: Any) -> list[Any]:
    """The linear layers of ``score_head``, the one that puts out the score last."""
    from torch import nn

    return [module for module in score_head(model).modules() if isinstance(module, nn.Linear)]


def new_head(model: Any, seed: int) -> None:
    """Draw a classifier's head anew, and forget its shift; see ``load_scorer``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in head_layers(model):
            drawn = torch.empty(layer.weight.shape).normal_(
                0.0, 1 / math.sqrt(layer.in_features + 1), generator=generator
            )
            layer.weight.copy_(drawn)
            if layer.bias is not None:
                layer.bias.zero_()
    model.config.reward_shift = 0.0
