"""A decoder across devices, or quantized, by the means of `transformers`, on weights that are already read; and
weights in memory of their own.

Only the decoder is placed. Tower and connector are a few hundred megabytes, stay in their own type, and live with
the decoder's token embeddings: a quantized connector costs answers and saves nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_accelerate_available, is_bitsandbytes_available
from transformers.utils.quantization_config import QuantizationConfigMixin

from llavakit.core.errors import ConfigError
from llavakit.model.llava import Llava

DeviceMap = str | dict[str, int | str | torch.device]


def four_bits() -> QuantizationConfigMixin:
    """QLoRA's quantization: nf4 with its scales quantized too; the head stays as it is."""
    if not is_bitsandbytes_available():
        raise ConfigError("model.lora.four_bit needs bitsandbytes: pip install 'llavakit[quantize]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if _has_bf16() else torch.float32,
    )


def _has_bf16() -> bool:
    """Whether there is a GPU with bf16 products; older ones emulate them."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def place_language(
    model: Llava,
    tensors: dict[str, Tensor],
    *,
    dtype: torch.dtype | None,
    device_map: DeviceMap | None,
    quantization: QuantizationConfigMixin | None,
) -> Llava:
    """`model`, whose decoder has no memory yet, with its weights `tensors` (our names) placed as asked.

    `device_map` is that of `transformers` for the decoder ("auto", a device, or a dict by module), and splits no
    decoder layer. Needs the package accelerate; a quantization also its own.
    """
    if not is_accelerate_available():
        raise ConfigError("device_map and quantization need accelerate: pip install accelerate")
    parts = {key: tensor for key, tensor in tensors.items() if not key.startswith("language.")}
    weights = {key.removeprefix("language."): tensors[key] for key in tensors.keys() - parts.keys()}
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(model.language.config)]
    try:
        language: PreTrainedModel
        language, told = kind.from_pretrained(
            None,
            config=model.language.config,
            state_dict=weights,
            dtype="auto" if dtype is None else dtype,
            device_map=device_map,
            quantization_config=quantization,
            output_loading_info=True,
        )
    except ImportError as error:
        raise ConfigError(
            f"quantization={type(quantization).__name__}: {' '.join(str(error).split())}"
        ) from None
    if told["missing_keys"]:  # would be random numbers
        raise ConfigError(f"the decoder's weights lack {sorted(told['missing_keys'])[:2]}")
    placed = Llava(model.tower, model.connector, language, model.newline, model.score)
    placed.load_state_dict(parts, assign=True, strict=False)
    table: Any = language.get_input_embeddings()
    for part in (placed.tower, placed.connector, placed.newline, placed.score):
        part.to(device=table.weight.device, dtype=dtype)
    return placed


def own_memory(model: nn.Module) -> None:
    """Move weights that lie in a mapped file to memory of their own, on the boundaries that allocations have.

    Where a tensor begins in a file depends on its header; products on the CPU sum in another order there, so a run
    that goes on from a checkpoint would differ in last bits from one that was not stopped. And as long as one
    tensor lies in a file, all that was read of it counts as this process's memory.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        # Only storage that PyTorch allocated can be resized.
        if tensor.device.type == "cpu" and not tensor.untyped_storage().resizable():
            tensor.data = tensor.data.clone()
