"""Models of the SAM line by `transformers`: masks for marks (SAM 2, arXiv 2408.00714), and for words (SAM 3).

The editor and the tool `segment` ask them alike. A picture is looked at once, and may then be asked about often;
masks are as large as the picture, and come the surest first.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, Sam2Model, Sam3Model, Sam3TrackerModel

from llavakit.core.errors import ConfigError, pick

# np.ndarray as the models saw them in training.
MEAN2, STD2 = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN3 = STD3 = (0.5, 0.5, 0.5)
NO_MASK, SURE_MASK = -10.0, 10.0  # logits of a mask that is given
SURE_NAMED = 0.3  # score of an instance that words name, as the authors of SAM 3 cut
LONGEST = 32  # tokens of the words
KEPT = 4  # pictures


@dataclass(frozen=True)
class Masked:
    """A mask as large as the picture, bool[H, W], and how sure the model is of it."""

    inside_HW: np.ndarray
    score: float


@dataclass(frozen=True)
class Pointed:
    """What was pointed at, in pixels of the picture: points with 1 (inside) or 0, a box, a mask to correct."""

    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    before_HW: np.ndarray | None = None  # bool


class Looks:
    """What a model has seen of the newest pictures, so that each is looked at once. Any thread may ask."""

    def __init__(self, look: Callable[[np.ndarray], Any]) -> None:
        self._look, self._lock = look, Lock()
        self._seen: OrderedDict[Hashable, Any] = OrderedDict()

    def at(self, key: Hashable, rgb: Callable[[], np.ndarray]) -> Any:
        """What it has seen of this picture, which is asked for its pixels if they are needed."""
        with self._lock:
            if key not in self._seen:
                self._seen[key] = self._look(rgb())
                while len(self._seen) > KEPT:
                    self._seen.popitem(last=False)
            return self._seen[key]


class SamMarks:
    """Points, a box and a mask to correct, for any model of the line."""

    def __init__(self, model: Any, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """`side`: pixels of the square that the model sees."""
        self._model, self.side, self._mean, self._std = model, side, mean, std

    @torch.inference_mode()
    def look(self, rgb_HW3: np.ndarray) -> list[Tensor]:
        """What the model has seen of a picture; it may be a smaller version of the one that is asked about."""
        pixels = pixels_of(rgb_HW3, self.side, self._mean, self._std)
        seen: list[Tensor] = self._model.get_image_embeddings(pixels.to(self._model.device))
        return seen

    @torch.inference_mode()
    def masks(self, seen: list[Tensor], size: tuple[int, int], said: Pointed) -> list[Masked]:
        """Up to three for a first point or box, one where more was said; empty masks are none.

        `size` is (width, height) of the picture.
        """
        device = self._model.device
        scale = np.array([self.side / size[0], self.side / size[1]])
        asked: dict[str, Any] = {"image_embeddings": seen}
        if said.points:
            asked["input_points"] = torch.tensor(np.array(said.points) * scale, dtype=torch.float32)[
                None, None
            ]
            asked["input_labels"] = torch.tensor(list(said.labels), dtype=torch.int32)[None, None]
        if said.box is not None:
            corners = np.array(said.box, np.float32).reshape(2, 2) * scale
            asked["input_boxes"] = torch.tensor(corners.reshape(1, 1, 4), dtype=torch.float32)
        if said.before_HW is not None:
            small = F.interpolate(
                torch.from_numpy(np.float32(said.before_HW))[None, None],
                size=tuple(self._model.prompt_encoder.mask_input_size), mode="bilinear", align_corners=False,
            )  # fmt: skip
            asked["input_masks"] = small * (SURE_MASK - NO_MASK) + NO_MASK
        asked = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in asked.items()}
        several = said.before_HW is None and len(said.points) < 2
        told = self._model(**asked, multimask_output=several)
        scores = told.iou_scores[0, 0]
        return _sized(told.pred_masks[0, 0], scores, scores.argsort(descending=True).tolist(), size)


class Sam2(SamMarks):
    """SAM 2."""

    def __init__(self, path: str) -> None:
        """A directory or hub id. ConfigError where there is no such model."""
        model = opened(Sam2Model, path)
        super().__init__(model, int(model.config.vision_config.backbone_config.image_size[0]), MEAN2, STD2)


class Sam3:
    """SAM 3. One directory holds both halves: a tracker that knows marks, a detector that knows words."""

    def __init__(self, path: str) -> None:
        """A directory or hub id. ConfigError where there is no such model."""
        tracker, self._words = opened(Sam3TrackerModel, path), opened(Sam3Model, path)
        self._tokenizer: Any = opened(AutoTokenizer, path)
        self._side = int(self._words.config.vision_config.image_size)
        self.marks = SamMarks(tracker, self._side, MEAN3, STD3)

    @torch.inference_mode()
    def look(self, rgb_HW3: np.ndarray) -> Any:
        """What its detector has seen of a picture."""
        pixels = pixels_of(rgb_HW3, self._side, MEAN3, STD3)
        return self._words.get_vision_features(pixels.to(self._words.device))

    @torch.inference_mode()
    def named(self, seen: Any, size: tuple[int, int], words: str, most: int) -> list[Masked]:
        """The instances of what words name, at most so many; none where nothing is like them."""
        # Special tokens that stand in the words stay text.
        ids = self._tokenizer(
            words, return_tensors="pt", truncation=True, padding="max_length", max_length=LONGEST,
            split_special_tokens=True,
        ).to(self._words.device)  # fmt: skip
        told = self._words(
            vision_embeds=seen, input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        )
        scores_Q = told.pred_logits[0].sigmoid() * told.presence_logits[0].sigmoid()
        best = [index for index in scores_Q.argsort(descending=True).tolist() if scores_Q[index] > SURE_NAMED]
        return _sized(told.pred_masks[0], scores_Q, best[:most], size)


KINDS: dict[str, Any] = {"sam2": Sam2, "sam2_video": Sam2, "sam3": Sam3, "sam3_video": Sam3}


def open_sam(path: str) -> Sam2 | Sam3:
    """The model of a directory or hub id, of whichever kind it is. ConfigError where it is none of them."""
    kind = opened(AutoConfig, path).model_type
    model: Sam2 | Sam3 = pick(KINDS, kind, f"model_type of {path}")(path)
    return model


def opened(kind: Any, path: str) -> Any:
    """By `from_pretrained`; a model on the GPU if there is one. ConfigError where it cannot be read."""
    try:
        made = kind.from_pretrained(path, use_safetensors=True)  # what unpickles could run code
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(made, torch.nn.Module):
        return made
    return made.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def pixels_of(rgb_HW3: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32[1, 3, side, side]: a picture squeezed to a square, as these models take it."""
    tensor = torch.from_numpy(np.ascontiguousarray(rgb_HW3)).permute(2, 0, 1)[None].float() / 255
    square = F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return (square - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def whole_mask(logits_HW: Tensor, size: tuple[int, int], sure: float = 0.5) -> np.ndarray:
    """bool[H, W] of the picture's `size` (width, height), where it is likelier than `sure`."""
    whole = F.interpolate(
        logits_HW[None, None].float(), size=size[::-1], mode="bilinear", align_corners=False
    )
    inside: np.ndarray = (whole[0, 0].sigmoid() > sure).cpu().numpy()
    return inside


def _sized(logits_KHW: Tensor, scores_K: Tensor, order: Sequence[int], size: tuple[int, int]) -> list[Masked]:
    masks = [Masked(whole_mask(logits_KHW[index], size), float(scores_K[index])) for index in order]
    return [each for each in masks if each.inside_HW.any()]
