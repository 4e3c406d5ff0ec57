"""Engines of diffusers: tiny random pipelines go the way of the real ones, through commands of the editor."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionGLIGENPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from llavakit.core.errors import ConfigError
from llavakit.studio.defaults import default_bench
from llavakit.studio.generative import DiffusersEditor, DiffusersInpainter, Gligen
from llavakit.studio.render import flatten
from llavakit.studio.scene import EditError
from llavakit.studio.session import Session
from tests.studio.pictures import png, scenery

RGB = scenery(70, 50)


def tiny(kind, folder, channels, **unet):
    torch.manual_seed(0)
    words = [chr(number) for number in range(97, 123)]
    words += [f"{letter}</w>" for letter in words] + ["<|startoftext|>", "<|endoftext|>"]
    spelling = folder / "spelling"
    spelling.mkdir(parents=True)
    (spelling / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (spelling / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(spelling)
    tokenizer.model_max_length = 16
    text = CLIPTextConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4,
        up_block_types=["UpDecoderBlock2D"] * 2, norm_num_groups=4,
    )  # fmt: skip
    net = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=channels, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, attention_head_dim=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, **unet,
    )  # fmt: skip
    made = kind(
        tokenizer=tokenizer, text_encoder=CLIPTextModel(text), vae=vae, unet=net, feature_extractor=None,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generative")
    return {
        "inpaint": tiny(StableDiffusionInpaintPipeline, folder / "inpaint", 9),
        "edit": tiny(StableDiffusionInstructPix2PixPipeline, folder / "edit", 8),
        "layout": tiny(StableDiffusionGLIGENPipeline, folder / "layout", 4, attention_type="gated"),
    }


def hole():
    found = np.zeros(RGB.shape[:2], bool)
    found[10:30, 20:50] = True
    return found


def test_inpainting_changes_the_hole_only_and_follows_its_seed(weights):
    engine = DiffusersInpainter(weights["inpaint"], steps=1, side=32)
    first, again, other = (engine.invent(RGB, hole(), "a hat", seed) for seed in (1, 1, 2))
    assert first.shape == RGB.shape and np.array_equal(first[~hole()], RGB[~hole()])
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_editor_gives_a_picture_of_the_same_size(weights):
    assert DiffusersEditor(weights["edit"], steps=1, side=32).edit(RGB, "make it night", 0).shape == RGB.shape


def test_a_layout_fills_any_canvas(weights):
    engine = Gligen(weights["layout"], steps=1, side=32)
    made = engine.generate(
        (70, 50), "a cat and a cat", [(0, 0, 30, 40), (35, 5, 70, 50)], ["a cat", "a cat"], 0
    )
    assert made.shape == (50, 70, 3)
    with pytest.raises(ConfigError, match="not a GLIGEN model"):
        Gligen(weights["edit"])


def test_commands_reach_the_engines_that_are_named(weights):
    session = Session.create(None, png(RGB), default_bench(**weights))
    session.bench._made |= {
        "inpaint": DiffusersInpainter(weights["inpaint"], steps=1, side=32),
        "layout": Gligen(weights["layout"], steps=1, side=32),
    }
    session.apply({"do": "add", "box": [20, 10, 50, 30], "prompt": "a hat", "count": 2, "seed": 5})
    said = session.describe()
    assert [row["seed"] for row in said["variants"]] == [5, 6] and said["layers"][-1]["kind"] == "made"
    first = flatten(session.scene)
    session.apply({"do": "vary", "variant": 1})
    assert (flatten(session.scene) != first).any()
    row = {"do": "generate", "caption": "two cats", "boxes": [[0, 0, 30, 40]], "phrases": ["a cat"]}
    session.apply(row)
    assert session.describe()["layers"][-1]["size"] == [70, 50]
    with pytest.raises(EditError, match="each box has one"):
        session.apply({**row, "phrases": []})


def test_what_is_not_there_says_how_to_get_it(tmp_path):
    session = Session.create(None, png(RGB), default_bench())
    for command in (
        {"do": "add", "box": [1, 1, 9, 9], "prompt": "a hat"},
        {"do": "edit", "prompt": "make it night"},
        {"do": "generate", "caption": "a cat"},
    ):
        with pytest.raises(EditError, match="name its weights"):
            session.apply(command)
    with pytest.raises(ConfigError, match="gone"):
        DiffusersInpainter(str(tmp_path / "gone"))
