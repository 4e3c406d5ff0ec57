"""Features of a frozen tower, kept on disk: an image is encoded once, whatever the number of epochs and runs.

A cache is a folder with `rows.bin` (equal blocks of float32) and `keys.txt` (block i belongs to line i). A key
names the image's content, its plan and the tower, so a changed file or setting is computed anew. Blocks are
appended, keys after them: an interrupted run leaves a shorter but correct cache.
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
from llavakit.data.encode import Media
from llavakit.vision.image import cut_tiles, digest, load_image

CHUNK = 32  # images per tower call while filling


class FeatureCache:
    """Tower output float32[num_tiles, rows, width] per image, by content."""

    def __init__(self, folder: Path, tower: str) -> None:
        """`tower` names the tower and the image rule; each such name has a folder of its own inside `folder`."""
        self.folder = folder = folder / hashlib.sha256(tower.encode()).hexdigest()[:12]
        self._where: dict[str, int] = {}
        self._digests: dict[Path, str] = {}
        self._broken: dict[str, DataError] = {}
        self._shape: tuple[int, ...] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        text = self._keys_file.read_text() if self._keys_file.exists() else ""
        shape, *keys = text.split("\n")[:-1] or [""]  # a last line without its end was half written
        if shape:
            self._shape = tuple(int(side) for side in shape.split())
            size = self._rows_file.stat().st_size if self._rows_file.exists() else 0
            self._where = {key: block for block, key in enumerate(keys[: size // self._block_bytes])}
        whole = "".join(f"{line}\n" for line in (shape, *self._where) if line)
        if whole != text:  # keys without a block, else new ones would be appended behind them
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
        keys = list(missing)
        with bar("tower features", len(keys)) as progress:
            for at in range(0, len(keys), CHUNK):
                chunk = {key: self._tiles(key, missing[key]) for key in keys[at : at + CHUNK]}
                tiles = {key: tile for key, tile in chunk.items() if tile is not None}
                if tiles:
                    pixels_NHWC = torch.from_numpy(np.concatenate(list(tiles.values())))
                    with torch.no_grad():
                        features_NRC = encode(pixels_NHWC).float().cpu()
                    blocks = features_NRC.split([len(tile) for tile in tiles.values()])
                    self._append(list(tiles), [block.numpy() for block in blocks])
                progress.advance(len(chunk))

    def features(self, media: Media) -> Tensor:
        """float32[num_tiles, rows, width], read from disk. KeyError if `fill` has not seen the image."""
        key = self._key(media)
        if key in self._broken:
            raise self._broken[key]
        if self._shape is None:
            raise KeyError(str(media.source))
        block = self._where[key]
        flat = np.fromfile(
            self._rows_file,
            dtype=np.float32,
            count=int(np.prod(self._shape)),
            offset=block * self._block_bytes,
        )
        return torch.from_numpy(flat.reshape(self._shape))

    @property
    def _keys_file(self) -> Path:
        return self.folder / "keys.txt"

    @property
    def _rows_file(self) -> Path:
        return self.folder / "rows.bin"

    @property
    def _block_bytes(self) -> int:
        return 4 * int(np.prod(self._shape or (0,)))

    def _tiles(self, key: str, media: Media) -> np.ndarray | None:
        try:
            return cut_tiles(load_image(media.source), media.plan)
        except DataError as error:
            self._broken[key] = error
            return None

    def _append(self, keys: list[str], blocks: list[np.ndarray]) -> None:
        if self._shape is None:
            self._shape = blocks[0].shape
            self._keys_file.write_text(" ".join(str(side) for side in self._shape) + "\n")
        if any(block.shape != self._shape for block in blocks):
            raise ValueError(f"blocks of one cache must be alike; expected {self._shape}")
        with self._rows_file.open("ab") as rows:
            rows.truncate(len(self._where) * self._block_bytes)  # what an interrupted run half wrote
            rows.seek(0, 2)
            for block in blocks:
                rows.write(np.ascontiguousarray(block).tobytes())
        with self._keys_file.open("a") as lines:
            lines.writelines(key + "\n" for key in keys)
        for key in keys:
            self._where[key] = len(self._where)

    def _key(self, media: Media) -> str:
        if isinstance(media.source, Path):
            if media.source not in self._digests:
                self._digests[media.source] = digest(media.source)
            content = self._digests[media.source]
        else:
            content = digest(media.source)
        return hashlib.sha256(f"{content} {media.plan}".encode()).hexdigest()
