"""A GPU for machines that have none: tensors say that they lie on ``cuda:0``, and are computed on the CPU.

What a real one refuses is refused: to compute with tensors of two devices, and to hand out numbers by ``numpy``. What
makes a real one wait until all that was asked of it is done (a number that Python reads, a size that depends on
numbers, a copy to the CPU) is counted. Kernels, streams and graphs are not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")

BETWEEN = {aten._to_copy, aten.copy_}
"""What takes tensors from one device to another."""
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
"""Whose places may lie on the CPU: torch takes them along."""
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim}
"""Of which Python learns a number, or a size that depends on one."""
IN_HALF = {
    *(getattr(torch, name) for name in ("addmm", "addmv", "baddbmm", "bmm", "einsum", "matmul", "mm", "mv")),
    *(getattr(torch.Tensor, name) for name in ("__matmul__", "addmm", "baddbmm", "bmm", "matmul", "mm")),
    functional.linear,
    functional.scaled_dot_product_attention,
}
"""What ``torch.autocast("cuda")`` computes in half precision, and below in full: torch's documented lists."""
IN_FULL = {
    *(getattr(torch, name) for name in ("cumsum", "exp", "expm1", "layer_norm", "log", "log_softmax", "norm", "pow")),
    *(getattr(torch, name) for name in ("prod", "rsqrt", "softmax", "sum")),
    *(getattr(torch.Tensor, name) for name in ("cumsum", "exp", "expm1", "log", "log_softmax", "norm", "pow")),
    *(getattr(torch.Tensor, name) for name in ("prod", "rsqrt", "softmax", "sum")),
    *(functional.cross_entropy, functional.layer_norm, functional.log_softmax, functional.softmax),
}


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on the GPU; ``held`` has its numbers.

    Torch's own code takes it for one on the meta device, since autograd would ask a GPU's driver for streams. What
    that code does by the device, ``PretendedGpu`` and ``Arguments`` put right.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        with torch.inference_mode(False):
            shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            made = torch.Tensor._make_subclass(cls, shape, held.requires_grad, device_for_backend_keys=GPU)
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor on the GPU to numpy: copy it to the CPU first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = OnGpu(self.held.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = (
                torch.nn.Parameter(made, self.requires_grad) if isinstance(self, torch.nn.Parameter) else made
            )
        return memo[id(self)]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_as_tensors(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(key), value)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} meets a tensor of the pretended GPU outside of its time")


class PretendedGpu(TorchDispatchMode):
    """While it is entered, this thread has one.

    Attributes:
        waits: how often Python had to wait for the GPU, by torch's operator.
        calls: operators that were computed on it.
        meta_asked_for: whether the meta device is meant where it is named.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.calls, self.meta_asked_for = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode torch leaves it to us to see what it is made of
                return func.decompose(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in given if isinstance(tensor, OnGpu)]
        packet, wanted = func.overloadpacket, kwargs.get("device")
        wanted = None if wanted is None else torch.device(wanted).type
        if there and packet not in BETWEEN:
            self._refuse_mixture(func, args, given)
        if wanted == "meta" and not self.meta_asked_for:
            wanted = "cuda"  # torch's own code makes a tensor beside one of these
        if wanted == "cuda":
            kwargs["device"] = CPU
        to_gpu = wanted == "cuda" or (bool(there) and wanted is None)
        if packet is aten.copy_:
            to_gpu = isinstance(args[0], OnGpu)
        self._count(packet, args, there, to_gpu)
        known = {id(tensor.held): tensor for tensor in there}
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))

        def put(result: Any) -> Any:
            if not isinstance(result, torch.Tensor) or isinstance(result, OnGpu):
                return result
            if id(result) in known:
                return known[id(result)]
            return OnGpu(result) if to_gpu else result

        return tree_map(put, found)

    def _refuse_mixture(self, func: Any, args: Any, given: Sequence[torch.Tensor]) -> None:
        if any(tensor.is_meta for tensor in given):
            raise RuntimeError(f"{func} meets a tensor that torch's own code made without numbers")
        free: set[int] = set()
        if func.overloadpacket in INDEXED:
            free = {id(index) for index in args[1] if index is not None}
        wrong = [one for one in given if not isinstance(one, OnGpu) and one.dim() > 0 and id(one) not in free]
        if wrong:
            shapes = [f"{'GPU' if isinstance(one, OnGpu) else 'CPU'} {tuple(one.shape)}" for one in given]
            raise RuntimeError(f"{func} meets tensors of two devices: {', '.join(shapes)}")

    def _count(self, packet: Any, args: Any, there: Sequence[torch.Tensor], to_gpu: bool) -> None:
        self.calls += bool(there) or to_gpu
        by_mask = packet in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
        leaves = packet in BETWEEN and bool(there) and not to_gpu
        if there and (packet in WAITING or by_mask or leaves):
            self.waits[str(packet).removeprefix("aten.")] += 1


class Arguments(TorchFunctionMode):
    """What torch does to the arguments of functions, where it goes by what it thinks the device is.

    In ``torch.autocast("cuda")`` it casts them, and the meta device is meant where Python code names it.
    """

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, str | torch.device) and str(leaf) == "meta" for leaf in tree_leaves((args, kwargs))):
            self.gpu.meta_asked_for = True
            try:
                return func(*args, **kwargs)
            finally:
                self.gpu.meta_asked_for = False
        if torch.is_autocast_enabled("cuda") and (func in IN_HALF or func in IN_FULL):
            kind = torch.get_autocast_dtype("cuda") if func in IN_HALF else torch.float32

            def cast(leaf: Any) -> Any:
                floats = isinstance(leaf, OnGpu) and leaf.dtype in (torch.float32, torch.bfloat16)
                return leaf.to(kind) if floats else leaf

            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        return func(*args, **kwargs)


def _as_tensors(key: Any) -> Any:
    """Lists of places as tensors: torch would make them where it thinks that the indexed tensor lies."""
    if isinstance(key, tuple):
        return tuple(map(_as_tensors, key))
    return torch.tensor(key, dtype=torch.long) if isinstance(key, list | range) else key


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnGpu) else leaf


CUDA: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_, **__: True,
    "device_count": lambda: 1,
    "get_device_name": lambda _device: "a pretended GPU",
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda *_: None,
}
"""What ``torch.cuda`` answers."""


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Inside, this thread has a GPU; it has to be named with its number, ``cuda:0``."""
    swaps, only_cpu = torch.__future__.get_swap_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a weight's numbers cannot change their device
    torch._C._set_only_lift_cpu_tensors(True)  # what torch.tensor makes goes to its device where it is seen
    try:
        with patch.multiple(torch.cuda, **CUDA), PretendedGpu() as gpu, Arguments(gpu):
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(only_cpu)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
