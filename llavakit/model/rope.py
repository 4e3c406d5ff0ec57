"""Rotary positions: linear scaling, frequencies that do not depend on a row's company, and casts that spare them.

Linear scaling divides positions by a factor, so that a decoder reads a longer row than it was trained on;
LLaVA-NeXT-Video (2024-04-30) asks for it when the frames of a video do not fit (vision/frames.py: rope_factor).
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llavakit.core.errors import ConfigError

MAX_CONTEXT = 10**8  # a tokenizer without a limit says 10**30


def stretch_config(config: PreTrainedConfig, factor: float) -> None:
    """Make `config` divide its positions by `factor`, counted from the unscaled decoder; the context grows as much.

    A config that is scaled linearly already is brought to the new factor. Any other scaling, or none to scale, is
    a ConfigError: two rules on top of each other mean nothing.
    """
    rope = config.to_dict().get("rope_parameters")
    kind = config.model_type
    if not rope or rope.get("rope_type") is None:
        what = "has rotary settings per kind of layer" if rope else "has no rotary position embedding"
        raise ConfigError(f"rope_factor={factor:g}: a decoder of type {kind} {what}; leave rope_factor out")
    if rope["rope_type"] not in ("default", "linear"):
        raise ConfigError(
            f"rope_factor={factor:g}: this decoder's positions are already scaled by rope_type "
            f"{rope['rope_type']!r}; leave rope_factor out"
        )
    if factor < 1:
        raise ConfigError(f"rope_factor={factor:g}: must be at least 1")
    settings: Any = config
    context = settings.max_position_embeddings * factor / rope.get("factor", 1.0)
    settings.max_position_embeddings = round(context)
    settings.rope_parameters = {**rope, "rope_type": "linear", "factor": float(factor)}


def stretch(language: PreTrainedModel, factor: float) -> None:
    """The same for a decoder that is already built: its rotary embedding is made again."""
    stretch_config(language.config, factor)
    decoder: Any = language.get_decoder()
    rotary = dict(decoder.named_children()).get("rotary_emb")
    if rotary is None:
        raise ConfigError(
            f"rope_factor={factor:g}: llavakit does not know where a decoder of type "
            f"{language.config.model_type} keeps its rotary embedding; leave rope_factor out"
        )
    decoder.rotary_emb = type(rotary)(config=language.config).to(language.device)


def with_context(text: dict[str, Any], *claims: object) -> dict[str, Any]:
    """Settings of a decoder as its files have them, with `max_position_embeddings` the tokens it has positions for.

    Files give the positions before linear scaling. `max_sequence_length` among the settings, and further `claims`
    (what a release says it was trained with), count where they are larger.
    """
    if "max_position_embeddings" not in text:
        return text
    stretched = text["max_position_embeddings"] * (linear_factor(text) or 1)
    said = [claim for claim in (text.get("max_sequence_length"), *claims) if isinstance(claim, int)]
    context = max(round(stretched), *(claim for claim in (0, *said) if claim <= MAX_CONTEXT))
    return text | {"max_position_embeddings": context}


def as_stored(text: dict[str, Any]) -> dict[str, Any]:
    """The other way: `max_position_embeddings` as files have it, before linear scaling."""
    if "max_position_embeddings" not in text:
        return text
    return text | {
        "max_position_embeddings": round(text["max_position_embeddings"] / (linear_factor(text) or 1))
    }


def classic_rope(text: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which `transformers` 4 reads, of settings that have `rope_parameters`.

    Empty for settings that differ by the kind of layer, which version 4 spells in as many ways as it has classes.
    """
    rope = dict(text.get("rope_parameters") or {})
    kind = rope.pop("rope_type", None)
    if kind is None:
        return {}
    theta = rope.pop("rope_theta", 10000.0)
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else {"rope_type": kind, **rope}}


def linear_factor(text: dict[str, Any]) -> float | None:
    """The factor by which the settings of a decoder, as config.json has them, divide its positions; None for 1."""
    rope = text.get("rope_parameters") or {}
    return rope["factor"] if rope.get("rope_type") == "linear" else None


def fix_frequencies(language: PreTrainedModel) -> None:
    """One set of frequencies for the whole model, where `transformers` chooses by the longest row at hand.

    `longrope` has two sets, for rows within the original context and for longer ones: a model whose context is
    longer gets the second one, as in vLLM. `dynamic` scales behind the end of the context, which no row passes:
    never. Else a sample would depend on the samples beside it, and an answer on the moment it grows.
    """
    for module in language.modules():
        kinds = vars(module).get("rope_type")
        if isinstance(kinds, str):
            module.__dict__["rope_type"] = _fix(module, kinds, "", None)
        elif isinstance(kinds, dict):  # by kind of layer
            for layer, kind in kinds.items():
                kinds[layer] = _fix(module, kind, f"{layer}_", layer)


def _fix(module: nn.Module, kind: str, prefix: str, layer: str | None) -> str:
    """Set the frequencies called `prefix`inv_freq for good; the kind by which the module's forward leaves them."""
    if kind == "longrope":
        config: Any = vars(module)["config"]
        rope = config.rope_parameters if layer is None else config.rope_parameters[layer]
        frequencies = dict(module.named_buffers())[f"{prefix}inv_freq"]
        if config.max_position_embeddings > rope["original_max_position_embeddings"]:
            long, _ = ROPE_INIT_FUNCTIONS[kind](
                config, frequencies.device, seq_len=config.max_position_embeddings, layer_type=layer
            )
            frequencies.copy_(long)
    return "default" if kind in ("longrope", "dynamic") else kind


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights in another number format, as loading in it would give them.

    `module.to(dtype)` would round what is computed from the config, too: at position 1000 bf16 frequencies are a
    fifth of a radian off.
    """
    saved = module.state_dict().keys()
    computed = {name: buffer for name, buffer in module.named_buffers() if name not in saved}
    module.to(dtype)
    for name, buffer in computed.items():
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
