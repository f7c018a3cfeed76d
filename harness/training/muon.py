"""Muon: momentum made orthogonal, for the matrices inside a model's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.models.kernels import product

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Muon):
    """torch's Muon with a scale on which AdamW's learning rates hold, and a quick step on a CPU.

    torch orthogonalises in bf16, which most CPUs have to emulate: 94 ms for a matrix of 128 × 512 where fp32 takes 2
    (docs/performance.md). On a CPU it is fp32 here; elsewhere the step is torch's own.

    Args:
        matrices: parameters of two dimensions.
        lr: the peak: each update has the root mean square that AdamW's would have.
        weight_decay: of all of them.
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the scale: Liu et al. 2025 (arXiv 2502.16982).
    """

    def __init__(self, matrices: Any, *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all matrices that have a gradient; returns what ``closure`` did."""
        if any(matrix.device.type != "cpu" for group in self.param_groups for matrix in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)
        return loss

    def _move(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, kept = self.state[matrix], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        state["momentum_buffer"].lerp_(gradient, 1 - kept)
        scale = 0.2 * max(matrix.shape) ** 0.5
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(orthogonal(gradient.lerp(state["momentum_buffer"], kept)), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix of about the same singular vectors whose singular values all lie near 1 (0.7 to 1.2).

    Five steps of X ← (a + b XXᵀ + c (XXᵀ)²) X from X = M / ‖M‖. Each multiplies X by a polynomial of its first XXᵀ, so
    that only matrices of the shorter side are multiplied until the end.

    Args:
        matrix: (M, N) float; not changed.
    Returns: (M, N) float.
    Source: Jordan et al. 2024, the Newton–Schulz iteration and its coefficients.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return orthogonal(matrix.T).T
    a, b, c = COEFFICIENTS
    short = matrix / matrix.norm().clamp(min=SMALLEST_NORM)
    gram = product(short, short)
    together: Tensor | None = None
    for step in range(STEPS):
        factor = torch.add(b * gram, product(gram, gram), alpha=c)  # of symmetric matrices, which all commute
        factor.diagonal().add_(a)
        together = factor if together is None else product(factor, together)
        if step < STEPS - 1:
            gram = product(factor, product(factor, gram))
    assert together is not None
    return product(together, short.T)
