"""A decoder layer through the kernels in C (kernels/layer.c): one call before attention, one after it."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llavakit.engine.layer import Layer, Norm
from llavakit.engine.layout import StepLayout
from llavakit.engine.linear import Make
from llavakit.engine.native import PANEL, NativeLinear, NativeSlots, Workspace, library
from llavakit.engine.weights import Product
from llavakit.model.attention import KeyValueCache, Layout

SPARE = 512  # bytes for borders of 64 between the parts of the workspace


class LayerStruct(ctypes.Structure):
    """`Layer` of kernels/kernels.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm", "mlp_norm", "query_norm", "key_norm")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("heads", "key_heads", "width")),
    ]


class NativeNorm(Norm):
    """RMSNorm of bf16 rows; its weights stand in float32, always at the same address."""

    def __init__(self, source: Any) -> None:
        self.wide_D = torch.empty(len(source.weight))
        super().__init__(source)

    def load(self) -> None:
        """Take the source's weights again."""
        super().load()
        self.wide_D.copy_(self.weight_D)

    @property
    def address(self) -> int:
        return self.wide_D.data_ptr()

    def __call__(self, x_TD: Tensor) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        library().norm(
            x_TD.data_ptr(), self.address, self.epsilon, y_TD.data_ptr(), *x_TD.shape, torch.get_num_threads()
        )
        return y_TD


class NativeLayer(Layer):
    """The same layer; its products are NativeLinear, its norms NativeNorm."""

    def __init__(
        self,
        language: PreTrainedModel,
        prefix: str,
        make: Make,
        make_norm: type[Norm],
        *,
        head_norms: bool,
        work: Workspace,
        window: int | None = None,
    ) -> None:
        super().__init__(language, prefix, make, make_norm, head_norms=head_norms, window=window)
        self.work, self.library = work, library()
        struct = LayerStruct(
            epsilon=self.norm.epsilon, heads=self.heads, key_heads=self.key_heads, width=self.width
        )
        struct.qkv, struct.out, struct.gate_up, struct.down = (_native(p).address for p in self.products)
        struct.norm, struct.mlp_norm = _address(self.norm), _address(self.mlp_norm)
        if self.head_norms:
            struct.query_norm, struct.key_norm = (_address(norm) for norm in self.head_norms)
        self.struct, self.address = struct, ctypes.addressof(struct)
        qkv, _, _, down = (_native(product) for product in self.products)
        heads, key_heads = self.heads * self.width, self.key_heads * self.width
        # Bytes a row needs for everything that stands between the products; bytes a thread needs to convert.
        self.row_bytes = 2 * (2 * qkv.inputs + down.inputs + 2 * heads + 2 * key_heads) + 4 * (
            heads + 2 * key_heads + PANEL
        )
        self.thread_bytes = max(_native(product).scratch for product in self.products)

    def attend(
        self,
        x_TD: Tensor,
        cos_T1W: Tensor,
        sin_T1W: Tensor,
        layout: Layout,
        cache: KeyValueCache | None,
        number: int,
    ) -> Tensor:
        tokens, turned = len(x_TD), self.heads + self.key_heads
        qkv_TXW = torch.empty(tokens, turned + self.key_heads, self.width, dtype=torch.bfloat16)
        threads = torch.get_num_threads()
        self.library.before_attention(
            self.address, x_TD.data_ptr(), cos_T1W.data_ptr(), sin_T1W.data_ptr(), qkv_TXW.data_ptr(), tokens,
            self.work.room(tokens * self.row_bytes + threads * self.thread_bytes + SPARE), self.thread_bytes,
            threads,
        )  # fmt: skip
        # The kernels know no windows: rows that are longer take PyTorch's products, of this layer only.
        if isinstance(layout, StepLayout) and not self.how.within(layout.longest).is_local:
            return layout.attend_rows(qkv_TXW, self.heads, number, self.how.scaling, self.work)
        return self.attend_heads(qkv_TXW[:, :turned], qkv_TXW[:, turned:], layout, cache, number)

    def finish(self, x_TD: Tensor, attended_TX: Tensor) -> Tensor:
        attended_TX, into_TD = attended_TX.contiguous(), torch.empty_like(x_TD)
        tokens, threads = len(x_TD), torch.get_num_threads()
        self.library.after_attention(
            self.address, attended_TX.data_ptr(), x_TD.data_ptr(), into_TD.data_ptr(), tokens,
            self.work.room(tokens * self.row_bytes + threads * self.thread_bytes + SPARE), self.thread_bytes,
            threads,
        )  # fmt: skip
        return into_TD


class NativeSteps:
    """All layers of a step in one call, where every row is one new token of a sequence in the cache."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = [layer for layer in layers if isinstance(layer, NativeLayer)]
        self.first = self.layers[0]
        self.addresses = (ctypes.c_void_p * len(self.layers))(*(layer.address for layer in self.layers))
        self.thread_bytes = max(layer.thread_bytes for layer in self.layers)

    def can_run(self, longest: int) -> bool:
        """Whether no layer has a window that is shorter than the longest row."""
        return not any(layer.how.within(longest).is_local for layer in self.layers)

    def run(self, x_TD: Tensor, cos_T1W: Tensor, sin_T1W: Tensor, slots: list[NativeSlots]) -> Tensor:
        """The last layer's output for every row."""
        first, x_TD, threads = self.first, x_TD.clone(), torch.get_num_threads()
        parts = (ctypes.c_void_p * len(slots))(*(each.address for each in slots))
        thread_bytes = -(-max(self.thread_bytes, *(each.score_bytes for each in slots)) // 64) * 64
        first.library.decode_step(
            self.addresses, len(self.layers), x_TD.data_ptr(), cos_T1W.data_ptr(), sin_T1W.data_ptr(), parts,
            len(slots), len(x_TD), first.how.scaling,
            first.work.room(len(x_TD) * first.row_bytes + threads * thread_bytes + SPARE), thread_bytes, threads,
        )  # fmt: skip
        return x_TD


def _native(product: Product) -> NativeLinear:
    assert isinstance(product.linear, NativeLinear)
    return product.linear


def _address(norm: Norm) -> int:
    assert isinstance(norm, NativeNorm)
    return norm.address
