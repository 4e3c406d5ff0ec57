"""The rows of pictures in the decoder's input, kept so that a picture goes through the tower once."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

from torch import Tensor

from llavakit.core.types import IMAGE_ID, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate
from llavakit.model.llava import Llava


class FeatureCache:
    """Rows by media key, the least recently used forgotten first. Threads may ask while the engine works."""

    def __init__(self, model: Llava, budget_bytes: int) -> None:
        self._model, self._budget = model, budget_bytes
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self.tiles = 0  # that went through the tower

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._rows

    def rows(self, media: Mapping[bytes, Media], tiles: Mapping[bytes, Tensor]) -> dict[bytes, Tensor]:
        """rows_SD of each of the media, S its slots. Those that are not kept go through the tower together."""
        found = self._find(media)
        missing = [key for key in media if key not in found]
        if missing:
            given = [tiles[key] if key in tiles else media[key].tiles() for key in missing]
            found |= dict(zip(missing, self._compute([media[key] for key in missing], given), strict=True))
            self._keep({key: found[key] for key in missing})
        return found

    def clear(self) -> None:
        """Forget everything: tower or connector have changed."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0

    def _compute(self, media: Sequence[Media], tiles: Sequence[Tensor]) -> list[Tensor]:
        self.tiles += sum(len(each) for each in tiles)
        counts = [item.plan.num_tokens for item in media]
        samples = [
            Sample((IMAGE_ID,) * count, (0.0,) * count, (Segment(0, count),), (item,))
            for item, count in zip(media, counts, strict=True)
        ]
        batch = collate(samples, tiles, learn=False).to(self._model.device)
        return [rows_SD.clone() for rows_SD in self._model.embed(batch).split(counts)]

    def _find(self, keys: Mapping[bytes, object]) -> dict[bytes, Tensor]:
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
            return found

    def _keep(self, new: Mapping[bytes, Tensor]) -> None:
        with self._lock:
            self._rows.update(new)
            self._bytes += sum(map(_size, new.values()))
            while self._bytes > self._budget:
                _, oldest = self._rows.popitem(last=False)
                self._bytes -= _size(oldest)


def _size(rows_SD: Tensor) -> int:
    return rows_SD.numel() * rows_SD.element_size()
