"""SigLIP beside CLIP, and a convolutional tower with real ImageNet weights."""

import pytest
import torch
from transformers import CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from llavakit.core.errors import ConfigError
from llavakit.model.settings import TowerConfig
from llavakit.model.tower import ViTTower, load_tower
from llavakit.vision.plan import ImageConfig
from tests import tiny

HALF = ImageConfig(kind="square", size=28, grid=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LITE0 = ImageConfig(kind="square", size=64, grid=2, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def siglip() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
        )
    ).eval()


def test_siglip_gives_all_its_patches_from_before_the_last_norm():
    vision = siglip()
    tower = ViTTower(vision, TowerConfig(layer=-2), HALF)
    pixels = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    with torch.no_grad():
        rows = tower(pixels)
        states = vision(
            (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, output_hidden_states=True
        ).hidden_states
    assert rows.shape == (2, tower.num_rows, tower.width) == (2, 4, 32)
    torch.testing.assert_close(rows, states[-2], atol=1e-5, rtol=1e-5)


def test_an_image_size_that_does_not_fit_the_tower_is_refused():
    with pytest.raises(ConfigError, match=r"image.size=56 .* 28 px"):
        ViTTower(siglip(), TowerConfig(), HALF.model_copy(update={"size": 56}))
    with pytest.raises(ConfigError, match=r"tower\.layer=9: the tower has 3 layers"):
        ViTTower(siglip(), TowerConfig(layer=9), HALF)


def test_efficientnet_normalises_as_its_authors_do():
    tower = load_tower(TowerConfig(kind="efficientnet_lite0"), LITE0)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    expected = (pixels.float() - 127) / 128
    torch.testing.assert_close(tower.normalise(pixels), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


def test_efficientnet_features_are_its_own_and_never_change_with_training_mode():
    tower = load_tower(TowerConfig(kind="efficientnet_lite0", blocks=(15,)), LITE0)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        rows = tower.train()(pixels)
        alone = torch.cat([tower.eval()(one[None]) for one in pixels])
        # extract_features adds the head convolution behind the last block; undo nothing, compare its input.
        caught = []
        hook = tower.net._conv_head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        tower.net.extract_features(tower.normalise(pixels))
        hook.remove()
    torch.testing.assert_close(rows, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rows, caught[0].flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_efficientnet_rows_run_from_left_to_right_and_top_to_bottom():
    """A white square in one corner of a black picture moves the features of that corner's row most."""
    tower = load_tower(TowerConfig(kind="efficientnet_lite0", blocks=(4,)), LITE0)
    pictures = torch.zeros(5, 64, 64, 3, dtype=torch.uint8)
    for number, (y, x) in enumerate([(8, 8), (8, 40), (40, 8), (40, 40)], 1):
        pictures[number, y : y + 16, x : x + 16] = 255
    with torch.no_grad():
        rows = tower(pictures)
    moved = (rows[1:] - rows[:1]).norm(dim=-1)
    assert moved.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_fingerprint_changes_with_every_weight_and_every_setting_that_is_seen():
    plain = tiny.checkpoint().model.tower
    found = {plain.fingerprint()}
    assert tiny.checkpoint().model.tower.fingerprint() in found  # another object, the same numbers
    with torch.no_grad():
        for parameter in plain.parameters():
            number = parameter.view(-1)[-1]
            kept = number.clone()
            number.copy_(torch.nextafter(kept, kept + 1))
            found.add(plain.fingerprint())
            number.copy_(kept)
    assert len(found) == 1 + len(list(plain.parameters()))
    found.add(plain.to(torch.bfloat16).fingerprint())
    vision = tiny.vision_config()
    for change in ({"hidden_act": "gelu"}, {"num_attention_heads": 2}):
        vision.update(change)
        tower = ViTTower(CLIPVisionModel(vision), TowerConfig(path="tiny"), tiny.IMAGE)
        tower.load_state_dict(tiny.checkpoint().model.tower.state_dict())
        found.add(tower.fingerprint())
    for config, image in (
        (TowerConfig(path="tiny", layer=-1), tiny.IMAGE),
        (TowerConfig(path="tiny"), tiny.IMAGE.model_copy(update={"std": (0.5, 0.5, 0.5)})),
    ):
        tower = ViTTower(tiny.checkpoint().model.tower.vision, config, image)
        found.add(tower.fingerprint())
    assert len(found) == 1 + len(list(plain.parameters())) + 5
    other_name = ViTTower(tiny.checkpoint().model.tower.vision, TowerConfig(path="moved"), tiny.IMAGE)
    assert other_name.fingerprint() in found
