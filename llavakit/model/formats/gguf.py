"""Decoders out of GGUF files, dequantised to float32, as ordinary `transformers` models that can be saved."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def read_gguf(path: Path) -> PreTrainedModel:
    """A causal language model from one GGUF file.

    `transformers` marks such a model as quantized and refuses to save it, although its weights are plain
    float32 by then; so it is rebuilt from its configuration without that mark.
    """
    read = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(read.config).from_dict(settings)
    config.name_or_path = path.stem
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    assert isinstance(model, PreTrainedModel)
    return model
