"""SEEM (arXiv 2304.06718) in a process of its own, over HTTP, for it needs its own environment.

`POST URL/segment` gets, in pixels of the picture that is sent,

    {"image": PNG in base64, "marks": [{"path": [[x, y]], "width": w, "inside": true}], "box": [l, t, r, b] or null,
     "text": "", "mask": PNG in base64 or null,        # `mask`: what the last mark corrects, white is inside
     "example": {"image": PNG in base64, "mask": PNG in base64} or null}    # a thing elsewhere to find the like of

and answers, the likeliest first, with masks as COCO writes them:

    {"masks": [{"size": [h, w], "counts": runs, "score": 0.9, "label": "dog"}]}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from llavakit.core.errors import DataError, RemoteError
from llavakit.text.calls import ToolError, ToolUnavailable, Weights
from llavakit.tools.arguments import Answer, Drawn, Mask, Picture
from llavakit.tools.opencv import shaded
from llavakit.tools.outside import Outside, packed
from llavakit.vision.rle import decode_rle

MOST = 3  # masks that are read
WEIGHTS = Weights("SEEM", "Apache-2.0", "a server of its own", 200)


class _Mask(BaseModel):
    size: tuple[int, int]
    counts: str | list[int]
    score: float = 1.0
    label: Annotated[str, Field(max_length=200)] = "object"


class _Said(BaseModel):
    masks: list[_Mask]


@dataclass(frozen=True)
class Likely:
    """A mask, bool[h, w], as large as the picture that was sent."""

    label: str
    inside_HW: np.ndarray
    score: float


class SeemServer:
    """One address. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self._server = Outside(url.rstrip("/") + "/segment")

    def masks(
        self,
        rgb_HW3: np.ndarray,
        *,
        marks: Sequence[dict[str, Any]] = (),
        box: Sequence[float] | None = None,
        text: str = "",
        before_HW: np.ndarray | None = None,
        example: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> list[Likely]:
        """The likeliest masks, empty ones among them. `before_HW` is uint8, white inside.

        `example` is a picture, uint8[h, w, 3], and the thing on it, bool[h, w].
        """
        asked: dict[str, Any] = {
            "image": packed(rgb_HW3), "marks": list(marks), "box": None if box is None else list(box), "text": text,
            "mask": None if before_HW is None else packed(before_HW), "example": None,
        }  # fmt: skip
        if example is not None:
            asked["example"] = {"image": packed(example[0]), "mask": packed(np.uint8(255) * example[1])}
        data = self._server.ask(asked)
        try:
            told = _Said.model_validate(json.loads(data)).masks[:MOST]
            for mask in told:
                if mask.size != rgb_HW3.shape[:2]:
                    raise DataError(f"a mask of {mask.size} for a picture of {rgb_HW3.shape[:2]}")
            return [Likely(mask.label, decode_rle(mask.size, mask.counts), mask.score) for mask in told]
        except (ValueError, ValidationError, DataError, RecursionError) as error:
            raise RemoteError(f"{self._server.url}: answers with no masks: {str(error)[:200]}") from None


def segment_like(example: Picture, mask: Mask, image: Picture, *, url: str) -> Answer:
    """Select in a picture what is like a thing on another one, the example: its mask (SEEM).

    The mask given is of the thing on the example; the one that comes back is of the picture.
    """
    if not mask.inside_HW.any():
        raise ToolError("the mask of the example is empty: nothing is shown by it")
    try:
        told = SeemServer(url).masks(image.pixels_HW3, example=(example.pixels_HW3, mask.inside_HW))
    except RemoteError as error:
        raise ToolUnavailable(str(error)) from None
    found = [each for each in told if each.inside_HW.any()]
    if not found:
        raise ToolError("nothing like the example was found")
    best = found[0]
    value = {
        "mask": Mask(best.inside_HW),
        "label": best.label,
        "percent": round(100 * float(best.inside_HW.mean()), 2),
        "confidence": round(best.score, 3),
    }
    return Answer(value, (Drawn(shaded(image.pixels_HW3, best.inside_HW)),))
