"""Any causal language model of transformers is a decoder: packing and caching are right in each family."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
    Qwen3Config,
)

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample, join
from llavakit.data.pack import collate
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model.llava import Llava
from tests import tiny

SHAPE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS = {
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma": lambda: GemmaConfig(**SHAPE, head_dim=8),
    "phi3": lambda: Phi3Config(**SHAPE),
    "gpt2": lambda: GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "mistral, windows": lambda: MistralConfig(**SHAPE, sliding_window=4),
    "qwen2, windows in some layers": lambda: Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "phimoe, windows in masks only": lambda: PhimoeConfig(**SHAPE, sliding_window=4, **EXPERTS),
    "gemma2, softcap and windows": lambda: Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0
    ),
    "gpt_oss, sinks and windows": lambda: GptOssConfig(
        **SHAPE, head_dim=8, sliding_window=4, **EXPERTS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
}  # fmt: skip


def random_model(config) -> Llava:
    torch.manual_seed(0)
    language = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    parts = tiny.checkpoint().model
    return Llava(parts.tower, parts.connector, language)


def text_samples(count: int = 4) -> list[Sample]:
    dice = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 12, (count,), generator=dice).tolist()
    rows = [torch.randint(1, 119, (length,), generator=dice).tolist() for length in lengths]
    return [Sample((7, 8, *row), (0.0,) * (len(row) + 2), (Segment(0, len(row) + 2),)) for row in rows]


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_and_shared_equal_the_plain_forward(name):
    """Against the family's own eager attention, one sequence at a time."""
    model, samples = random_model(CONFIGS[name]()), text_samples()
    packed = collate([join(samples)], learn=False)
    assert len(packed.segments) == len(samples) + 1
    with torch.no_grad():
        ours = model.logits(model.hidden(packed))
        model.language.set_attn_implementation("eager")
        plain = [model.language(input_ids=torch.tensor([sample.ids])).logits[0] for sample in samples]
    for leaf, expected in zip(packed.segments[1:], plain, strict=True):
        torch.testing.assert_close(ours[leaf.start : leaf.end], expected[-len(leaf) :], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_engine_equals_generate(name):
    model, samples = random_model(CONFIGS[name]()), text_samples()
    ours = Engine(model, frozenset()).generate(samples, Sampling(max_tokens=7))
    model.language.set_attn_implementation("eager")
    for sample, mine in zip(samples, ours, strict=True):
        theirs = model.language.generate(
            torch.tensor([sample.ids]), max_new_tokens=7, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert mine == theirs[0, sample.num_tokens :].tolist()


def test_a_decoder_that_would_ignore_packed_attention_is_refused():
    config = MptConfig(d_model=48, n_heads=4, n_layers=1, vocab_size=128)
    with pytest.raises(ConfigError, match="MptForCausalLM does not call registered attention"):
        random_model(config)
