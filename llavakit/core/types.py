"""What travels between packages that must not know each other: segments and packed batches.

`data` makes them, `model` and `train` read them. Shape letters: T tokens of the packed row, S image-token
slots, L learned tokens, N tiles, R rows a tower gives per tile, C tower width, D decoder width, V vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Stands in `ids` where an image row will be; never an embedding row (the value of the original LLaVA code).
IMAGE_ID = -200


@dataclass(frozen=True)
class Segment:
    """Tokens `start..end` of a packed row. They see themselves causally, and everything `parent` sees.

    `parent` is the index of an earlier segment of the same row: a prompt with its image is the parent of the
    answers (or questions) that continue it, so it is computed once.
    """

    start: int
    end: int
    parent: int | None = None

    def __len__(self) -> int:
        return self.end - self.start


def segment_positions(segments: tuple[Segment, ...]) -> list[int]:
    """The position id of every token: counting goes on from the end of the parent."""
    ends: list[int] = []
    positions: list[int] = []
    for segment in segments:
        first = 0 if segment.parent is None else ends[segment.parent]
        ends.append(first + len(segment))
        positions.extend(range(first, first + len(segment)))
    return positions


@dataclass(frozen=True)
class Batch:
    """One packed row, no padding.

    A learned token may be predicted from the last row of a parent, so predictions are pairs: the hidden row
    `predict_L` must say the token `labels_L`, and counts `weights_L`.
    """

    ids_T: Tensor
    positions_T: Tensor
    segments: tuple[Segment, ...]
    slots_S: Tensor  # where in the row the image tokens stand
    rows_S: Tensor  # which row of the table [tile 0 rows | tile 1 rows | ...] goes there
    predict_L: Tensor
    labels_L: Tensor
    weights_L: Tensor
    pixels_NHWC: Tensor | None = None  # uint8; or instead of it
    features_NRC: Tensor | None = None  # what a frozen tower gave for the tiles

    @property
    def num_tokens(self) -> int:
        return len(self.ids_T)

    @property
    def weight(self) -> float:
        """The sum of the weights of all learned tokens: what a loss sum is divided by."""
        return float(self.weights_L.sum())

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)
