"""A session on disk: `journal.jsonl` says what was done, `tiles.bin` holds pixels, `picture` is what it began with.

Pixels are written first, then the line that needs them, and both are on the disk before a command is answered. What
a killed process leaves behind the last whole line is cut off.
"""

import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from llavakit.core.errors import DataError
from llavakit.core.journal import Row, open_journal
from llavakit.studio.scene import SCENES, Scene
from llavakit.studio.tiles import Pixels, Raster, Tile

JOURNAL, TILES, PICTURE = "journal.jsonl", "tiles.bin", "picture"
FAST = 1  # level of zlib: masks and drawings shrink much at each
SAMPLE, WORTH = (
    8192,
    0.5,
)  # a photo shrinks little at any level: where this many bytes do not shrink so far, none are


class Store:
    """The open folder of one session. Scenes become numbers of rasters and tiles; what is there is not repeated."""

    def __init__(self, folder: Path) -> None:
        """ConfigError while another process has the session open."""
        self.folder = folder
        with ExitStack() as stack:
            self.rows, self._journal = stack.enter_context(open_journal(folder / JOURNAL))
            self._file = os.open(folder / TILES, os.O_RDWR | os.O_CREAT, 0o644)
            stack.callback(os.close, self._file)
            self._open = stack.pop_all()
        self._numbers: WeakKeyDictionary[Raster, int] = WeakKeyDictionary()
        self._tile_numbers: WeakKeyDictionary[Tile, int] = WeakKeyDictionary()
        self._next_raster, self._next_tile, self._end = 0, 0, 0

    def close(self) -> None:
        self._open.close()

    def add(self, row: Row, scene: Scene | None = None) -> None:
        """Write a line, and before it the pixels of its scene that are not there yet."""
        if scene is not None:
            rasters: dict[str, Any] = {}
            tiles: list[list[int]] = []

            def number(raster: Raster) -> int:
                if raster not in self._numbers:
                    places = [-1 if tile is None else self._keep(tile, tiles) for tile in raster.tiles]
                    said = {"size": raster.size, "bands": raster.bands, "tiles": places}
                    rasters[str(self._number_raster(raster))] = said
                return self._numbers[raster]

            said = SCENES.dump_python(scene, mode="json", context=number)
            if tiles:
                os.fsync(self._file)
            row = {**row, "scene": said, "rasters": rasters, "tiles": tiles}
        self._journal.add([row])

    def read_scenes(self, first: Sequence[Raster]) -> list[Scene | None]:
        """The scene of every line, None where a line has none. Pixels are read when they are looked at.

        `first`: what the session began with, whose pixels are in the file of its picture.
        """
        rasters = dict(enumerate(first))
        tiles = [tile for raster in first for tile in raster.tiles if tile is not None]
        for raster in first:
            self._number_raster(raster)
        for tile in tiles:
            self._number_tile(tile)
        scenes: list[Scene | None] = []
        for line, row in enumerate(self.rows, 1):
            if "scene" not in row:
                scenes.append(None)
                continue
            try:
                for place in row["tiles"]:
                    tiles.append(self._stored(*place))
                for number, said in row["rasters"].items():
                    chosen = tuple(None if index < 0 else tiles[index] for index in said["tiles"])
                    raster = rasters[int(number)] = Raster(tuple(said["size"]), said["bands"], chosen)
                    self._number_raster(raster)
                scenes.append(SCENES.validate_python(row["scene"], context=rasters.__getitem__))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                what = f"not a line of a session: {type(error).__name__}: {error}"
                raise DataError(what, path=self.folder / JOURNAL, line=line) from None
        os.ftruncate(self._file, self._end)  # what a killed process wrote for a line that it did not write
        return scenes

    def _keep(self, tile: Tile, places: list[list[int]]) -> int:
        """The number of a tile; one that has none is written."""
        if tile not in self._tile_numbers:
            data = _packed(np.ascontiguousarray(tile.pixels).tobytes())
            done = 0
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self._end + done)
            places.append([self._end, len(data), *tile.pixels.shape])
            self._end += len(data)
            self._number_tile(tile)
        return self._tile_numbers[tile]

    def _stored(self, offset: int, length: int, *shape: int) -> Tile:
        """A tile that is read from the file when it is looked at."""

        def read() -> Pixels:
            try:
                data = zlib.decompress(os.pread(self._file, length, offset))
                return np.frombuffer(data, np.uint8).reshape(shape).copy()
            except (zlib.error, ValueError):
                raise DataError("pixels of the session are damaged", path=self.folder / TILES) from None

        tile = Tile(read=read, nbytes=int(np.prod(shape)))
        self._end = max(self._end, offset + length)
        self._number_tile(tile)
        return tile

    def _number_raster(self, raster: Raster) -> int:
        number = self._numbers[raster] = self._next_raster
        self._next_raster += 1
        return number

    def _number_tile(self, tile: Tile) -> None:
        self._tile_numbers[tile] = self._next_tile
        self._next_tile += 1


def _packed(data: bytes) -> bytes:
    """What zlib reads again; packed only where that saves something."""
    piece = data[len(data) // 2 :][:SAMPLE]
    worth = len(zlib.compress(piece, FAST)) < WORTH * len(piece)
    return zlib.compress(data, FAST if worth else 0)
