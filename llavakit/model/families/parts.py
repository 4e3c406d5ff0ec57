"""Decoders of the released models: hub ids, and their published dimensions (formats/towers.py has the towers').

Dimensions make it possible to count, plan and check without a download; weights bring their own config along.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decoder:
    """A language model: hub id and dimensions."""

    path: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False

    def config(self) -> dict[str, Any]:
        """The keyword arguments of the decoder's config in `transformers`, `model_type` included."""
        values = {key: value for key, value in vars(self).items() if key not in ("path", "rope_theta")}
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": self.rope_theta}
        # No released decoder looks through a window; Mistral's class would have one by default.
        return {**values, "sliding_window": None}


def _llama_7b(path: str, positions: int) -> Decoder:
    return Decoder(path, "llama", 4096, 11008, 32, 32, 32, 32000, positions)


def _llama_13b(path: str, positions: int) -> Decoder:
    return Decoder(path, "llama", 5120, 13824, 40, 40, 40, 32000, positions)


def _qwen(path: str, *sizes: int, positions: int = 32768, tie: bool = False) -> Decoder:
    hidden, intermediate, layers, heads, kv_heads, vocab = sizes
    return Decoder(
        path, "qwen2", hidden, intermediate, layers, heads, kv_heads, vocab, positions, 1e6, tie
    )  # fmt: skip


# Vicuna v0 exists as a difference to LLaMA only; the id is that of the difference.
VICUNA_V0_7B = _llama_7b("lmsys/vicuna-7b-delta-v0", 2048)
VICUNA_V0_13B = _llama_13b("lmsys/vicuna-13b-delta-v0", 2048)
VICUNA_V11_7B = _llama_7b("lmsys/vicuna-7b-v1.1", 2048)
VICUNA_V11_13B = _llama_13b("lmsys/vicuna-13b-v1.1", 2048)
VICUNA_V13_7B = _llama_7b("lmsys/vicuna-7b-v1.3", 2048)
VICUNA_V13_13B = _llama_13b("lmsys/vicuna-13b-v1.3", 2048)
VICUNA_V15_7B = _llama_7b("lmsys/vicuna-7b-v1.5", 4096)
VICUNA_V15_13B = _llama_13b("lmsys/vicuna-13b-v1.5", 4096)
LLAMA2_7B = _llama_7b("meta-llama/Llama-2-7b-chat-hf", 4096)
LLAMA2_13B = _llama_13b("meta-llama/Llama-2-13b-chat-hf", 4096)
LLAMA3_8B = Decoder(
    "meta-llama/Meta-Llama-3-8B-Instruct", "llama", 4096, 14336, 32, 32, 8, 128256, 8192, 500_000.0
)
MISTRAL_7B = Decoder(
    "mistralai/Mistral-7B-Instruct-v0.2", "mistral", 4096, 14336, 32, 32, 8, 32000, 32768, 1e6
)
YI_34B = Decoder(
    "NousResearch/Nous-Hermes-2-Yi-34B", "llama", 7168, 20480, 60, 56, 8, 64000, 4096, 5e6
)  # fmt: skip

QWEN15_05B = _qwen("Qwen/Qwen1.5-0.5B-Chat", 1024, 2816, 24, 16, 16, 151936, tie=True)
QWEN15_7B = _qwen("Qwen/Qwen1.5-7B-Chat", 4096, 11008, 32, 32, 32, 151936)
QWEN15_14B = _qwen("Qwen/Qwen1.5-14B-Chat", 5120, 13696, 40, 40, 40, 152064)
QWEN15_32B = _qwen("Qwen/Qwen1.5-32B-Chat", 5120, 27392, 64, 40, 8, 152064)
QWEN15_72B = _qwen("Qwen/Qwen1.5-72B-Chat", 8192, 24576, 80, 64, 64, 152064)
QWEN15_110B = _qwen("Qwen/Qwen1.5-110B-Chat", 8192, 49152, 80, 64, 8, 152064)
QWEN2_05B = _qwen("Qwen/Qwen2-0.5B-Instruct", 896, 4864, 24, 14, 2, 151936, tie=True)
QWEN2_7B = _qwen("Qwen/Qwen2-7B-Instruct", 3584, 18944, 28, 28, 4, 152064)
QWEN2_72B = _qwen("Qwen/Qwen2-72B-Instruct", 8192, 29568, 80, 64, 8, 152064)
