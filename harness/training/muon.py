"""Muon: momentum made orthogonal, for the matrices inside a model's layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.hardware import Hardware, batches, multiplies_bf16
from harness.models.kernels import product, products

COEFFICIENTS = ((8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257))
"""(a, b, c) of each step's a x + b x³ + c x⁵: the odd polynomial nearest to 1 on [0.003, 1], then on all that the step
before it makes of that. Together they lead it to 1 ± 0.65."""
SMALLEST_NORM = 1e-7
STACK = 2**20
"""Numbers in the square matrices that are multiplied at once: small ones cost more in calls than in products."""


class Muon(torch.optim.Muon):
    """torch's Muon with a scale on which AdamW's learning rates hold, and a quick step on a CPU.

    torch orthogonalises in bf16, which most CPUs have to emulate: 94 ms for a matrix of 128 × 512 where fp32 takes 2
    (docs/performance.md). On a CPU it is in fp32 here but where products are in bf16 and the processor has instructions
    for it, and in three steps in place of five; elsewhere the step is torch's own.

    Args:
        matrices: parameters of two dimensions.
        lr: the peak: each update has the root mean square that AdamW's would have.
        weight_decay: of all of them.
        hardware: with the precision of products; None: fp32.
        alone: nothing else is done meanwhile: ``hardware``'s pieces of the matrices are worked on beside each other.
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the scale: Liu et al. 2025 (arXiv 2502.16982).
    """

    # Of a copy, which an optimiser makes of what torch knows alone.
    _kind = torch.float32
    _sharing: Hardware | None = None

    def __init__(
        self, matrices: Any, *, lr: float, weight_decay: float, hardware: Hardware | None = None, alone: bool = True
    ) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        if hardware is not None:
            self._kind = torch.bfloat16 if hardware.precision == "bf16" and multiplies_bf16() else torch.float32
            self._sharing = hardware if alone else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all matrices that have a gradient; returns what ``closure`` did."""
        if any(matrix.device.type != "cpu" for group in self.param_groups for matrix in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if self._sharing is None:
                for alike in _stacks(matrices):
                    self._update(group, alike)
            else:
                stacks = list(_stacks(matrices, self._sharing.pieces))
                self._sharing.share_out(partial(self._update, group), stacks)
        return loss

    @torch.no_grad()
    def _update(self, group: dict[str, Any], alike: Sequence[Tensor]) -> None:
        """Of matrices of one shorter side; in whichever thread."""
        directions = orthogonal([self._momentum(matrix, group["momentum"]) for matrix in alike], self._kind)
        for matrix, direction in zip(alike, directions, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(direction, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: Tensor, kept: float) -> Tensor:
        """Nesterov's momentum of a matrix whose gradient is new: the running mean, and the gradient once more."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        assert matrix.grad is not None
        state["momentum_buffer"].lerp_(matrix.grad, 1 - kept)
        return matrix.grad.lerp(state["momentum_buffer"], kept)


def _stacks(matrices: Sequence[Tensor], pieces: int = 1) -> Iterator[Sequence[Tensor]]:
    """Those of one shorter side together, as many as are small, dealt out evenly to so many pieces or a multiple."""
    by_side: dict[int, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        by_side[min(matrix.shape)].append(matrix)
    for side, alike in by_side.items():
        yield from batches(alike, pieces * max(STACK // side**2, 1), pieces=pieces)


def orthogonal(matrices: Sequence[Tensor], kind: torch.dtype = torch.float32) -> list[Tensor]:
    """Matrices of the same singular vectors as these, whose singular values are 0.35 to 1.65, near 1 for the most part.

    That holds for those above 0.003 of the fourth root of the sum of their fourth powers (smaller ones grow 119-fold
    beside that): three steps of X ← (a + b XXᵀ + c (XXᵀ)²) X from X = M / ‖MMᵀ‖^½. Each multiplies X by a polynomial of
    its first XXᵀ, so that only matrices of the shorter side are multiplied until the end, those of all X at once.

    Args:
        matrices: each (M, N) float32, of one shorter side; not changed.
        kind: of the products. In bfloat16 small singular values are mixed with others', and all come to 0.2 to 2.4: for
            a spectrum of 1/i the result's cosine to the orthogonal matrix is 0.93 in place of 0.96. Losses are as low
            (docs/performance.md).
    Returns: as many of the same shapes, in float32.
    Source: Amsel et al. 2025 (arXiv 2505.16932), whose first coefficients are for [0.001, 1] and ‖M‖; in place of
    Jordan's five steps with one triple of coefficients.
    """
    lying = [(matrix.T if matrix.shape[0] > matrix.shape[1] else matrix).to(kind) for matrix in matrices]
    grams = torch.stack([product(each, each) for each in lying]).float()
    norms = grams.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM**2)
    factors = (_polynomials((grams / norms).to(kind)).float() / norms.sqrt()).to(kind)
    turned = [product(factor, each.T).float() for factor, each in zip(factors, lying, strict=True)]
    return [new if new.shape == old.shape else new.T for new, old in zip(turned, matrices, strict=True)]


def _polynomials(grams: Tensor) -> Tensor:
    """What the steps multiply each X by, of its XXᵀ: (B, M, M) -> (B, M, M), symmetric."""
    together: Tensor | None = None
    for step, coefficients in enumerate(COEFFICIENTS, start=1):
        factors = _quadratic(grams, *coefficients)
        together = factors if together is None else products(factors, together)
        if step < len(COEFFICIENTS):
            grams = products(factors, products(factors, grams))
    assert together is not None
    return together


def _quadratic(grams: Tensor, a: float, b: float, c: float) -> Tensor:
    """a + b G + c G² of each G, (B, M, M); in bfloat16 rounded once, at the end."""
    if grams.dtype == torch.bfloat16:
        sums = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
    else:
        sums = torch.add(b * grams, products(grams, grams), alpha=c)
    sums.diagonal(dim1=-2, dim2=-1).add_(a)
    return sums
