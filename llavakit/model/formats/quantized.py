"""Directories whose weights were stored quantized (bitsandbytes, AWQ, GPTQ), as config.json says."""

from typing import Any

WRAPPERS = ("model.language_model.", "language_model.model.", "language_model.")


def stored_quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    """The `quantization_config` of a model or of its decoder; None for ordinary weights."""
    text = config.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, dict) else None
    found = config.get("quantization_config") or inner
    return found if isinstance(found, dict) else None


def method_of(quantization: dict[str, Any]) -> str:
    """What the scheme is called."""
    return str(quantization.get("quant_method", "an unnamed scheme"))


def for_decoder(quantization: dict[str, Any]) -> dict[str, Any]:
    """The same for the decoder alone: names of modules that stay as they are begin at the decoder."""
    out = dict(quantization)
    for key in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if isinstance(out.get(key), list):
            out[key] = [_inner(name) for name in out[key]]
    return out


def _inner(name: str) -> str:
    for wrapper in WRAPPERS:
        if name.startswith(wrapper):
            return "model." * (wrapper != "language_model.") + name.removeprefix(wrapper)
    return name
