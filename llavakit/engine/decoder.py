"""The decoder as the engine runs it: own layers for the Llama shape, the module of `transformers` for all others.

Own layers compute what the module computes, with fewer and larger operations: queries, keys and values are one
product, gate and up another; cosines are computed once; weights lie as the processor wants them. The module stays
the twin that tests compare with. Only for inference: nothing here has a gradient.
Shape letters: T tokens, L chosen rows, D decoder width, H query heads, G key heads, W head width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from llavakit.core.errors import ConfigError
from llavakit.engine.linear import linear
from llavakit.model.attention import Layout
from llavakit.model.llava import KeyValueCache, Llava

FEW = 16  # rows up to which a norm through layer_norm is faster than one written out
Weights = Literal["as_is", "bf16"]


class Decoder(Protocol):
    """What the engine asks of a decoder."""

    def __call__(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        layout: Layout,
        cache: KeyValueCache | None = None,
        last_L: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm: of every row, or only of the rows `last_L`, in that order."""
        ...

    def logits(self, hidden_LD: Tensor) -> Tensor: ...

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """New weights in place, by the names of the language model's state dict; the others stay as they are."""
        ...


class ModuleDecoder:
    """The language model of `transformers`, unchanged."""

    def __init__(self, model: Llava) -> None:
        self.model = model

    def __call__(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        layout: Layout,
        cache: KeyValueCache | None = None,
        last_L: Tensor | None = None,
    ) -> Tensor:
        hidden_TD = self.model.decode(x_TD, positions_T, layout, cache)
        return hidden_TD if last_L is None else hidden_TD[last_L]

    def logits(self, hidden_LD: Tensor) -> Tensor:
        return self.model.logits(hidden_LD)

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        copy_into(self.model, tensors)


class Layer:
    """One decoder layer with its products fused."""

    def __init__(self, source: Any) -> None:
        attention = source.self_attn
        self.source, self.scaling, self.width = source, attention.scaling, attention.head_dim
        self.heads = attention.q_proj.weight.shape[0] // self.width
        self.key_heads = attention.k_proj.weight.shape[0] // self.width
        self.qkv, self.out = linear(*self._qkv()), linear(*_weights(attention.o_proj))
        self.gate_up, self.down = linear(*self._gate_up()), linear(*_weights(source.mlp.down_proj))
        self.norm, self.mlp_norm = Norm(source.input_layernorm), Norm(source.post_attention_layernorm)

    def load(self) -> None:
        """Take the source's weights again."""
        self.qkv.load(*self._qkv())
        self.out.load(*_weights(self.source.self_attn.o_proj))
        self.gate_up.load(*self._gate_up())
        self.down.load(*_weights(self.source.mlp.down_proj))
        self.norm.load()
        self.mlp_norm.load()

    def _qkv(self) -> tuple[Tensor, Tensor | None]:
        attention = self.source.self_attn
        return _stack(attention.q_proj, attention.k_proj, attention.v_proj)

    def _gate_up(self) -> tuple[Tensor, Tensor | None]:
        return _stack(self.source.mlp.gate_proj, self.source.mlp.up_proj)

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
        both_TXW = rotate(self.head_norms(qkv_TXW[:, :turned]), cos_T1W, sin_T1W)
        query_1HTW, key_1GTW, value_1GTW = (
            part.transpose(0, 1)[None]
            for part in (both_TXW[:, : self.heads], both_TXW[:, self.heads :], qkv_TXW[:, turned:])
        )
        keys, values = (key_1GTW, value_1GTW)
        if cache is not None:
            keys, values = cache.update(key_1GTW, value_1GTW, number)
        out_1HTW = layout.attend(query_1HTW, keys, values, self.scaling)
        return out_1HTW[0].transpose(0, 1).reshape(len(x_TD), -1)

    def head_norms(self, both_TXW: Tensor) -> Tensor:
        """Norms of single heads before the rotation, where a family has them."""
        return both_TXW

    def finish(self, x_TD: Tensor, attended_TX: Tensor) -> Tensor:
        """Output product and feed-forward, each added to the residual stream."""
        x_TD = self.out.add(attended_TX, x_TD)
        gate_TI, up_TI = self.gate_up(self.mlp_norm(x_TD)).chunk(2, dim=-1)
        return self.down.add(F.silu(gate_TI, inplace=True).mul_(up_TI), x_TD)


class NormedLayer(Layer):
    """Qwen3: every query and key head is normed before the rotation."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.query_norm, self.key_norm = Norm(source.self_attn.q_norm), Norm(source.self_attn.k_norm)

    def load(self) -> None:
        super().load()
        self.query_norm.load()
        self.key_norm.load()

    def head_norms(self, both_TXW: Tensor) -> Tensor:
        query_THW, key_TGW = both_TXW.split((self.heads, self.key_heads), dim=1)
        return torch.cat((self.query_norm(query_THW), self.key_norm(key_TGW)), dim=1)


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


LAYERS: dict[type, type[Layer]] = {
    LlamaForCausalLM: Layer,
    MistralForCausalLM: Layer,
    Qwen2ForCausalLM: Layer,
    Qwen3ForCausalLM: NormedLayer,
}


class FusedDecoder:
    """Own layers over the weights of a Llama-shaped language model.

    The weights of its products are copies; norms and token tables are shared with the module.
    """

    def __init__(self, model: Llava) -> None:
        self.model = model
        body: Any = model.language.get_decoder()
        self.rotary = body.rotary_emb
        layer_type = LAYERS[type(model.language)]
        with torch.no_grad():
            self.layers = [layer_type(source) for source in body.layers]
            self.norm = Norm(body.norm)
            self.head = linear(*self._head())
        self.window = sliding_window(model.language)

    def _head(self) -> tuple[Tensor, Tensor | None]:
        return _weights(self.model.language.get_output_embeddings())

    def __call__(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        layout: Layout,
        cache: KeyValueCache | None = None,
        last_L: Tensor | None = None,
    ) -> Tensor:
        self._check_window(positions_T)
        cos_T1W, sin_T1W = self._angles(x_TD, positions_T)
        for number, layer in enumerate(self.layers):
            attended_TX = layer.attend(x_TD, cos_T1W, sin_T1W, layout, cache, number)
            if last_L is not None and number == len(self.layers) - 1:
                x_TD, attended_TX = x_TD[last_L], attended_TX[last_L]
            x_TD = layer.finish(x_TD, attended_TX)
        return self.norm(x_TD)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        logits_LV: Tensor = self.head(hidden_LD)
        return logits_LV

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        copy_into(self.model, tensors)
        with torch.no_grad():
            for layer in self.layers:
                layer.load()
            self.norm.load()
            self.head.load(*self._head())

    def _angles(self, x_TD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines whose first half is negative, as `rotate` wants them; the module's own numbers."""
        cos_1TW, sin_1TW = self.rotary(x_TD[None], positions_T[None])
        half = sin_1TW.shape[-1] // 2
        sin_TW = torch.cat((-sin_1TW[0, :, :half], sin_1TW[0, :, half:]), dim=-1)
        return cos_1TW[0, :, None], sin_TW[:, None]

    def _check_window(self, positions_T: Tensor) -> None:
        if self.window is not None and int(positions_T.max()) >= self.window:
            raise ConfigError(
                f"this decoder has a sliding window of {self.window} tokens, and a sequence reaches position "
                f"{int(positions_T.max())}; llavakit does not support windows: use shorter prompts and answers"
            )


def rotate(x_TXW: Tensor, cos_T1W: Tensor, sin_T1W: Tensor) -> Tensor:
    """Rotary positions for all heads at once. `sin` has its first half negated, so no half of x needs to be."""
    low, high = x_TXW.chunk(2, dim=-1)
    return torch.addcmul(x_TXW * cos_T1W, torch.cat((high, low), dim=-1), sin_T1W)


def fuse(model: Llava, weights: Weights = "as_is") -> Decoder:
    """The fastest decoder for this model: own layers where its family has them, else the module itself."""
    if weights == "bf16":
        language: torch.nn.Module = model.language
        language.to(torch.bfloat16)
    return FusedDecoder(model) if _can_fuse(model) else ModuleDecoder(model)


def _can_fuse(model: Llava) -> bool:
    """Whether the layers are of a known shape and plain: without adapters, not quantized, on one device."""
    if type(model.language) not in LAYERS or model.language.config.hidden_act != "silu":
        return False
    body: Any = model.language.get_decoder()
    products = [
        module
        for layer in body.layers
        for part in (layer.self_attn, layer.mlp)
        for name, module in part.named_children()
        if name.endswith("_proj")
    ]
    devices = {parameter.device for parameter in model.language.parameters()}
    return len(devices) == 1 and all(type(product) is torch.nn.Linear for product in products)


def sliding_window(language: Any) -> int | None:
    """Tokens that every layer sees, None if no layer is limited."""
    if isinstance(language, LlamaForCausalLM):
        return None
    if isinstance(language, MistralForCausalLM):
        return language.config.sliding_window
    windows = [layer.self_attn.sliding_window for layer in language.get_decoder().layers]
    return min((window for window in windows if window is not None), default=None)


@torch.no_grad()
def copy_into(model: Llava, tensors: Mapping[str, Tensor]) -> None:
    """Copy into the language model's tensors, by name; an unknown name or another shape is an error."""
    own = model.language.state_dict()
    for name, tensor in tensors.items():
        if name not in own:
            raise ConfigError(f"new weights: the language model has no tensor {name}")
        if own[name].shape != tensor.shape:
            raise ConfigError(
                f"new weights: {name} is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}"
            )
        own[name].copy_(tensor)


def _weights(module: Any) -> tuple[Tensor, Tensor | None]:
    return module.weight, module.bias


def _stack(*modules: Any) -> tuple[Tensor, Tensor | None]:
    """Weights of several products as one: their outputs stand side by side."""
    biases = [module.bias for module in modules]
    weight_OI = torch.cat([module.weight for module in modules])
    return weight_OI, None if biases[0] is None else torch.cat(biases)
