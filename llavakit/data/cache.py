"""Features of a frozen tower, kept on disk: an image is encoded once, whatever the number of epochs and runs.

A cache is a folder with `rows.bin` (equal blocks of float32, one a tile) and `keys.txt` (its first line is the
shape of a block; every other line one image: its key and how many blocks it has, in the order of the file). A key
names the content, the plan and the tower, so a changed file or setting is computed anew. Blocks are appended, keys
after them: an interrupted run leaves a shorter but correct cache.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.core.progress import bar
from llavakit.data.media import Media

CHUNK = 32  # tiles per tower call while filling


class FeatureCache:
    """Tower output float32[N tiles, R rows, C width] per image or clip, by content."""

    def __init__(self, folder: Path, tower: str) -> None:
        """`tower` names the tower and the image rule; each such name has a folder of its own inside `folder`."""
        self.folder = folder = folder / hashlib.sha256(tower.encode()).hexdigest()[:12]
        self._where: dict[str, tuple[int, int]] = {}  # first block and number of blocks of each key
        self._num_blocks = 0
        self._contents: dict[Path, str] = {}
        self._broken: dict[str, DataError] = {}
        self._shape: tuple[int, ...] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        text = self._keys_file.read_text() if self._keys_file.exists() else ""
        shape, *lines = text.split("\n")[:-1] or [""]  # a last line without its end was half written
        kept = []
        if shape:
            self._shape = tuple(int(side) for side in shape.split())
            size = self._rows_file.stat().st_size if self._rows_file.exists() else 0
            for line in lines:
                key, _, count = line.partition(" ")
                if (self._num_blocks + int(count)) * self._block_bytes > size:
                    break  # a key without its blocks, else new ones would be appended behind them
                self._remember(key, int(count))
                kept.append(line)
        whole = "".join(f"{line}\n" for line in (shape, *kept) if line)
        if whole != text:
            write_text(self._keys_file, whole)

    def fill(self, media: Iterable[Media], encode: Callable[[Tensor], Tensor]) -> None:
        """Compute what is missing. `encode` maps uint8 pixels_NHWC to features_NRC.

        An image that cannot be decoded is left out; `features` raises its error when its record is read.
        """
        missing = {}
        for item in media:
            key = self._key(item)
            if key not in self._where:
                missing[key] = item
        if not missing:
            return
        with bar("tower features", len(missing)) as progress:
            waiting: dict[str, Tensor] = {}
            for number, (key, item) in enumerate(missing.items(), 1):
                tiles = self._tiles(key, item)
                if tiles is not None:
                    waiting[key] = tiles
                if number == len(missing) or sum(map(len, waiting.values())) >= CHUNK:
                    self._encode(waiting, encode)
                    waiting = {}
                progress.advance()

    def features(self, media: Media) -> Tensor:
        """float32[N, R, C], read from disk. KeyError if `fill` has not seen the image."""
        key = self._key(media)
        if key in self._broken:
            raise self._broken[key]
        if self._shape is None:
            raise KeyError(media.name)
        first, count = self._where[key]
        flat = np.fromfile(
            self._rows_file,
            dtype=np.float32,
            count=count * int(np.prod(self._shape)),
            offset=first * self._block_bytes,
        )
        return torch.from_numpy(flat.reshape(count, *self._shape))

    @property
    def _keys_file(self) -> Path:
        return self.folder / "keys.txt"

    @property
    def _rows_file(self) -> Path:
        return self.folder / "rows.bin"

    @property
    def _block_bytes(self) -> int:
        return 4 * int(np.prod(self._shape or (0,)))

    def _remember(self, key: str, count: int) -> None:
        self._where[key] = (self._num_blocks, count)
        self._num_blocks += count

    def _tiles(self, key: str, media: Media) -> Tensor | None:
        try:
            return media.tiles()
        except DataError as error:
            self._broken[key] = error
            return None

    def _encode(self, tiles: dict[str, Tensor], encode: Callable[[Tensor], Tensor]) -> None:
        if not tiles:
            return
        with torch.no_grad():  # a long video is more than one call
            parts = [encode(part).float().cpu() for part in torch.cat(list(tiles.values())).split(CHUNK)]
        blocks = torch.cat(parts).split([len(tile) for tile in tiles.values()])
        self._append(list(tiles), [block.numpy() for block in blocks])

    def _append(self, keys: list[str], blocks: list[np.ndarray]) -> None:
        if self._shape is None:
            self._shape = blocks[0].shape[1:]
            self._keys_file.write_text(" ".join(str(side) for side in self._shape) + "\n")
        if any(block.shape[1:] != self._shape for block in blocks):
            raise ValueError(f"blocks of one cache must be alike; expected {self._shape}")
        with self._rows_file.open("ab") as rows:
            rows.truncate(self._num_blocks * self._block_bytes)  # what an interrupted run half wrote
            rows.seek(0, 2)
            for block in blocks:
                rows.write(np.ascontiguousarray(block).tobytes())
        with self._keys_file.open("a") as lines:
            lines.writelines(f"{key} {len(block)}\n" for key, block in zip(keys, blocks, strict=True))
        for key, block in zip(keys, blocks, strict=True):
            self._remember(key, len(block))

    def _key(self, media: Media) -> str:
        if isinstance(media.source, Path):
            if media.source not in self._contents:
                self._contents[media.source] = media.content()
            content = self._contents[media.source]
        else:
            content = media.content()
        return hashlib.sha256(f"{content} {media.plan}".encode()).hexdigest()
