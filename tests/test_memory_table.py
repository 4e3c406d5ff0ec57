"""The table of docs/scale.md: dimensions of real models, formulas that add up, a page that is up to date."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

from benchmarks.memory_table import (
    CLIP_336,
    DECODERS,
    PAGE,
    Assumed,
    connector_params,
    estimate,
    fits,
    row_flops,
    tables,
)

PUBLISHED = {"7B": 7.06, "13B": 13.35, "34B": 34.75, "72B": 72.7, "110B": 111.5}  # billions, model cards


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_parameters_are_those_of_the_real_model(decoder):
    settings = AutoConfig.for_model(
        "qwen2" if decoder.qkv_bias else "llama",
        hidden_size=decoder.D,
        intermediate_size=decoder.F,
        num_attention_heads=decoder.D // 128,
        num_key_value_heads=decoder.K // 128,
        num_hidden_layers=2,
        vocab_size=decoder.V,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    assert replace(decoder, layers=2).params == sum(p.numel() for p in model.parameters())
    total = decoder.params + CLIP_336.params + connector_params(decoder, CLIP_336)
    assert total / 1e9 == pytest.approx(PUBLISHED[decoder.name], rel=0.003)


def test_the_tower_is_clip():
    with torch.device("meta"):
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                image_size=336, patch_size=14,
            )
        )  # fmt: skip
    assert CLIP_336.params == sum(p.numel() for p in model.parameters())


def test_sharding_divides_the_state_and_recomputing_trades_memory_for_time():
    small, assumed = DECODERS[0], Assumed()

    def way(gpus, **how):
        return estimate(
            small, gpus, assumed, **{"all_trained": True, "sharded": True, "recompute": False, **how}
        )

    assert way(8).state == pytest.approx(way(1).state / 8)
    assert way(1).state == pytest.approx(16 * 7.06e9, rel=0.003)
    assert way(8, recompute=True).activations < way(8).activations / 8
    assert way(8, recompute=True).tokens_per_second == pytest.approx(way(8).tokens_per_second * 3 / 4)
    assert way(64).tokens_per_second == pytest.approx(way(8).tokens_per_second * 8 * assumed.loss_by_eight)
    assert not fits(way(1), assumed) and fits(way(8), assumed)
    # 6 FLOPs a parameter and token, the rule of thumb, within what tower, attention and unlearned rows change.
    assert row_flops(small, assumed, all_trained=True) / (6 * small.params * assumed.tokens) == pytest.approx(
        1, abs=0.1
    )


def test_the_page_shows_what_the_script_computes():
    assert tables(Assumed()) in PAGE.read_text(), "run: python -m benchmarks.memory_table"
