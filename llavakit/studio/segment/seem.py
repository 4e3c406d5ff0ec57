"""A segmenter in a process of its own, over HTTP: SEEM (arXiv 2304.06718), which needs its own environment.

`POST URL/segment` gets, in pixels of the picture that is sent,

    {"image": PNG in base64, "marks": [{"path": [[x, y]], "width": w, "inside": true}], "box": [l, t, r, b] or null,
     "text": "", "mask": PNG in base64 or null}        # `mask`: what the last mark corrects, white is inside

and answers, the likeliest first, with masks as COCO writes them:

    {"masks": [{"size": [h, w], "counts": runs, "score": 0.9, "label": "dog"}]}
"""

import json
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from llavakit.core.errors import DataError, RemoteError
from llavakit.studio.engines import Found, Prompts, View
from llavakit.studio.outside import Outside, packed
from llavakit.studio.scene import EditError
from llavakit.studio.segment.standing_out import level
from llavakit.studio.tiles import Pixels, nonzero_box
from llavakit.tools.opencv import opencv
from llavakit.vision.rle import decode_rle

SIDE = 1024  # pixels of the longer side of what is sent, or up to twice as many
CANDIDATES = 3


class _Mask(BaseModel):
    size: tuple[int, int]
    counts: str | list[int]
    score: float = 1.0
    label: Annotated[str, Field(max_length=200)] = "object"


class _Said(BaseModel):
    masks: list[_Mask]


class Seem:
    """A PromptSegmenter behind a URL. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self._server = Outside(url.rstrip("/") + "/segment")

    def prepare(self, view: View) -> None:
        """Nothing: each question comes with its picture."""

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """EditError where nothing is found."""
        rgb = view.rgb(level(max(view.size), SIDE))
        scale = np.array([rgb.shape[1] / view.size[0], rgb.shape[0] / view.size[1]])
        before = None
        if prompts.before is not None:
            before = packed(opencv().resize(prompts.before, rgb.shape[1::-1]))
        said = self._server.ask(
            {
                "image": packed(rgb),
                "marks": [
                    {
                        "path": (np.array(mark.path) * scale).tolist(),
                        "width": mark.width * float(scale[0]),
                        "inside": mark.inside,
                    }
                    for mark in prompts.marks
                ],
                "box": None if prompts.box is None else (np.array(prompts.box) * np.tile(scale, 2)).tolist(),
                "text": prompts.text,
                "mask": before,
            }
        )
        found = [each for mask in self._read(said, rgb) if (each := _placed(mask, view.size))]
        if not found:
            raise EditError("SEEM found nothing there")
        return found

    def _read(self, said: bytes, rgb: Pixels) -> list[tuple[_Mask, Pixels]]:
        try:
            masks = _Said.model_validate(json.loads(said)).masks[:CANDIDATES]
            for mask in masks:
                if mask.size != rgb.shape[:2]:
                    raise DataError(f"a mask of {mask.size} for a picture of {rgb.shape[:2]}")
            return [(mask, decode_rle(mask.size, mask.counts)) for mask in masks]
        except (ValueError, ValidationError, DataError, RecursionError) as error:
            raise RemoteError(f"{self._server.url}: answers with no masks: {str(error)[:200]}") from None


def _placed(said: tuple[_Mask, Pixels], size: tuple[int, int]) -> Found | None:
    """As large as the picture; None for an empty one."""
    mask, inside = said
    whole = opencv().resize(np.uint8(255) * inside, size, interpolation=opencv().INTER_LINEAR)
    whole = np.uint8(255) * (whole > 127)
    box = nonzero_box(whole)
    if box is None:
        return None
    left, top, right, bottom = box
    return Found(mask.label, (left, top), whole[top:bottom, left:right], mask.score)
