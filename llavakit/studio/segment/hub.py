"""Segmenters with weights of a hub or a directory, by `transformers`: SAM-2 for marks, CLIPSeg for words."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPSegForImageSegmentation, Sam2Model

from llavakit.core.errors import ConfigError
from llavakit.studio.engines import Found, Mark, Prompts, View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.standing_out import level
from llavakit.studio.tiles import Pixels, nonzero_box

# Pixels as the models saw them in training.
SAM_MEAN, SAM_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POINTS_OF_STROKE = 3  # more of them make SAM think of more than one thing
NO_MASK, SURE_MASK = -10.0, 10.0  # logits of a mask that is given to SAM
WORDS_SURE = 0.4  # of CLIPSeg: what its authors cut at
KEPT = 4  # pictures


class SamMarks:
    """Clicks, strokes, boxes and a mask to correct, by a model of the SAM line. A picture is looked at once."""

    def __init__(
        self, model: Any, side: int, mean: tuple[float, ...], std: tuple[float, ...], name: str
    ) -> None:
        """`side`: pixels of the square that the model sees; `name`: how people call it."""
        self._model, self._side, self._mean, self._std, self._name = model, side, mean, std, name
        self._pictures: OrderedDict[Hashable, list[Tensor]] = OrderedDict()
        self._lock = Lock()

    def prepare(self, view: View) -> None:
        self._look(view)

    @torch.inference_mode()
    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """Three candidates for a first prompt, one where a mask is corrected, the surest first."""
        if prompts.text:
            raise EditError(
                f"{self._name} understands marks and boxes, not words; choose clipseg or sam3 for words"
            )
        scale = np.array([self._side / view.size[0], self._side / view.size[1]])
        points, labels = _points(prompts.marks)
        asked: dict[str, Any] = {"image_embeddings": self._look(view)}
        if points:
            asked["input_points"] = torch.tensor(np.array(points) * scale, dtype=torch.float32)[None, None]
            asked["input_labels"] = torch.tensor(labels, dtype=torch.int32)[None, None]
        if prompts.box is not None:
            corners = np.array(prompts.box, np.float32).reshape(2, 2) * scale
            asked["input_boxes"] = torch.tensor(corners.reshape(1, 1, 4), dtype=torch.float32)
        if prompts.before is not None:
            size = self._model.prompt_encoder.mask_input_size
            before = torch.from_numpy(np.float32(prompts.before > 127))[None, None]
            small = F.interpolate(before, size=tuple(size), mode="bilinear", align_corners=False)
            asked["input_masks"] = small * (SURE_MASK - NO_MASK) + NO_MASK
        first = prompts.before is None
        said = self._model(**asked, multimask_output=first and len(points) < 2)
        order = said.iou_scores[0, 0].argsort(descending=True).tolist()
        return [
            found
            for index in order
            if (
                found := sized(
                    "object", said.pred_masks[0, 0, index], view, float(said.iou_scores[0, 0, index])
                )
            )
        ]

    def _look(self, view: View) -> list[Tensor]:
        with self._lock:
            if view.key not in self._pictures:
                pixels = pixels_of(view, self._side, self._mean, self._std)
                with torch.inference_mode():
                    self._pictures[view.key] = self._model.get_image_embeddings(pixels)
                while len(self._pictures) > KEPT:
                    self._pictures.popitem(last=False)
            return self._pictures[view.key]


class Sam2(SamMarks):
    """SAM-2 (arXiv 2408.00714)."""

    def __init__(self, path: str) -> None:
        """A directory or hub id. ConfigError where there is no such model."""
        model = opened(Sam2Model, path)
        side = int(model.config.vision_config.backbone_config.image_size[0])
        super().__init__(model, side, SAM_MEAN, SAM_STD, "SAM-2")


class ClipSeg:
    """Words to a mask (arXiv 2112.10003)."""

    def __init__(self, path: str) -> None:
        self._model: Any = opened(CLIPSegForImageSegmentation, path)
        self._tokenizer: Any = opened(AutoTokenizer, path)
        self._side = int(self._model.config.vision_config.image_size)

    def prepare(self, view: View) -> None:
        """Nothing: it looks at a picture with the words in mind."""

    @torch.inference_mode()
    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """One mask, empty of nothing: EditError where the words are not found."""
        if not prompts.text:
            raise EditError("CLIPSeg understands words only; choose another segmenter for marks and boxes")
        # Special tokens that stand in the words stay text.
        ids = self._tokenizer(prompts.text, return_tensors="pt", truncation=True, split_special_tokens=True)
        pixels = pixels_of(view, self._side, CLIP_MEAN, CLIP_STD)
        logits = self._model(input_ids=ids["input_ids"], pixel_values=pixels).logits
        found = sized(prompts.text, logits.reshape(logits.shape[-2:]), view, 1.0, WORDS_SURE)
        if found is None:
            raise EditError(f"nothing like {prompts.text!r} was found")
        return [found]


def opened(kind: Any, path: str) -> Any:
    try:
        made = kind.from_pretrained(path, use_safetensors=True)  # what unpickles could run code
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    return made.eval() if isinstance(made, torch.nn.Module) else made


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


def pixels_of(view: View, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """float32[1, 3, side, side]: the picture squeezed to a square, as these models take it."""
    rgb = view.rgb(level(max(view.size), side))
    tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255
    square = F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return (square - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def sized(name: str, logits_HW: Tensor, view: View, score: float, sure: float = 0.5) -> Found | None:
    """A mask as large as the picture; None for an empty one."""
    width, height = view.size
    whole = F.interpolate(
        logits_HW[None, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    mask: Pixels = np.uint8(255) * (whole[0, 0].sigmoid() > sure).numpy()
    box = nonzero_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    return Found(name, (left, top), mask[top:bottom, left:right], score)
