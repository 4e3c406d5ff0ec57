"""Segmenters with weights of a hub or a directory, by `transformers`: SAM-2 for marks, CLIPSeg for words."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from llavakit.studio.engines import Found, Mark, Prompts, Step, View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.standing_out import level
from llavakit.studio.tiles import Pixels, nonzero_box
from llavakit.tools import sam
from llavakit.tools.sam import Looks, Pointed, opened, pixels_of, whole_mask

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POINTS_OF_STROKE = 3  # more of them make SAM think of more than one thing
WORDS_SURE = 0.4  # of CLIPSeg: what its authors cut at


class Looked:
    """What a model has seen of the newest pictures."""

    def __init__(self, look: Callable[[Pixels], Any], side: int) -> None:
        """`look` is given a picture that is not much larger than `side` pixels."""
        self._looks, self._side = Looks(look), side

    def at(self, view: View) -> Any:
        """What it has seen of this one."""
        return self._looks.at(view.key, lambda: view.rgb(level(max(view.size), self._side)))


class SamMarks:
    """Clicks, strokes, boxes and a mask to correct, by a model of the SAM line (tools/sam.py)."""

    def __init__(self, model: sam.SamMarks, name: str) -> None:
        """`name`: how people call it."""
        self._model, self._name, self._pictures = model, name, Looked(model.look, model.side)

    def steps(self, view: View) -> Sequence[Step]:
        """One, and most of the work."""
        return (Step("embedding", partial(self._pictures.at, view)),)

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """Three candidates for a first prompt, one where a mask is corrected, the surest first."""
        if prompts.text:
            raise EditError(
                f"{self._name} understands marks and boxes, not words; choose clipseg or sam3 for words"
            )
        points, labels = _points(prompts.marks)
        before = None if prompts.before is None else prompts.before > 127
        said = Pointed(points, labels, prompts.box, before)
        masks = self._model.masks(self._pictures.at(view), view.size, said)
        return [placed("object", mask.inside_HW, mask.score) for mask in masks]


class ClipSeg:
    """Words to a mask (arXiv 2112.10003)."""

    def __init__(self, path: str) -> None:
        self._model: Any = opened(CLIPSegForImageSegmentation, path)
        self._tokenizer: Any = opened(AutoTokenizer, path)
        self._side = int(self._model.config.vision_config.image_size)

    def steps(self, view: View) -> Sequence[Step]:
        """None: it looks at a picture with the words in mind."""
        return ()

    @torch.inference_mode()
    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """One mask, empty of nothing: EditError where the words are not found."""
        if not prompts.text:
            raise EditError("CLIPSeg understands words only; choose another segmenter for marks and boxes")
        # Special tokens that stand in the words stay text.
        ids = self._tokenizer(prompts.text, return_tensors="pt", truncation=True, split_special_tokens=True)
        seen = view.rgb(level(max(view.size), self._side))
        pixels = pixels_of(seen, self._side, CLIP_MEAN, CLIP_STD)
        device = self._model.device
        logits = self._model(input_ids=ids["input_ids"].to(device), pixel_values=pixels.to(device)).logits
        inside = whole_mask(logits.reshape(logits.shape[-2:]), view.size, WORDS_SURE)
        if not inside.any():
            raise EditError(f"nothing like {prompts.text!r} was found")
        return [placed(prompts.text, inside, 1.0)]


def _points(marks: Sequence[Mark]) -> tuple[list[tuple[float, float]], list[int]]:
    """Every click, and a few well-spread points of each stroke."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    for mark in marks:
        count = min(POINTS_OF_STROKE, len(mark.path))
        for number in range(count):
            points.append(mark.path[(2 * number + 1) * len(mark.path) // (2 * count)])
            labels.append(int(mark.inside))
    return points, labels


def placed(name: str, inside_HW: Pixels, score: float) -> Found:
    """A mask that is not empty, cut to what it covers."""
    mask: Pixels = np.uint8(255) * inside_HW
    box = nonzero_box(mask)
    assert box is not None
    left, top, right, bottom = box
    return Found(name, (left, top), mask[top:bottom, left:right], score)
