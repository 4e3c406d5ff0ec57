"""The decoder as the engine runs it: own layers for the Llama shape, the module of `transformers` for all others.

Own layers compute what the module computes, with fewer and larger operations: queries, keys and values are one
product, gate and up another; cosines are computed once; weights lie as the processor wants them. The module stays
the twin that tests compare with. Only for inference: nothing here has a gradient.
Shape letters: T tokens, L chosen rows, D decoder width, W head width, V vocabulary.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from llavakit.core.errors import ConfigError
from llavakit.engine.layer import Layer, Norm
from llavakit.engine.layout import StepLayout
from llavakit.engine.linear import Format, Make, linear
from llavakit.engine.native import NativeLinear, Workspace, has_amx, misfit, missing
from llavakit.engine.native_layer import NativeLayer, NativeNorm, NativeSteps
from llavakit.engine.trial import check_steps
from llavakit.engine.weights import Product, check, refresh, replace_modules
from llavakit.model.attention import KeyValueCache, Layout
from llavakit.model.llava import Llava
from llavakit.model.rope import cast

log = logging.getLogger(__name__)
Weights = Literal["as_is", "bf16", "int8", "int4"]
Kernels = Literal["torch", "native", "auto"]
HEAD_NORMS = {  # the families with own layers; whether their query and key heads are normed
    LlamaForCausalLM: False,
    MistralForCausalLM: False,
    Qwen2ForCausalLM: False,
    Qwen3ForCausalLM: True,
}


class Decoder(Protocol):
    """What the engine asks of a decoder. It never changes `x_TD`."""

    kernels: Kernels
    lack: str | None  # why kernels="auto" did not take native ones

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

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise for new weights that `refresh` could not take. Changes nothing."""
        ...

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """New weights in place, by the names of the language model's state dict; the others stay as they are."""
        ...


def fuse(
    model: Llava,
    weights: Weights = "as_is",
    *,
    head: Weights | None = None,
    kernels: Kernels = "torch",
    release: bool = False,
) -> Decoder:
    """The fastest decoder for this model: own layers where its family has them, else the module itself.

    `weights` is the decoder's number format; tower and connector keep theirs, and token embeddings too. `head` is
    the format of the vocabulary product, None: int8 when the decoder is quantised, also for int4, as GGUF files
    keep it finer. It is a copy of its own where the tables are tied.
    `kernels`: PyTorch's products, or our own in C (native.py; bf16 activations on the CPU only). "auto" takes ours
    where they can run; `decoder.kernels` says which it was, and `decoder.lack` what ours need.
    `release` frees the module's weights that own layers have copied, so that they are not held twice; after it
    `model.language` itself cannot run. Quantised modules of other families are always replaced in place.
    """
    if not model.packing.packs:
        raise ConfigError(model.packing.explain(model.language))
    if weights == "bf16":
        cast(model.language, torch.bfloat16)
    body: Format = "as_is" if weights == "bf16" else weights
    head = head or ("as_is" if body == "as_is" else "int8")
    top: Format = "as_is" if head == "bf16" else head
    fused = _can_fuse(model.language)
    if not fused:
        check_steps(model.language)
    lack = None if kernels == "torch" else _lack(model, fused)
    if kernels == "native" and lack is not None:
        raise ConfigError(f"kernels='native' needs {lack}; use kernels='torch'")
    native = kernels != "torch" and lack is None
    decoder: Decoder = (
        FusedDecoder(model, body, top, native=native, release=release)
        if fused
        else ModuleDecoder(model, body, top)
    )
    if kernels == "auto":
        decoder.lack = lack
        log.info("%s", describe_kernels(decoder))
    return decoder


def _lack(model: Llava, fused: bool) -> str | None:
    """Why native kernels cannot run this model here, None if they can."""
    language: Any = model.language
    if not fused:
        return f"a plain decoder of the Llama shape, which this {type(language).__name__} is not"
    if language.dtype != torch.bfloat16 or language.device.type != "cpu":
        return f"bf16 weights on the CPU, and these are {language.dtype} on {language.device.type}"
    first = language.get_decoder().layers[0]
    for product in (first.self_attn.q_proj, first.self_attn.o_proj, first.mlp.down_proj):
        lack = misfit(product.in_features)
        if lack is not None:
            return lack
    return missing()


def describe_kernels(decoder: Decoder) -> str:
    """Whose products a decoder runs on, and why not on ours: the line that serve and chat start with."""
    lack = "" if decoder.lack is None else f"; native ones need {decoder.lack}"
    unit = " with AMX" if decoder.kernels == "native" and has_amx() else ""
    return f"the decoder runs on {decoder.kernels} kernels{unit}{lack}"


def _can_fuse(language: PreTrainedModel) -> bool:
    """Whether the layers are of a known shape and plain: without adapters, not quantized, on one device."""
    if type(language) not in HEAD_NORMS or language.config.hidden_act != "silu":
        return False
    body: Any = language.get_decoder()
    products = [
        module
        for layer in body.layers
        for part in (layer.self_attn, layer.mlp)
        for name, module in part.named_children()
        if name.endswith("_proj")
    ]
    devices = {parameter.device for parameter in language.parameters()}
    return len(devices) == 1 and all(type(product) is nn.Linear for product in products)


class ModuleDecoder:
    """The language model of `transformers`; for other formats its linear modules are replaced in place."""

    kernels: Kernels = "torch"
    lack: str | None = None

    def __init__(self, model: Llava, format: Format = "as_is", head: Format = "as_is") -> None:
        self.model = model
        makes = [None if each == "as_is" else partial(linear, format=each) for each in (format, head)]
        with torch.no_grad():
            self.products = replace_modules(model.language, *makes)

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

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        check(self.model.language, self.products, tensors)

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        refresh(self.model.language, self.products, tensors)


class FusedDecoder:
    """Own layers over the weights of a Llama-shaped language model.

    The weights of its products are copies; norms and the token table are the module's.
    """

    def __init__(self, model: Llava, format: Format, head: Format, *, native: bool, release: bool) -> None:
        self.language = model.language
        self.kernels: Kernels = "native" if native else "torch"
        self.lack: str | None = None
        self.work = Workspace()
        body: Any = model.language.get_decoder()
        self.rotary, self.layers = body.rotary_emb, []
        windows = _windows(model.language)
        with torch.no_grad():
            for number in range(len(body.layers)):
                layer = self._layer(f"model.layers.{number}", self._make(format), windows[number])
                self.layers.append(layer)
                if release:  # now, so that no more than one layer is held twice
                    for product in layer.products:
                        product.release()
            self.steps = NativeSteps(self.layers) if native else None
            self.norm = NativeNorm(body.norm) if native else Norm(body.norm)
            self.head = Product(model.language, ["lm_head"], self._make(head))

    def _make(self, format: Format) -> Make:
        if self.kernels == "native":
            return partial(NativeLinear, format=format, work=self.work)
        return partial(linear, format=format)

    def _layer(self, prefix: str, make: Make, window: int | None) -> Layer:
        normed = HEAD_NORMS[type(self.language)]
        if self.kernels == "native":
            return NativeLayer(
                self.language, prefix, make, NativeNorm, head_norms=normed, work=self.work, window=window
            )
        return Layer(self.language, prefix, make, Norm, head_norms=normed, window=window)

    def __call__(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        layout: Layout,
        cache: KeyValueCache | None = None,
        last_L: Tensor | None = None,
    ) -> Tensor:
        x_TD = x_TD.contiguous()  # native kernels read rows, not strides
        cos_T1W, sin_T1W = self._angles(x_TD, positions_T)
        if self.steps is not None and isinstance(layout, StepLayout) and self.steps.can_run(layout.longest):
            slots = layout.native_slots()
            if slots is not None:
                hidden_TD = self.norm(self.steps.run(x_TD, cos_T1W, sin_T1W, slots))
                return hidden_TD if last_L is None else hidden_TD[last_L]
        for number, layer in enumerate(self.layers):
            attended_TX = layer.attend(x_TD, cos_T1W, sin_T1W, layout, cache, number)
            if last_L is not None and number == len(self.layers) - 1:
                x_TD, attended_TX = x_TD[last_L], attended_TX[last_L]
            x_TD = layer.finish(x_TD, attended_TX)
        return self.norm(x_TD)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        return self.head.linear(hidden_LD)

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        check(self.language, self._products(), self._with_head(tensors))

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        refresh(self.language, self._products(), self._with_head(tensors))
        for norm in [norm for layer in self.layers for norm in layer.norms] + [self.norm]:
            norm.load()

    def _products(self) -> list[Product]:
        return [product for layer in self.layers for product in layer.products] + [self.head]

    def _with_head(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tied tables have two names and one tensor; whichever is given, the head's copy must follow."""
        if self.language.config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
            return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
        return tensors

    def _angles(self, x_TD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines whose first half is negative, as `rotate` wants them; the module's own numbers."""
        cos_1TW, sin_1TW = self.rotary(x_TD[None], positions_T[None])
        half = sin_1TW.shape[-1] // 2
        sin_TW = torch.cat((-sin_1TW[0, :, :half], sin_1TW[0, :, half:]), dim=-1)
        return cos_1TW[0, :, None], sin_TW[:, None]


def _windows(language: Any) -> list[int | None]:
    """Of each layer: the tokens it sees, None where it sees all."""
    layers = language.get_decoder().layers
    if isinstance(language, LlamaForCausalLM):
        return [None] * len(layers)
    if isinstance(language, MistralForCausalLM):
        return [language.config.sliding_window] * len(layers)
    return [layer.self_attn.sliding_window for layer in layers]
