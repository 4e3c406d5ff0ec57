"""Each decoder class is tried before it is trusted; those that leak from sample to sample run one at a time."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    Gemma2Config,
    Lfm2Config,
    LlamaConfig,
    MinistralConfig,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3NextConfig,
)

from benchmarks.decoder_table import PAGE, table, try_type, types
from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import join
from llavakit.data.pack import collate
from llavakit.engine.engine import Engine
from llavakit.model import packing
from llavakit.model.decoding import decode_alone
from llavakit.model.llava import Llava
from llavakit.model.packing import check_packing, try_packing
from llavakit.model.twin import tiny_twin
from tests import tiny
from tests.model.test_decoders import SHAPE, random_model, text_samples

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LEAKY = {
    "qwen3_next": lambda: Qwen3NextConfig(
        **SHAPE, **EXPERTS, head_dim=8, shared_expert_intermediate_size=16, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    "lfm2": lambda: Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]),
    "bamba": lambda: BambaConfig(
        **SHAPE, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=4
    ),
}  # fmt: skip
ANSWERS = {
    "llama": "packs", "qwen3_moe": "packs", "gpt_oss": "packs", "phimoe": "packs", "gemma3_text": "packs",
    "deepseek_v3": "trained", "qwen3_5_text": "alone", "falcon_h1": "alone", "minimax": "alone", "mpt": "refused",
    "bert": "refused", "inkling_text": "refused", "gemma3n_text": "refused", "stablelm": "refused",
    "fuyu": "refused",
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_class_does_is_found_by_trying(name):
    answer, reason = try_type(name)
    assert answer == ANSWERS[name]
    assert bool(reason) == (answer in ("refused", "trained")) and "\n" not in reason


def test_the_page_names_every_causal_class_once():
    cells = [line.split("|")[2] for line in PAGE.read_text().splitlines() if line.count("|") == 3]
    named = [name for cell in cells for name in cell.strip().split(", ")]
    assert all(named.count(name) == 1 for name in types()), "run: python -m benchmarks.decoder_table"


@pytest.mark.slow
def test_the_page_shows_what_every_class_does():
    assert table() in PAGE.read_text(), "run: python -m benchmarks.decoder_table"


@torch.no_grad()
def own(model: Llava, ids) -> torch.Tensor:
    """Hidden states of one sequence by the class's own eager attention."""
    model.language.set_attn_implementation("eager")
    hidden = model.language.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    model.language.set_attn_implementation("llavakit")
    return hidden


@pytest.mark.parametrize("name", LEAKY)
def test_samples_of_a_row_do_not_change_each_other_in_a_decoder_with_states(name):
    model, samples = random_model(LEAKY[name]()), text_samples()
    row = collate([join(samples[:3]), samples[3]], learn=False)
    with torch.no_grad():
        hidden = model.hidden(row)
    for leaf, sample in zip([*row.segments[1:4], row.segments[4]], samples, strict=True):
        torch.testing.assert_close(
            hidden[leaf.start : leaf.end], own(model, sample.ids)[-len(leaf) :], atol=1e-4, rtol=1e-3
        )


def test_gradients_of_a_row_are_those_of_its_samples():
    model, samples = random_model(LEAKY["lfm2"]()), text_samples()
    parameters = [parameter for parameter in model.language.model.parameters()]
    row = model.hidden(collate(samples, learn=False)).square().sum()
    alone = sum(model.hidden(collate([sample], learn=False)).square().sum() for sample in samples)
    for ours, theirs in zip(
        torch.autograd.grad(row, parameters), torch.autograd.grad(alone, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_sequences_of_very_different_lengths_do_not_share_a_batch():
    model = random_model(LlamaConfig(**SHAPE))
    seen = []
    model.language.model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    segments = (Segment(0, 40), Segment(40, 41), Segment(41, 62), Segment(62, 64), Segment(64, 67, 2))
    with torch.no_grad():
        x_TD = torch.randn(67, 32)
        decode_alone(model.language, x_TD, segments)
    assert seen == [(2, 40), (1, 2), (1, 1)] or seen == [(2, 40), (2, 2)]


@pytest.mark.parametrize("name", ["qwen3_next"])
def test_the_engine_refuses_such_a_decoder_in_one_line(name):
    with pytest.raises(
        ConfigError, match="Qwen3NextForCausalLM: samples of a row change each other"
    ) as caught:
        Engine(random_model(LEAKY[name]()), frozenset())
    assert "\n" not in str(caught.value)


def test_a_decoder_that_cannot_be_served_is_refused_when_the_model_is_built():
    config = MinistralConfig(**SHAPE, head_dim=8, sliding_window=4, is_causal=False)
    with pytest.raises(ConfigError, match="ministral has attention in both directions"):
        random_model(config)


def test_a_class_is_tried_once_and_a_seeded_run_does_not_notice(monkeypatch):
    tried = []
    monkeypatch.setattr(packing, "_known", {})
    monkeypatch.setattr(packing, "try_packing", lambda *args: tried.append(args) or try_packing(*args))
    language = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert check_packing(language).packs and check_packing(language).packs
    assert torch.equal(torch.get_rng_state(), before) and len(tried) == 1


def test_a_twin_keeps_how_and_cuts_how_much():
    config = Gemma2Config()
    twin = tiny_twin(AutoModelForCausalLM._model_mapping[Gemma2Config], config)
    assert sum(parameter.numel() for parameter in twin.parameters()) < 100_000
    assert twin.config.layer_types == ["sliding_attention", "full_attention"]
    assert (
        twin.config.attn_logit_softcapping == config.attn_logit_softcapping
        and twin.config.sliding_window == 4
    )


def test_a_twin_of_a_decoder_with_a_rotary_factor_for_each_pair():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 48,
        "long_factor": [2.0] * 48,
    }
    config = Phi3Config(rope_parameters=rope, original_max_position_embeddings=4096)
    twin = tiny_twin(Phi3ForCausalLM, config)
    assert twin.config.rope_parameters["long_factor"] == [2.0] * 4
    assert try_packing(Phi3ForCausalLM, config).packs


def test_a_model_on_the_meta_device_is_tried_too():
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, rms_norm_eps=1e-4))
        assert check_packing(language).packs
    parts = tiny.checkpoint().model
    assert Llava(parts.tower, parts.connector, language).packing.packs
