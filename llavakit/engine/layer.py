"""One decoder layer of the Llama shape, with its products fused and nothing computed twice.

Shape letters: T tokens, D decoder width, H query heads, G key heads, X = H + 2G, W head width, I feed-forward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from llavakit.engine.linear import Make
from llavakit.engine.weights import Product
from llavakit.model.attention import KeyValueCache, Layout, Scoring

FEW = 16  # rows up to which a norm through layer_norm is faster than one written out


class Norm:
    """RMSNorm: written out for many rows; few go through layer_norm, which is one operation.

    A row next to its negative has mean zero, so its variance is the mean square.
    """

    def __init__(self, source: Any) -> None:
        self.source, self.epsilon = source, source.variance_epsilon
        self.load()

    def load(self) -> None:
        """Take the source's weights again."""
        self.weight_D = self.source.weight.detach()
        self.twice = torch.cat((self.weight_D, self.weight_D))

    def __call__(self, x_TD: Tensor) -> Tensor:
        width = x_TD.shape[-1]
        if len(x_TD) <= FEW:
            both = torch.cat((x_TD, -x_TD), dim=-1)
            return F.layer_norm(both, (2 * width,), self.twice, None, self.epsilon)[..., :width]
        wide = x_TD.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = length.square_().div_(width).add_(self.epsilon).rsqrt_()
        return wide.mul_(scale).to(x_TD.dtype).mul_(self.weight_D)


class Layer:
    """Llama, Mistral, Qwen2, and Qwen3, where every query and key head is normed before the rotation."""

    def __init__(
        self,
        language: PreTrainedModel,
        prefix: str,
        make: Make,
        make_norm: type[Norm],
        *,
        head_norms: bool,
        window: int | None = None,
    ) -> None:
        """`prefix` names the layer in the language model, as in `model.layers.0`; `window`: tokens it sees."""
        source: Any = language.get_submodule(prefix)
        attention = source.self_attn
        self.how, self.width = Scoring(attention.scaling, window), attention.head_dim
        self.heads = attention.q_proj.out_features // self.width
        self.key_heads = attention.k_proj.out_features // self.width
        self.products = [
            Product(language, [f"{prefix}.{name}" for name in names], make)
            for names in (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.o_proj",),
                ("mlp.gate_proj", "mlp.up_proj"),
                ("mlp.down_proj",),
            )
        ]
        self.qkv, self.out, self.gate_up, self.down = (product.linear for product in self.products)
        self.norm, self.mlp_norm = (
            make_norm(source.input_layernorm),
            make_norm(source.post_attention_layernorm),
        )
        self.head_norms = (make_norm(attention.q_norm), make_norm(attention.k_norm)) if head_norms else ()
        self.norms = [self.norm, self.mlp_norm, *self.head_norms]

    def attend(
        self,
        x_TD: Tensor,
        cos_T1W: Tensor,
        sin_T1W: Tensor,
        layout: Layout,
        cache: KeyValueCache | None,
        number: int,
    ) -> Tensor:
        """What every row's heads gathered, [T, H * W], before the output product."""
        qkv_TXW = self.qkv(self.norm(x_TD)).view(len(x_TD), -1, self.width)
        turned = self.heads + self.key_heads
        both_TXW = qkv_TXW[:, :turned]
        if self.head_norms:
            parts = both_TXW.split((self.heads, self.key_heads), dim=1)
            both_TXW = torch.cat(
                [norm(part) for norm, part in zip(self.head_norms, parts, strict=True)], dim=1
            )
        both_TXW = rotate(both_TXW, cos_T1W, sin_T1W)
        return self.attend_heads(both_TXW, qkv_TXW[:, turned:], layout, cache, number)

    def attend_heads(
        self, both_TXW: Tensor, value_TGW: Tensor, layout: Layout, cache: KeyValueCache | None, number: int
    ) -> Tensor:
        """Attention of query and key heads that stand side by side."""
        query_1HTW, key_1GTW, value_1GTW = (
            part.transpose(0, 1)[None]
            for part in (both_TXW[:, : self.heads], both_TXW[:, self.heads :], value_TGW)
        )
        keys, values = key_1GTW, value_1GTW
        if cache is not None:
            keys, values = cache.update(key_1GTW, value_1GTW, number)
        out_1HTW = layout.attend(query_1HTW, keys, values, self.how)
        return out_1HTW[0].transpose(0, 1).reshape(len(both_TXW), -1)

    def finish(self, x_TD: Tensor, attended_TX: Tensor) -> Tensor:
        """Output product and feed-forward, each added to the residual stream."""
        x_TD = self.out.add(attended_TX, x_TD)
        gate_TI, up_TI = self.gate_up(self.mlp_norm(x_TD)).chunk(2, dim=-1)
        return self.down.add(F.silu(gate_TI, inplace=True).mul_(up_TI), x_TD)


def rotate(x_TXW: Tensor, cos_T1W: Tensor, sin_T1W: Tensor) -> Tensor:
    """Rotary positions for all heads at once. `sin` has its first half negated, so no half of x needs to be."""
    low, high = x_TXW.chunk(2, dim=-1)
    return torch.addcmul(x_TXW * cos_T1W, torch.cat((high, low), dim=-1), sin_T1W)
