"""What travels between packages that must not know each other: segments and packed batches.

`data` makes them, `model` and `train` read them. Shape letters: T tokens of the packed row, S slots, K rows that
make one, L learned tokens, N tiles, R feature rows, C tower width, D decoder width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

D = TypeVar("D")
_NONE = torch.empty(0, dtype=torch.long)

MARKS = "marks"  # the column of what samples say of their leaves

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
class Gather:
    """Row `into_S` of one table is made of rows `rows_SK` of another: their weighted sum.

    Without weights it is their maximum, which for K = 1 is the row itself.
    """

    into_S: Tensor
    rows_SK: Tensor
    weights_SK: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One packed row, no padding.

    A learned token may be predicted from the last row of a parent, so predictions are pairs: the hidden row
    `predict_L` must say the token `labels_L`, and counts `weights_L`.

    Media take one road: tiles -> tower -> table of feature rows -> `pools` -> connector -> `gathers` -> slots of
    the row. `pools` is empty where nothing is pooled before the connector: then every feature row goes through it.
    """

    ids_T: Tensor
    positions_T: Tensor
    segments: tuple[Segment, ...]
    predict_L: Tensor
    labels_L: Tensor
    weights_L: Tensor
    answers_L: Tensor = (
        _NONE  # which leaf of the row, counted from 0, each learned token belongs to; -1: none
    )
    pixels: tuple[Tensor, ...] = ()  # uint8[N, H, W, 3], one entry per tile size; or instead of it
    features_RC: Tensor | None = None  # the rows a frozen tower gave for the tiles
    pools: tuple[Gather, ...] = ()
    gathers: tuple[Gather, ...] = ()
    separator_slots_S: Tensor = _NONE  # newlines and other learned rows: where they stand
    separator_rows_S: Tensor = _NONE  # which row of the model's table of separators
    columns: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # further numbers of each learned token, which an objective knows by name
    keys: tuple[str, ...] = ()  # names of the row's samples, where something is looked up by them
    use_all_parts: bool = False  # connector and newline get a gradient, of zero where the row needs neither

    @property
    def num_tokens(self) -> int:
        return len(self.ids_T)

    @property
    def weight(self) -> float:
        """The sum of the weights of all learned tokens: what a loss sum is divided by."""
        return float(self.weights_L.sum())

    @property
    def ends_A(self) -> Tensor:
        """The row before the last learned token of every answer, whose tokens stand together."""
        return self.predict_L[torch.bincount(self.answers_L).cumsum(0) - 1]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        return _moved(self, device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To a GPU through pinned memory: from elsewhere the host would wait for all that the GPU has still to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _moved(thing: D, device: torch.device) -> D:
    changes: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if isinstance(value, Tensor):
            changes[name] = send(value, device)
        elif name == "columns":
            changes[name] = {key: send(column, device) for key, column in value.items()}
        elif name in ("pixels", "pools", "gathers"):
            changes[name] = tuple(
                send(item, device) if isinstance(item, Tensor) else _moved(item, device) for item in value
            )
    return replace(thing, **changes)  # type: ignore[type-var]
