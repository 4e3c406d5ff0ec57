"""Settings of released LLaVA code in our words, and back; names of weights, one by one."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaConfig

from llavakit.core.config import make
from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.card import Card
from llavakit.model.convert.convert import Options, convert
from llavakit.model.convert.export import original_config
from llavakit.model.formats.keys import (
    from_hf,
    from_original,
    from_projector_file,
    from_tower,
    to_hf,
    to_original,
)
from llavakit.model.formats.original import card_settings, is_original, text_settings, vision_settings
from llavakit.model.formats.towers import TOWERS
from llavakit.vision.anyres import tile_grids
from tests.originals import Original

CLIP_224, CLIP_336, SIGLIP = TOWERS
NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
V15 = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_vision_tower": CLIP_336,
    "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False, "image_aspect_ratio": "pad", "hidden_size": 4096,
    "tokenizer_model_max_length": 2048, "a_field_of_tomorrow": {"x": 1},
}  # fmt: skip
V16 = V15 | {
    "image_aspect_ratio": "anyres", "image_grid_pinpoints": NEXT, "mm_patch_merge_type": "spatial_unpad",
}  # fmt: skip
ONEVISION = V16 | {
    "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava", "mm_vision_tower": SIGLIP,
    "image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": "(1x1),...,(6x6)",
    "mm_spatial_pool_mode": "bilinear", "mm_resampler_type": None, "frames_upbound": 32,
}  # fmt: skip
VIDEO = ONEVISION | {
    "mm_newline_position": "grid", "add_time_instruction": True, "force_sample": True, "frames_upbound": 64,
    "mm_spatial_pool_stride": 2,
}  # fmt: skip
NEXT_VIDEO = V16 | {
    "mm_resampler_type": "spatial_pool", "mm_spatial_pool_mode": "average", "mm_spatial_pool_stride": 2,
    "mm_spatial_pool_out_channels": 1024,
}  # fmt: skip


def card(config, **changes):
    config = config | changes
    vision = vision_settings(config, "config.json")
    return make(
        Card, card_settings(config, vision, "config.json") | {"template": "plain"}, where="config.json"
    )


def test_llava_and_llava_1_5():
    first = card({"model_type": "llava", "mm_vision_tower": CLIP_224, "mm_use_im_start_end": True})
    assert (first.connector.kind, first.image.kind, first.image.size, first.image.grid) == (
        "linear",
        "square",
        224,
        16,
    )
    assert first.im_start_end and first.tower.layer == -2 and first.video is None
    second = card(V15)
    assert (second.connector.kind, second.image.kind, second.image.grid) == ("mlp", "pad", 24)
    assert second.tower.path == CLIP_336 and second.separators == ()


def test_llava_next():
    found = card(V16)
    assert found.image.kind == "anyres" and found.image.anyres.rule == "llava"
    assert found.image.anyres.pinpoints == tuple(map(tuple, NEXT))
    assert found.separators == ("image_newline",) and found.video is None


def test_onevision_and_llava_video():
    found = card(ONEVISION)
    assert found.image.anyres.pinpoints == tile_grids((1, 1), (6, 6), 384)
    assert found.image.anyres.max_tiles == 9 and found.tower.layer == -1
    assert (found.image.mean, found.image.std, found.image.grid) == ((0.5,) * 3, (0.5,) * 3, 27)
    video = found.video
    assert (video.kind, video.pool, video.stride, video.newline) == ("squash", "bilinear", 2, "one_token")
    assert (video.max_frames, video.pool_first, video.time_instruction) == (32, False, False)
    video = card(VIDEO).video
    assert (video.newline, video.max_frames, video.uniform, video.time_instruction) == (
        "grid",
        64,
        True,
        True,
    )
    slow_fast = card(VIDEO, add_faster_video=True, faster_token_stride=5)
    assert slow_fast.video.slow_fast.every == 5 and slow_fast.separators == ("image_newline", "faster_token")


def test_next_video_pools_before_the_projector_and_knows_no_newline():
    video = card(NEXT_VIDEO).video
    assert (video.kind, video.pool, video.pool_first, video.newline) == (
        "square",
        "average",
        True,
        "no_token",
    )


def test_interleave_has_one_tile_and_no_newline():
    found = card(ONEVISION, image_aspect_ratio="pad", mm_patch_merge_type="flat")
    assert found.image.kind == "pad" and found.image.anyres is None
    assert found.video.newline == "no_token" and found.separators == ()


def test_merge_types_are_read_word_by_word():
    pooled = card(V16, mm_patch_merge_type="spatial_maxpool2x2_nobase").image.anyres
    assert (pooled.merge, pooled.max_pool, pooled.base) == ("spatial", True, "none")
    assert (
        card(V16, image_aspect_ratio="anyres_max_4", mm_patch_merge_type="spatial").image.anyres.max_tiles
        is None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mm_projector_type": "mlp3x_gelu"},
            "mm_projector_type='mlp3x_gelu' is not supported.*linear, mlp2x_gelu",
        ),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature='cls_patch'.*only patch"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type='qformer'"),
        (
            {"mm_resampler_type": "spatial_pool", "mm_spatial_pool_mode": "conv"},
            "mm_spatial_pool_mode='conv'",
        ),
        ({"s2": True}, "s2=True"),
        ({"image_aspect_ratio": "crop_split"}, "image_aspect_ratio='crop_split' is not supported"),
        ({"mm_patch_merge_type": "unires"}, "mm_patch_merge_type='unires'"),
        (
            {"mm_patch_merge_type": "spatial_unpad"},
            "image_aspect_ratio=pad with mm_patch_merge_type=spatial_unpad",
        ),
        ({"image_aspect_ratio": "anyres"}, "image_grid_pinpoints=None"),
        ({"add_faster_video": True, "mm_spatial_pool_mode": "average"}, "mm_newline_position=grid only"),
        ({"mm_vision_tower": None}, "mm_vision_tower=None names no vision tower; name one with --tower"),
        ({"mm_vision_tower": "no/such-tower"}, "'no/such-tower' cannot be read.*--tower"),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_its_name(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        card(V15, **changes)
    assert "\n" not in str(caught.value)


def test_a_decoder_without_a_class_is_refused():
    with pytest.raises(UserError, match="LlavaMptForCausalLM is not a LLaVA that llavakit reads"):
        text_settings(
            V15 | {"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, "config.json"
        )


def test_the_class_counts_before_the_model_type_and_stage_1_kept_the_base_class():
    assert text_settings(ONEVISION, "x")["model_type"] == "qwen2"
    stage_1 = V15 | {"architectures": ["LlamaForCausalLM"], "model_type": "llava"}
    assert text_settings(stage_1, "x")["model_type"] == "llama"


def test_rope_scaling_survives_both_ways():
    text = text_settings(V15 | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5}, "x")
    language = AutoConfig.for_model(**text)
    assert language.rope_parameters["factor"] == 2.0
    back = original_config(
        card(V15), language, AutoConfig.for_model(**TOWERS[CLIP_336].fresh_config()), CLIP_336, "float16"
    )
    assert back["rope_scaling"] == {"type": "linear", "factor": 2.0} and back["rope_theta"] == 5e5


def test_only_released_layouts_are_taken_for_original():
    assert is_original(V15)
    assert not is_original(V15 | {"text_config": {}})
    assert not is_original({"model_type": "llava_llama"})


IMAGES = st.sampled_from(
    [
        {"image_aspect_ratio": "square"},
        {"image_aspect_ratio": "pad"},
        {"image_aspect_ratio": "keep"},
        *(
            {
                "image_aspect_ratio": aspect,
                "mm_patch_merge_type": merge,
                "image_grid_pinpoints": "(1x1),...,(2x3)",
            }
            for aspect in ("anyres", "highres", "anyres_max_9")
            for merge in ("flat", "spatial", "spatial_unpad", "spatial_nobase", "spatial_unpad_maxpool2x2")
        ),
    ]
)
VIDEOS = st.fixed_dictionaries(
    {
        "mm_spatial_pool_mode": st.sampled_from([None, "average", "max", "bilinear"]),
        "mm_spatial_pool_stride": st.sampled_from([None, 2, 4]),
        "mm_newline_position": st.sampled_from([None, "grid", "frame", "one_token", "no_token"]),
        "frames_upbound": st.sampled_from([None, 8, 64]),
        "force_sample": st.booleans(),
        "add_time_instruction": st.booleans(),
    }
)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(tower=st.sampled_from(list(TOWERS)), image=IMAGES, video=VIDEOS, frame=st.booleans())
def test_a_card_in_released_words_is_the_same_card(tower, image, video, frame):
    config = V15 | {"mm_vision_tower": tower, "mm_use_im_start_end": frame} | image | video
    vision = vision_settings(config, "x")
    first = card(config)
    written = original_config(first, LlamaConfig(), AutoConfig.for_model(**vision), tower, "float16")
    assert card(written) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector": {"kind": "mlp", "standardize": True}}, "connector.standardize"),
        ({"image": {"kind": "squash"}}, "image.kind=squash with this tower"),
        ({"image": {"std": (1, 1, 1)}}, "image.mean and std"),
        (
            {
                "image": {
                    "kind": "anyres",
                    "anyres": {"pinpoints": [(336, 672)], "merge": "flat", "max_tokens": 99},
                }
            },
            "anyres.max_tokens",
        ),
        (
            {"image": {"kind": "anyres", "anyres": {"pinpoints": [(336, 672)], "base": "pad"}}},
            "anyres.base=pad",
        ),
        ({"video": {"newline": "grid"}}, "video.newline=grid without anyres.merge=unpad"),
        ({"video": {"kind": "pad"}}, "video.kind=pad with this tower"),
    ],
)
def test_a_card_that_released_code_cannot_express_is_refused(changes, message):
    mine = make(Card, changes, where="card")
    with pytest.raises(UserError, match=message):
        original_config(
            mine, LlamaConfig(), AutoConfig.for_model(**TOWERS[CLIP_336].fresh_config()), CLIP_336, "float16"
        )


OURS = [
    "tower.vision.encoder.layers.0.mlp.fc1.weight", "tower.vision.pre_layrnorm.bias", "connector.linear_1.weight",
    "connector.linear_2.bias", "language.model.embed_tokens.weight", "language.model.layers.1.mlp.up_proj.weight",
    "language.lm_head.weight", "newline.image_newline", "newline.faster_token",
]  # fmt: skip


@pytest.mark.parametrize("key", OURS)
def test_every_name_comes_back(key):
    assert from_original(to_original(key, linear=False)) == key
    assert from_hf(to_hf(key), base="model", children=frozenset({"model", "lm_head"})) == key


def test_released_names():
    assert to_original("connector.linear_1.weight", linear=True) == "model.mm_projector.weight"
    assert from_original("model.mm_projector.weight") == "connector.linear_1.weight"
    assert to_original(OURS[0], linear=False) == (
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    )
    assert from_original("model.layers.3.self_attn.rotary_emb.inv_freq") is None
    assert from_original("model.vision_tower.vision_tower.vision_model.embeddings.position_ids") is None
    assert from_tower("vision_model.embeddings.class_embedding") == "tower.vision.embeddings.class_embedding"
    assert from_tower("embeddings.class_embedding") == "tower.vision.embeddings.class_embedding"
    assert from_tower("text_model.final_layer_norm.bias") is None
    assert to_hf("tower.vision.encoder.x") == "vision_tower.vision_model.encoder.x"


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model.", "module.model."])
def test_prefixes_of_a_projector_file_vary(prefix):
    assert from_projector_file(prefix + "mm_projector.2.bias") == "connector.linear_2.bias"
    assert from_projector_file(prefix + "mm_projector.weight") == "connector.linear_1.weight"
    if prefix != "module.model.":
        assert from_projector_file(prefix + "embed_tokens.weight") == "language.model.embed_tokens.weight"


@pytest.mark.parametrize("layout", ["llavakit", "hf", "original"])
def test_a_null_keeps_its_meaning(tmp_path, layout):
    """Mistral's window is 4096 by default and null in released models: seen behind that many tokens only."""
    original = Original("mistral", newline=False)
    original.language.config.max_position_embeddings = 5000
    original.save(tmp_path / "original")
    assert json.loads((tmp_path / "original" / "config.json").read_text())["sliding_window"] is None
    convert(tmp_path / "original", tmp_path / "out", layout, Options(template="mistral_instruct"))
    ids = torch.randint(3, 300, (1, 4200), generator=torch.Generator().manual_seed(0))
    for folder in (tmp_path / "original", tmp_path / "out"):
        language = checkpoints.load(folder, template_name="mistral_instruct").model.language
        assert language.config.sliding_window is None
        language.set_attn_implementation("sdpa")
        with torch.no_grad():
            found = language(input_ids=ids, logits_to_keep=8).logits
            wanted = original.language(input_ids=ids, logits_to_keep=8).logits
            torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted, atol=1e-4, rtol=1e-4)


def test_every_null_that_a_class_knows_is_kept_and_no_other():
    base = {"architectures": ["LlavaMistralForCausalLM"]}
    kept = text_settings(base | {"sliding_window": None, "eos_token_id": None, "rope_scaling": None}, "x")
    assert kept["sliding_window"] is None and kept["eos_token_id"] is None
    plain = text_settings(base | {"hidden_size": None, "rope_theta": None, "num_hidden_layers": None}, "x")
    assert plain == text_settings(base, "x")
