"""Features of a frozen tower, kept on disk: an image is encoded once, whatever the number of epochs and runs.

A cache is a folder with a folder for each tower, named by the fingerprint of its weights and settings. A key
names the content and the plan, so a changed file, rule or tower is computed anew. Every process writes two files
of its own: `NAME.rows` (bfloat16 numbers) and `NAME.keys` (a line an image: its key, where its numbers begin, how
many tiles it has, rows and width of each). Nobody touches the files of another, so runs may fill one cache at
once. Keys follow their numbers: a process that is killed leaves a shorter but correct cache.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from io import SEEK_END
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.core.progress import bar
from llavakit.data.contents import Contents
from llavakit.data.media import Media

CHUNK = 32  # tiles per tower call while filling
NUMBER = 2  # bytes of a bfloat16


class Place(NamedTuple):
    """Where the features of an image lie."""

    file: Path
    offset: int  # bytes
    tiles: int
    rows: int
    width: int

    @property
    def numbers(self) -> int:
        return self.tiles * self.rows * self.width


class FeatureCache:
    """Tower output [N tiles, R rows, C width] per image or clip, by content; rounded to bfloat16."""

    def __init__(self, folder: Path, tower: str) -> None:
        """`tower` is the tower's fingerprint; each has a folder of its own inside `folder`."""
        self.folder = folder / tower
        self.folder.mkdir(parents=True, exist_ok=True)
        self._contents = Contents(folder / "contents")
        self._broken: dict[str, DataError] = {}
        self._where: dict[str, Place] = {}
        self._rows_file = self.folder / f"{uuid4().hex}.rows"
        for keys_file in sorted(self.folder.glob("*.keys")):
            self._read(keys_file)

    def fill(
        self, records: Iterable[Sequence[Media]], encode: Callable[[Tensor], Tensor], *, total: int
    ) -> None:
        """Compute what is missing of the media of `total` records. `encode` maps uint8 pixels_NHWC to features_NRC.

        An image that cannot be decoded is left out; `features` raises its error when its record is read.
        """
        waiting: dict[str, Tensor] = {}
        with bar("tower features", total) as progress:
            for media in records:
                for item in media:
                    self._wait(item, waiting)
                    if sum(map(len, waiting.values())) >= CHUNK:
                        self._encode(waiting, encode)
                progress.advance()
            self._encode(waiting, encode)
        self._contents.save()

    def features(self, media: Media) -> Tensor:
        """float32[N, R, C], read from disk. KeyError if `fill` has not seen the image."""
        key = self._key(media)
        if key in self._broken:
            raise self._broken[key]
        if key not in self._where:
            raise KeyError(media.name)
        place = self._where[key]
        flat = np.fromfile(place.file, dtype=np.int16, count=place.numbers, offset=place.offset)
        return torch.from_numpy(flat).view(torch.bfloat16).view(place[2:]).float()

    def _read(self, keys_file: Path) -> None:
        """Learn what the writer of this file has finished."""
        lines = keys_file.read_text().split("\n")[:-1]  # a last line without its end is half written
        rows_file = keys_file.with_suffix(".rows")
        size = rows_file.stat().st_size if rows_file.exists() else 0
        for line in lines:
            key, *numbers = line.split(" ")
            place = Place(rows_file, *map(int, numbers))
            if place.offset + place.numbers * NUMBER <= size:  # else a disk was full, or a file is lost
                self._where[key] = place

    def _wait(self, item: Media, waiting: dict[str, Tensor]) -> None:
        """Decode an image that is neither known nor waiting. Of its source nothing is kept."""
        try:
            key = self._key(item)
        except DataError:  # gone since its header was read: whoever reads its record will say so
            return
        if key in self._where or key in waiting or key in self._broken:
            return
        try:
            waiting[key] = item.tiles()
        except DataError as error:
            self._broken[key] = error

    def _encode(self, waiting: dict[str, Tensor], encode: Callable[[Tensor], Tensor]) -> None:
        for size in dict.fromkeys(tiles.shape[1:] for tiles in waiting.values()):  # one, but where kind=keep
            alike = {key: tiles for key, tiles in waiting.items() if tiles.shape[1:] == size}
            chunks = torch.cat(list(alike.values())).split(CHUNK)  # a long video is more than one call
            with torch.no_grad():
                blocks_NRC = torch.cat([encode(chunk).to("cpu", torch.bfloat16) for chunk in chunks])
            self._append({key: len(tiles) for key, tiles in alike.items()}, blocks_NRC)
        waiting.clear()
        self._contents.save()

    def _append(self, counts: dict[str, int], blocks_NRC: Tensor) -> None:
        with self._rows_file.open("ab") as file:
            offset = file.seek(0, SEEK_END)
            file.write(blocks_NRC.contiguous().view(torch.int16).numpy().tobytes())
        with self._rows_file.with_suffix(".keys").open("a") as lines:
            for key, count in counts.items():
                place = Place(self._rows_file, offset, count, *blocks_NRC.shape[1:])
                offset += place.numbers * NUMBER
                lines.write(f"{key} {' '.join(map(str, place[1:]))}\n")
                self._where[key] = place

    def _key(self, media: Media) -> str:
        return blake2b(f"{self._contents.of(media)} {media.plan}".encode(), digest_size=16).hexdigest()
