"""Every kind of plan in the model: packed equals one by one, cached equals computed; a slow twin of the merge."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPVisionModel, LlamaForCausalLM

from llavakit.data.encode import Encoder
from llavakit.data.pack import collate
from llavakit.model.card import Card
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava, Newline
from llavakit.model.settings import ConnectorConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.text.templates import template
from llavakit.train.objectives import SFT
from llavakit.vision.anyres import AnyresConfig, hd_grids, tile_grids
from llavakit.vision.frames import SlowFast, VideoConfig
from llavakit.vision.plan import ImageConfig
from tests import tiny

SIZE, GRID = 56, 4
GRIDS = tile_grids((1, 1), (3, 3), SIZE)
IMAGES = {
    "square": ImageConfig(kind="square", size=SIZE, grid=GRID),
    "squash": ImageConfig(kind="squash", size=SIZE, grid=GRID),
    "keep": ImageConfig(kind="keep", size=SIZE, grid=GRID),
    **{
        name: ImageConfig(
            kind=kind, size=SIZE, grid=GRID, anyres=AnyresConfig(**{"pinpoints": GRIDS, **more})
        )
        for name, kind, more in [
            ("anyres", "anyres", {}),
            ("anyres_max", "anyres", {"max_tiles": 2}),
            ("paper", "anyres", {"max_tokens": 40, "merge": "flat"}),
            ("flat", "anyres", {"merge": "flat"}),
            ("spatial", "anyres", {"merge": "spatial", "base": "none"}),
            ("max_pool", "anyres", {"max_pool": True}),
            ("hd", "anyres", {"pinpoints": hd_grids(SIZE), "base": "pad"}),
            ("highres", "highres", {}),
        ]
    },
}
VIDEOS = {
    "next_video": VideoConfig(max_frames=4, pool_first=True),
    "next_video_max": VideoConfig(max_frames=4, pool_first=True, pool="max"),
    "onevision": VideoConfig(kind="squash", max_frames=3, pool="bilinear", stride=3, newline="one_token"),
    "llava_video": VideoConfig(kind="squash", max_frames=3, newline="grid", time_instruction=True),
    "slow_fast": VideoConfig(kind="squash", max_frames=5, newline="grid", slow_fast=SlowFast(every=2)),
    "per_frame": VideoConfig(kind="pad", max_frames=2, stride=1, newline="frame"),
}


def model_for(card: Card) -> Llava:
    torch.manual_seed(0)
    vision = tiny.vision_config()
    vision.image_size = SIZE
    tower = ViTTower(CLIPVisionModel(vision), TowerConfig(path="tiny"), card.image)
    language = LlamaForCausalLM(tiny.text_config(len(tiny.byte_level_tokenizer()) + 3))
    return Llava(
        tower, build_connector(ConnectorConfig(), tower.width, 48), language, Newline(card.separators, 48)
    )


def photo(size: tuple[int, int], seed: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def conversations(card: Card) -> list[Conversation]:
    """One image, another shape, text, several images; and with videos one of those, too."""
    one, wide, tall = photo((60, 50), 1), photo((170, 50), 2), photo((40, 120), 3)
    talks = [
        (user("What color?", [one]), assistant("red")),
        (user("And here?", [wide]), assistant("blue one"), user("Sure?"), assistant("yes")),
        (user("Say a word."), assistant("naïve café 🙂")),
        (user("Both?", [tall, one]), assistant("no")),
    ]
    if card.video is not None:
        clip = tuple(photo((64, 48), 10 + number) for number in range(7))
        talks.insert(1, (user("What happens?", videos=[clip]), assistant("It moves.")))
    return [Conversation(talk) for talk in talks]


def gradients(model: Llava, batches) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    for batch in batches:
        SFT().loss(model, batch).terms["tokens"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def cards() -> list:
    images = [pytest.param(Card(image=image), id=name) for name, image in IMAGES.items()]
    videos = [
        pytest.param(Card(image=IMAGES["anyres"], video=video), id=name) for name, video in VIDEOS.items()
    ]
    return images + videos


@pytest.mark.parametrize("card", cards())
def test_packed_equals_one_by_one_and_cached_equals_computed(card):
    model = model_for(card)
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), card.image, card.video)
    samples = [encoder.encode(talk) for talk in conversations(card)]
    tiles = [media.tiles() for sample in samples for media in sample.media]
    packed = gradients(model, [collate(samples, tiles)])
    apart = gradients(model, [collate([sample], [m.tiles() for m in sample.media]) for sample in samples])
    assert packed.keys() == apart.keys()
    for name in packed:
        torch.testing.assert_close(packed[name], apart[name], atol=2e-5, rtol=1e-4, msg=name)
    with torch.no_grad():
        computed = model.hidden(collate(samples, tiles))
        features = [model.tower(cut) for cut in tiles]
        cached = model.hidden(collate(samples, features))
    torch.testing.assert_close(computed, cached, atol=1e-5, rtol=1e-5)
    for name in card.separators:
        assert packed[f"newline.{name}"].abs().max() > 0, "newlines are learned"


def slow_merge(model: Llava, card: Card, frames_FHWC: torch.Tensor) -> torch.Tensor:
    """A video as released code merges it, in whole tensors: tower, connector and pooling, newlines."""
    video, newline_1D = card.video, model.newline.table_MD()[0:1]

    def pool(rows_FRC: torch.Tensor, stride: int) -> torch.Tensor:
        map_FCHW = rows_FRC.transpose(1, 2).unflatten(2, (GRID, GRID))
        if video.pool == "bilinear":
            side = -(-GRID // stride)
            return F.interpolate(map_FCHW, size=(side, side), mode="bilinear")
        kernel = F.avg_pool2d if video.pool == "average" else F.max_pool2d
        return kernel(map_FCHW, stride)

    rows_FRC = model.tower(frames_FHWC)
    if video.pool_first:
        return model.connector(pool(rows_FRC, video.stride).flatten(2).transpose(1, 2)).flatten(0, 1)
    map_FDHW = pool(model.connector(rows_FRC), video.stride)
    out = []
    for map_DHW in map_FDHW:
        rows_HWD = map_DHW.permute(1, 2, 0)
        if video.newline == "grid":
            rows_HWD = torch.cat([rows_HWD, newline_1D.expand(len(rows_HWD), 1, -1)], dim=1)
        out.append(rows_HWD.flatten(0, 1))
        if video.newline == "frame":
            out.append(newline_1D)
    return torch.cat([*out, newline_1D] if video.newline == "one_token" else out)


@pytest.mark.parametrize("name", [name for name in VIDEOS if name != "slow_fast"])
def test_a_video_stands_in_its_slots_as_released_code_puts_it(name):
    card = Card(image=IMAGES["anyres"], video=VIDEOS[name])
    model = model_for(card)
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), card.image, card.video)
    talk = conversations(card)[1]
    sample = encoder.encode(talk)
    (tiles,) = [media.tiles() for media in sample.media]
    slots = [at for at, token in enumerate(sample.ids) if token == -200]
    with torch.no_grad():
        embedded = model.embed(collate([sample], [tiles]))
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        torch.testing.assert_close(embedded[slots], slow_merge(model, card, tiles), atol=1e-5, rtol=1e-5)


def test_the_time_instruction_is_a_line_between_the_video_and_the_question():
    card = Card(image=IMAGES["anyres"], video=VIDEOS["llava_video"])
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), card.image, card.video)
    sample = encoder.encode(conversations(card)[1])
    text = encoder.tokenizer.hf.decode([token for token in sample.ids if token >= 0])
    assert (
        "user\n\nThe video lasts for 7.00 seconds, and 3 frames are uniformly sampled from it. These frames are "
        "located at 0.00s,3.00s,6.00s.Please answer the following questions related to this video.\nWhat happens?"
    ) in text
