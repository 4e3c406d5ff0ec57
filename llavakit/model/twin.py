"""Tiny twins: a decoder of the same class and the same ways as a large one, small enough to run in milliseconds.

What a config says about *how* is kept (kinds of layers, norms, biases, rotary rule, routing); what it says about
*how much* is cut down by the names that `transformers` gives such numbers. Windows become shorter than a probe's
rows.
"""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.model.decoding import body

MOST = 20_000_000  # parameters of a twin
# What classes of `transformers` raise when a config or an input does not suit them.
FOREIGN = (
    TypeError, ValueError, RuntimeError, AttributeError, AssertionError, LookupError, ImportError,
    StrictDataclassError,
)  # fmt: skip
WINDOW = 4  # tokens that a layer with a window sees in a twin
# Names that `transformers` gives to numbers of a kind, and what they become where they are larger.
DEPTHS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "num_blocks",
    "num_layers_per_stack",
)  # fmt: skip
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size", "word_embed_proj_dim",
            "input_embedding_size", "output_embedding_size", "lru_width", "linear_width", "mamba_d_ssm",
            "hidden_size_per_layer_input",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_inner", "dff", "dim_ff", "ffn_dim",
            "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
            "shared_experts_intermediate_size", "expert_ffn_hidden_size", "dense_intermediate_size",
            "intermediate_size_mlp", "moe_shared_expert_intermediate_size", "decoder_ffn_dim", "feed_forward_size",
        ),
        64,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads",
            "swa_num_attention_heads", "linear_num_value_heads", "linear_num_heads", "index_n_heads",
            "num_decoder_attention_heads", "mamba_n_heads", "mamba_num_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        ("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads", "linear_num_key_heads"), 2
    ),
    **dict.fromkeys(
        (
            "head_dim", "swa_head_dim", "kv_channels", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
            "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "index_head_dim", "dim_head",
            "attention_head_size", "d_head", "rotary_dim", "global_head_dim",
        ),
        8,
    ),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "gated_norm_rank", "laurel_rank"), 16),
    "qk_head_dim": 16,
    **dict.fromkeys(
        (
            "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num",
        ),
        4,
    ),
    **dict.fromkeys(
        (
            "num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "n_group", "topk_group",
            "num_expert_group", "num_shared_experts", "n_shared_experts", "moe_num_shared_experts", "n_groups",
            "o_groups", "mamba_n_groups",
        ),
        2,
    ),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "block_size"), 4),
    **dict.fromkeys(
        (
            "sliding_window", "attention_chunk_size", "attention_window_size", "sliding_window_size", "window_size",
            "local_attention", "keep_window_size",
        ),
        WINDOW,
    ),
    **dict.fromkeys(
        (
            "max_position_embeddings", "n_positions", "max_seq_len", "context_length", "max_target_positions",
            "original_max_position_embeddings",
        ),
        128,
    ),
}  # fmt: skip
# What is kept at its size where a smaller twin cannot be built: first nothing, then depths, then widths of heads.
WHOLE = (
    frozenset[str](),
    frozenset(DEPTHS),
    frozenset({"head_dim", "num_attention_heads", "num_key_value_heads", "num_heads", "hidden_size"}),
)


def tiny_twin(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """A small decoder with random weights on the CPU, in evaluation mode, with the class's own eager attention.

    Raises ConfigError where none can be built.
    """
    reasons = []
    for keep in WHOLE:
        # The global generator stays where it is: seeded runs build their own parts around this.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                small = tiny_config(config, keep)
                with torch.device("meta"):
                    size = sum(parameter.numel() for parameter in kind._from_config(small).parameters())
                if size > MOST:
                    raise ValueError(f"it still has {size} parameters")
                twin: PreTrainedModel = kind._from_config(
                    small, dtype=torch.float32, attn_implementation="eager"
                )
                _scatter(twin)
                with torch.no_grad():  # some numbers only show that they do not go together when they meet
                    body(twin.eval())(input_ids=torch.arange(2, 12)[None], use_cache=False)
                return twin
            except FOREIGN as error:
                reasons.append(first_line(error))
    raise ConfigError(f"{kind.__name__}: no small twin of it runs as a decoder: {reasons[0]}")


def first_line(error: Exception) -> str:
    """What a library says, without what it was doing then and the rest of it."""
    text = str(error.__cause__ or error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def tiny_config(config: PreTrainedConfig, keep: frozenset[str] = frozenset()) -> PreTrainedConfig:
    """The config of the twin, with the numbers named in `keep` as they are."""
    settings = config.to_dict()
    settings.pop("quantization_config", None)
    return type(config).from_dict(_shrunk(settings, keep))


def _shrunk(settings: Mapping[str, Any], keep: frozenset[str]) -> dict[str, Any]:
    name, depth = next(
        ((name, settings[name]) for name in DEPTHS if isinstance(settings.get(name), int)), ("", 0)
    )
    layers = list(range(depth)) if name in keep else _kinds(settings, depth)
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if name in DEPTHS:
            out[name] = len(layers) if value == depth else value
        elif isinstance(value, list) and depth and len(value) == depth and name not in SIZES:
            out[name] = [value[layer] for layer in layers]
        elif isinstance(value, list) and depth and len(value) == depth:
            out[name] = [min(value[layer], SIZES[name]) for layer in layers]
        elif name == "per_layer_config" and isinstance(value, dict):
            theirs = {int(layer): _shrunk(each, keep) for layer, each in value.items()}
            out[name] = {new: theirs[layer] for new, layer in enumerate(layers) if layer in theirs}
        elif isinstance(value, dict):
            out[name] = _shrunk(value, keep) if "model_type" in value else value
        elif isinstance(value, bool) or value is None or name in keep:
            out[name] = value
        elif name in SIZES and isinstance(value, int):
            out[name] = min(value, SIZES[name])
        elif name.endswith("_token_id"):
            out[name] = 1
        else:
            out[name] = value
    if settings.get("num_key_value_heads") == settings.get("num_attention_heads") is not None:
        out["num_key_value_heads"] = out["num_attention_heads"]
    if isinstance(settings.get("rope_parameters"), dict):
        share = settings.get("partial_rotary_factor") or 1.0
        width = out.get("head_dim") or out.get("hidden_size", 32) // out.get("num_attention_heads", 4)
        out["rope_parameters"] = _shrunk_rope(settings["rope_parameters"], width, share)
    return out


def _shrunk_rope(rope: Mapping[str, Any], width: int, share: float) -> dict[str, Any]:
    """Rotary settings, of which some have a number for each pair of a head's rotated elements."""
    pairs = int(width * (rope.get("partial_rotary_factor") or share)) // 2
    out: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, dict):  # settings for a kind of layer
            out[name] = _shrunk_rope(value, width, share)
        elif name in ("short_factor", "long_factor") and isinstance(value, list):
            out[name] = value[:pairs]
        elif name == "mrope_section" and isinstance(value, list):
            out[name] = [pairs - (len(value) - 1) * (pairs // 4), *([pairs // 4] * (len(value) - 1))]
        else:
            out[name] = value
    return out


def _kinds(settings: Mapping[str, Any], depth: int) -> list[int]:
    """Numbers of layers that show every kind there is: the first of each, at least two."""
    lists = [
        value for value in settings.values() if isinstance(value, list) and depth and len(value) == depth
    ]
    apart = settings.get("per_layer_config") or {}
    special = {int(layer) for layer in apart}
    seen: dict[str, int] = {}
    for layer in range(depth):
        seen.setdefault(str([*(each[layer] for each in lists), layer in special]), layer)
    first = sorted(seen.values())
    return first if len(first) > 1 else list(range(min(depth, 2)))


def _scatter(twin: nn.Module) -> None:
    """Weights that all count: nothing at its initial zero or one, and products neither vanish nor explode."""
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
            else:
                parameter.uniform_(0.3, 1.0)
