"""The rows of pictures in the decoder's input, kept so that a picture goes through the tower once.

Tiles go through the tower a few at a time, so that a step of many pictures is no longer than others; what a
picture's first tiles gave waits for its last ones.
Shape letters: N tiles, R rows of the tower, C its width, S slots, D decoder width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llavakit.core.types import IMAGE_ID, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate
from llavakit.engine.kept import Kept
from llavakit.model.llava import Llava


@dataclass
class View:
    """A medium on its way through the tower."""

    media: Media
    tiles_NHWC: Tensor  # or, where somebody else's tower has seen them, features_NRC
    features: list[Tensor] = field(default_factory=list)  # [., R, C] of its first tiles

    @property
    def done(self) -> int:
        """Tiles that went through."""
        return sum(map(len, self.features))

    @property
    def complete(self) -> bool:
        return self.done == len(self.tiles_NHWC)


class FeatureCache:
    """Rows by media key, the least recently used forgotten first. Threads may ask while the engine works."""

    def __init__(self, model: Llava, budget_bytes: int) -> None:
        self._model = model
        self._rows: Kept[bytes, Tensor] = Kept(budget_bytes, _size)
        self._views: dict[bytes, View] = {}
        self.tiles = 0  # that went through the tower
        self.tile_tokens = _tile_tokens(model)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def left(self, key: bytes, media: Media) -> int:
        """Tiles of a medium that have to go through the tower before its rows are known."""
        if key in self:
            return 0
        view = self._views.get(key)
        return media.plan.tiles - (0 if view is None else view.done)

    def find(self, key: bytes) -> Tensor | None:
        """rows_SD of a medium, S its slots, if they are known."""
        return self._rows.find(key)

    def begin(self, key: bytes, media: Media, tiles: Tensor | None) -> None:
        """A medium is to be seen; `tiles` if somebody has decoded it already, or taken it through the tower."""
        if key in self._views or key in self:
            return
        tiles = media.tiles() if tiles is None else tiles
        if len(tiles) != media.plan.tiles:
            raise ValueError(f"{len(tiles)} tiles for a plan of {media.plan.tiles}")
        self._views[key] = View(media, tiles, [] if tiles.dtype == torch.uint8 else [tiles])

    def drop(self, key: bytes) -> None:
        """Nobody waits for this medium any more."""
        self._views.pop(key, None)

    def advance(self, counts: Sequence[tuple[bytes, int]]) -> dict[bytes, Tensor]:
        """Take so many more tiles of each medium through the tower, together; rows_SD of what is complete."""
        views = [(self._views[key], count) for key, count in counts if key in self._views]
        wanted = [(view, count) for view, count in views if not view.complete]
        pieces = [view.tiles_NHWC[view.done : view.done + count] for view, count in wanted]
        for (view, _), features_NRC in zip(wanted, self._through_tower(pieces), strict=True):
            view.features.append(features_NRC)
        complete = [key for key, _ in counts if key in self._views and self._views[key].complete]
        found = dict(zip(complete, self._compute([self._views[key] for key in complete]), strict=True))
        for key, rows_SD in found.items():
            del self._views[key]
            self._rows.keep(key, rows_SD)
        return found

    def clear(self) -> None:
        """Forget everything: tower or connector have changed."""
        self._rows.clear()
        self._views.clear()

    def _through_tower(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """[N, R, C] of each piece; pieces of one size in one run."""
        out: dict[int, Tensor] = {}
        for size in {piece.shape[1:] for piece in pieces}:
            mine = [number for number, piece in enumerate(pieces) if piece.shape[1:] == size]
            pixels_NHWC = torch.cat([pieces[number] for number in mine]).to(self._model.device)
            features_NRC = self._model.tower(pixels_NHWC)
            counts = [len(pieces[number]) for number in mine]
            out |= dict(zip(mine, features_NRC.split(counts), strict=True))
            self.tiles += len(pixels_NHWC)
        return [out[number] for number in range(len(pieces))]

    def _compute(self, views: Sequence[View]) -> list[Tensor]:
        """rows_SD of each complete view."""
        if not views:
            return []
        counts = [view.media.plan.num_tokens for view in views]
        samples = [
            Sample((IMAGE_ID,) * count, (0.0,) * count, (Segment(0, count),), (view.media,))
            for view, count in zip(views, counts, strict=True)
        ]
        features = [torch.cat(view.features) for view in views]
        batch = collate(samples, features, learn=False).to(self._model.device)
        return [rows_SD.clone() for rows_SD in self._model.embed(batch).split(counts)]


def _tile_tokens(model: Llava) -> int:
    """How many tokens of the decoder cost as much as a tile in the tower: rows times weights on both sides."""
    tower, decoder = (
        sum(weight.numel() for weight in part.parameters()) for part in (model.tower, model.language)
    )
    return max(1, round(model.tower.num_rows * tower / max(decoder, 1)))


def _size(key: bytes, rows_SD: Tensor) -> int:
    return rows_SD.numel() * rows_SD.element_size()
