"""Every causal class of the installed `transformers`, tried at a tiny size: writes the table of docs/models.md.

python -m benchmarks.decoder_table
"""

import re
import warnings
from collections import defaultdict
from pathlib import Path

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from benchmarks.page import rewrite
from llavakit.core.errors import ConfigError
from llavakit.engine.trial import try_steps
from llavakit.model.packing import try_packing
from llavakit.model.twin import FOREIGN, first_line

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- decoders: begin -->", "<!-- decoders: end -->"
# Classes whose config is not complete without something, and what their released models say.
COMPLETE = {
    "deepseek_v2": {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 4, "num_hidden_layers": 16},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
}


def types() -> list[str]:
    """The model types that have a causal class."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_type(name: str) -> tuple[str, str]:
    """(what llavakit does with the type, why)."""
    try:
        kind, config = _class_of(name)
        found = try_packing(kind, config)
    except ConfigError as error:
        return "refused", _nameless(error)
    except FOREIGN as error:
        return "refused", f"cannot be configured here: {first_line(error)}"
    if not found.packs:
        return "alone", ""
    try:
        try_steps(kind, config)
    except ConfigError as error:
        return "trained", _nameless(error)
    return "packs", ""


def _nameless(error: ConfigError) -> str:
    """Without the names of types and classes, so that those with one reason share a row."""
    return re.sub(r"^(a decoder of type \S+|[A-Z]\w*):? | \(by .*|, which .*", "", str(error))


def table() -> str:
    """Markdown: which types are packed, which run one sequence at a time, which are refused and why."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in types():
        found[try_type(name)].append(name)
    lines = [f"| `transformers` {transformers.__version__} | model types |", "|---|---|"]
    titles = {
        "packs": "packed",
        "trained": "packed, not in the engine",
        "alone": "one sequence at a time, not in the engine",
        "refused": "refused",
    }
    for (answer, reason), names in sorted(found.items(), key=lambda item: [*titles].index(item[0][0])):
        title = titles[answer] + (f": {reason}" if reason else "")
        lines.append(f"| {title.replace('|', '/')} | {', '.join(names)} |")
    return "\n".join(lines)


def _class_of(name: str) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    config = CONFIG_MAPPING[name](**COMPLETE.get(name, {}))
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if kind.config_class is not type(config):  # as AutoModelForCausalLM does with models of several parts
        config = config.get_text_config(decoder=True)
    return kind, config


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rewrite(PAGE, BEGIN, END, table())
