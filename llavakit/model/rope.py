"""Linear RoPE scaling: positions divided by a factor, so that a decoder reads a longer row than it was trained on.

LLaVA-NeXT-Video (2024-04-30) asks for it when the frames of a video do not fit (vision/frames.py: rope_factor).
"""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

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
