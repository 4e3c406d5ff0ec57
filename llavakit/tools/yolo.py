"""YOLOv3-tiny: its layers as Darknet's file orders them, and boxes out of its two maps."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llavakit.text.calls import ToolUnavailable

ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))  # pixels of the network's picture
COARSE, FINE = (3, 4, 5), (0, 1, 2)  # which anchors the maps with 32 and with 16 pixels a cell have
EPSILON = 1e-5  # added to the variance


@dataclass(frozen=True)
class _Conv:
    weight: Tensor
    bias: Tensor
    leaky: bool

    def __call__(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        return F.leaky_relu(x, 0.1) if self.leaky else x


class TinyYolo:
    """Made from the numbers of a weights file, in its order."""

    def __init__(self, floats: np.ndarray, *, num_classes: int) -> None:
        self._floats, self._at = torch.from_numpy(np.ascontiguousarray(floats)), 0
        out = 3 * (5 + num_classes)
        sizes = (3, 16, 32, 64, 128, 256, 512, 1024)
        self.trunk = [self._conv(before, after, 3) for before, after in pairwise(sizes)]
        self.neck = self._conv(1024, 256, 1)
        self.coarse = self._conv(256, 512, 3), self._conv(512, out, 1, leaky=False)
        self.up = self._conv(256, 128, 1)
        self.fine = self._conv(384, 256, 3), self._conv(256, out, 1, leaky=False)
        if self._at != len(floats):
            raise ToolUnavailable("the weights of YOLOv3-tiny have another size than its layers")

    @torch.inference_mode()
    def detect(self, canvas_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] in pixels of the canvas (left, top, right, bottom) and the scores [N, C] of the classes.

        The canvas is float32, from 0 to 1, its sides multiples of 32.
        """
        x = torch.from_numpy(np.ascontiguousarray(canvas_HW3.transpose(2, 0, 1)))[None]
        for number, conv in enumerate(self.trunk):
            if 0 < number < 6:
                x = F.max_pool2d(x, 2, 2)
            elif (
                number == 6
            ):  # stride 1: Darknet looks over the right and lower edge, and finds nothing there
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, 1)
            x = conv(x)
            if number == 4:
                skip = x
        x = self.neck(x)
        coarse = self.coarse[1](self.coarse[0](x))
        joined = torch.cat([F.interpolate(self.up(x), scale_factor=2, mode="nearest"), skip], dim=1)
        fine = self.fine[1](self.fine[0](joined))
        maps = [_boxes(coarse[0], COARSE, 32), _boxes(fine[0], FINE, 16)]
        return tuple(torch.cat(parts).numpy() for parts in zip(*maps, strict=True))  # type: ignore[return-value]

    def _conv(self, before: int, after: int, side: int, *, leaky: bool = True) -> _Conv:
        """Layers with an activation have a batch norm, which becomes part of weight and bias."""
        bias = self._take(after)
        if not leaky:
            return _Conv(self._take(after * before * side**2).view(after, before, side, side), bias, leaky)
        gain, mean, variance = (self._take(after) for _ in range(3))
        weight = self._take(after * before * side**2).view(after, before, side, side)
        scale = gain / (variance + EPSILON).sqrt()
        return _Conv(weight * scale[:, None, None, None], bias - mean * scale, leaky)

    def _take(self, count: int) -> Tensor:
        self._at += count
        return self._floats[self._at - count : self._at]


def _boxes(map_OHW: Tensor, anchors: tuple[int, ...], cell: int) -> tuple[Tensor, Tensor]:
    height, width = map_OHW.shape[1:]
    said_AHWK = map_OHW.view(len(anchors), -1, height, width).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    middle = (said_AHWK[..., :2].sigmoid() + torch.stack([x, y], dim=-1)) * cell
    sizes = torch.tensor([ANCHORS[anchor] for anchor in anchors], dtype=torch.float32)
    half = said_AHWK[..., 2:4].clamp(max=8).exp() * sizes[:, None, None] / 2
    scores = said_AHWK[..., 4:5].sigmoid() * said_AHWK[..., 5:].sigmoid()
    return torch.cat([middle - half, middle + half], dim=-1).reshape(-1, 4), scores.flatten(0, 2)
