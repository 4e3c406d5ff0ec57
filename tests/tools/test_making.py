"""Tools that make pictures: tiny random pipelines of diffusers go the way of the real ones."""

import json
import time

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)

from llavakit.text.calls import Call, ToolError, ToolUnavailable
from llavakit.tools import making
from llavakit.tools.arguments import Mask, Picture
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.skills import open_tools
from tests.studio.pictures import scenery
from tests.studio.test_generative import tiny

SCENE = Picture("img_1", scenery(70, 50))
HOLE = Mask(np.pad(np.ones((20, 30), bool), ((10, 20), (20, 20))))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("making")
    torch.manual_seed(0)
    ControlNetModel(
        block_out_channels=(8, 16), layers_per_block=1, in_channels=4, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        conditioning_embedding_out_channels=(16, 32),
    ).save_pretrained(folder / "control")  # fmt: skip
    return {
        "generate": tiny(StableDiffusionPipeline, folder / "generate", 4),
        "edit": tiny(StableDiffusionInstructPix2PixPipeline, folder / "edit", 8),
        "paint": tiny(StableDiffusionInpaintPipeline, folder / "paint", 9),
        "control": str(folder / "control"),
    }


def made(answer):
    (drawn,) = answer.pictures
    return drawn.pixels_HW3


def test_a_picture_is_made_from_words_in_the_size_that_was_asked_and_follows_its_seed(weights):
    how = {"model": weights["generate"], "steps": "1"}
    first, again, other = (made(making.generate("a dog", 70, 64, seed, **how)) for seed in (1, 1, 2))
    assert first.shape == (64, 70, 3) and (first == again).all() and (first != other).any()


def test_an_edit_has_the_size_of_its_picture_and_a_painted_part_leaves_the_rest(weights):
    edited = made(making.edit(SCENE, "make it night", model=weights["edit"], steps="1"))
    assert edited.shape == SCENE.pixels_HW3.shape
    painted = made(making.paint(SCENE, HOLE, "a hat", model=weights["paint"], steps="1"))
    changed = (painted != SCENE.pixels_HW3).any(axis=2)
    assert changed.any() and not changed[~HOLE.inside_HW].any()
    with pytest.raises(ToolError, match="the mask is empty"):
        making.paint(SCENE, Mask(HOLE.inside_HW & False), "a hat", model=weights["paint"], steps="1")


def test_another_layout_gives_another_picture(weights):
    how = {"model": weights["generate"], "control": weights["control"], "steps": "1"}
    other = Picture("img_2", SCENE.pixels_HW3[::-1].copy())
    # A ControlNet begins as one that changes nothing: its last layers are zero.
    network = making._pipeline(weights["generate"], weights["control"], "1").pipe.controlnet
    for block in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(block.weight)
    for block in network.controlnet_cond_embedding.modules():
        if isinstance(block, torch.nn.Conv2d):
            torch.nn.init.normal_(block.weight, std=0.3)
    one, two = (made(making.redraw(picture, "a dog", **how)) for picture in (SCENE, other))
    assert one.shape == SCENE.pixels_HW3.shape and (one != two).any()


def test_it_runs_in_a_process_of_its_own_and_tells_what_is_missing(weights, tmp_path):
    settings = {"generate": {"model": weights["generate"], "steps": "1"}}
    registry, desk = open_tools(["generate"], settings), Desk(Artifacts(tmp_path))
    try:
        call = Call("generate", json.dumps({"prompt": "a dog", "width": 80, "height": 64}))
        result = registry.call(call, desk, deadline=time.monotonic() + 120)
    finally:
        registry.close()
    assert result.error is None and result.pictures == ("img_1",)
    assert PIL.Image.open(desk.find("img_1").path).size == (80, 64)
    with pytest.raises(ToolUnavailable, match="no/such"):
        making.generate("a dog", model="no/such", steps="1")
