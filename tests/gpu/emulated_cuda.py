"""The tensors of the emulated device (emulated.py), and what stands in for functions of `torch.cuda`."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from llavakit.engine import graphs
from llavakit.engine.buckets import Replay
from llavakit.model import fused
from llavakit.model.attention import Scoring, attend_plain

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
# What depends on values, so that a host must have them.
READS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.bincount.default,
    aten._unique2.default, aten.unique_consecutive.default, aten.equal.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnCuda(Tensor):
    """Says that it is on CUDA; `twin` has its numbers."""

    twin: Tensor

    @staticmethod
    def __new__(cls, twin: Tensor) -> "OnCuda":
        place = {"strides": twin.stride(), "storage_offset": twin.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, twin.shape, **place, dtype=twin.dtype, device=CUDA)
        made.twin = twin
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"OnCuda({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    @property
    def data(self) -> "OnCuda":  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: "OnCuda") -> None:
        self.twin = other.twin

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=self.device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, lambda: None)


class EmulatedCuda(TorchDispatchMode):
    """While it is on, there is a device `cuda:0`."""

    def __init__(self) -> None:
        super().__init__()
        self.forbids = False  # waiting

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wait() -> None:
            if self.forbids:
                raise RuntimeError(f"called a synchronizing CUDA operation: {func}")

        return compute(func, args, dict(kwargs or {}), wait)


def compute(func: Any, args: Any, kwargs: dict[str, Any], wait: Callable[[], None]) -> Any:
    """One operation by the CPU; RuntimeError where CUDA would raise for tensors in two places."""
    if func is aten.is_pinned.default:
        return False
    if func is aten._pin_memory.default:
        return args[0].clone()
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    mine = [tensor for tensor in tensors if isinstance(tensor, OnCuda)]
    device = kwargs.get("device")
    wanted = None if device is None else torch.device(device).type
    if not mine and wanted != "cuda":
        return func(*args, **kwargs)
    if func is aten.copy_.default:
        source, goes, early = args[1].device.type, args[0].device.type, len(args) > 2 and args[2]
    elif func is aten._to_copy.default:
        source, goes = args[0].device.type, wanted or args[0].device.type
        early = kwargs.get("non_blocking", False)
    else:
        source = goes = wanted or "cuda"
        early = True
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnCuda) and tensor.dim()]
        if elsewhere and mine and func not in INDEXED:
            raise RuntimeError(f"{func}: tensors on cuda:0 and on cpu, {[tuple(x.shape) for x in elsewhere]}")
        masks = func is aten.index.Tensor and any(x is not None and x.dtype == torch.bool for x in args[1])
        if func in READS or masks or (elsewhere and mine):
            wait()
    if source != goes and not early:
        wait()
    plain_args, plain_kwargs = tree_map(
        lambda leaf: leaf.twin if isinstance(leaf, OnCuda) else leaf, (args, kwargs)
    )
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    plain_kwargs.pop("pin_memory", None)
    out = func(*plain_args, **plain_kwargs)
    if func is aten._to_copy.default and out.numel() and out.data_ptr() == plain_args[0].data_ptr():
        out = out.clone()
    if goes != "cuda":
        return out
    known = {id(tensor.twin): tensor for tensor in mine}
    out = tree_map(lambda leaf: known.get(id(leaf), OnCuda(leaf)) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if mine else out


def stand_in(device: EmulatedCuda) -> None:
    """What `torch.cuda` says of the device, and twins of kernels that exist on CUDA only."""
    plain_tensor = torch.tensor

    def tensor(data: Any, *, device: Any = None, **settings: Any) -> Tensor:
        made = plain_tensor(data, **settings)
        return made if device is None else made.to(device)

    def forbid(mode: str) -> None:
        device.forbids = mode == "error"

    torch.tensor = tensor  # type: ignore[assignment]
    generator = torch.Generator
    torch.Generator = lambda device=None: generator()  # type: ignore[assignment,misc]
    varlen.varlen_attn = attend_by_lengths
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    told: dict[str, Any] = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "current_device": lambda: 0,
        "device_count": lambda: 1, "get_device_capability": lambda *_: (9, 0), "synchronize": lambda *_: None,
        "is_bf16_supported": lambda *_, **__: True, "set_sync_debug_mode": forbid, "set_device": lambda *_: None,
        "mem_get_info": lambda *_: (2**32, 2**32), "get_device_name": lambda *_: "emulated",
        "get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
    }  # fmt: skip
    for name, does in told.items():
        setattr(torch.cuda, name, does)
    fused.attend_flex = attend_by_rule
    graphs.CudaGraphs = compute_again


def attend_by_rule(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, how: Any, kernel: Any = None
) -> Tensor:
    """FlexAttention's twin: the rule of the block mask, token by token."""
    at_T = torch.arange(query.shape[2], device=query.device)
    return attend_plain(query, key, value, mask.mask_mod(None, None, at_T[:, None], at_T), how)


def attend_by_lengths(
    query: Tensor, key: Tensor, value: Tensor, ends: OnCuda, same: Tensor, longest: int, _: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """The twin of the kernel for variable lengths: sequence by sequence."""
    assert enable_gqa and ends is same and ends.dtype == torch.int32
    places, parts = ends.twin.tolist(), []
    assert longest == max(end - start for start, end in pairwise(places))
    how = Scoring(scale, window=None if window_size[0] < 0 else window_size[0] + 1)
    for start, end in pairwise(places):
        at_T = torch.arange(end - start, device=query.device)
        see_TT = (at_T[:, None] >= at_T) & how.is_near(at_T, at_T)
        each = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        parts.append(attend_plain(*each, see_TT, how)[0].transpose(0, 1))
    return torch.cat(parts)


def compute_again(device: torch.device) -> Callable[[Callable[[], Tensor]], Replay]:
    """A recorder whose replay computes."""

    def record(compute: Callable[[], Tensor]) -> Replay:
        logits_TV = compute()

        def play() -> None:
            logits_TV.copy_(compute())

        return Replay(play, logits_TV)

    return record
