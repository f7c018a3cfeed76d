"""Weights in bf16 for many passes: autocast does it once per batch, once per product or once per step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

_KEPT: WeakKeyDictionary[Any, dict[tuple[str, str], torch.Tensor]] = WeakKeyDictionary()


@contextmanager
def cast_once(model: Any, precision: str, *, keep: bool = False) -> Iterator[None]:
    """Let the model's linear layers hold weights in bf16 inside, under autocast: the same numbers, fewer bytes read.

    Embeddings and norms, which autocast leaves alone, stay in fp32; so do the weights that are learned, which come back
    at the end. Nothing happens in fp32.

    Args:
        model: no gradient is asked of it meanwhile, and only work that is begun inside uses it.
        precision: of ``Hardware``.
        keep: use the same memory at every call for this model, as CUDA graphs want it.
    """
    if precision == "fp32":
        yield
        return
    import torch

    layers = list(_linear_layers(model))
    copies = _KEPT.setdefault(model, {}) if keep else {}
    own = {}
    with torch.no_grad():
        for name, layer in layers:
            for kind, weight in layer._parameters.items():
                if weight is None or weight.dtype != torch.float32:
                    continue
                if (name, kind) in copies:
                    copies[name, kind].copy_(weight)
                else:
                    copies[name, kind] = weight.to(torch.bfloat16)
                own[name, kind] = weight
    held = dict(layers)
    for name, kind in own:
        held[name]._parameters[kind] = copies[name, kind]
    try:
        yield
    finally:
        for (name, kind), weight in own.items():
            held[name]._parameters[kind] = weight


def _linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Those whose products are in bf16 under autocast: no quantised ones, no others', and no heads' (``read_head``)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from harness.models.heads import HEADS
    from harness.models.kernels import FAST

    kinds = {nn.Linear, Conv1D, *FAST.values()}
    for name, module in model.named_modules():
        if type(module) in kinds and not set(HEADS) & set(name.split(".")):
            yield name, module
