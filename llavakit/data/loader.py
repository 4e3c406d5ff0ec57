"""The loader: records to packed batches, in an order that is a function of (seed, epoch, position) alone.

Records are shuffled once per epoch and taken in windows; the samples of a window are packed together. A
`Position` names the next row, so a resumed run reads exactly what the uninterrupted one would have read.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import Batch
from llavakit.data.cache import FeatureCache
from llavakit.data.encode import Encoder, Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate, pack_rows
from llavakit.data.records import Record, read_records
from llavakit.text.conversation import move_media_front
from llavakit.text.template import Weights

T = TypeVar("T")


class DataConfig(Config):
    """What is read and how it is packed."""

    files: tuple[Path, ...] = ()
    images: Path | None = None  # folder of relative image paths; default: each file's own folder
    tokens: int = Field(4096, ge=1)  # budget of a packed row
    turns: Literal["chained", "independent"] = "chained"  # independent: questions do not see each other
    weights: Weights = "ours"  # compat: learn what the released training code learned
    media_front: float = Field(0.0, ge=0, le=1)  # share of records whose media move to the front (Interleave)
    on_bad: Literal["stop", "skip"] = "stop"
    shuffle: bool = True
    window: int = Field(256, ge=1)  # records packed together; larger packs tighter and holds more text
    features: Path | None = None  # folder of cached tower features; only for a frozen tower

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value


@dataclass(frozen=True)
class Position:
    """The next row to be read."""

    epoch: int = 0
    window: int = 0
    row: int = 0


class Loader:
    """Packed batches of a data set, for ever, from any position."""

    def __init__(
        self, config: DataConfig, encoder: Encoder, *, seed: int, cache: FeatureCache | None = None
    ) -> None:
        if not config.files:
            raise ConfigError("data.files is empty; name at least one JSON or JSONL file")
        self.config, self.encoder, self.seed, self.cache = config, encoder, seed, cache
        self.records = [record for path in config.files for record in read_records(path, config.images)]
        if not self.records:
            raise ConfigError(f"data.files: no records in {', '.join(str(path) for path in config.files)}")
        self.bad: dict[str, None] = {}  # messages of skipped records, in order, each once

    @property
    def num_windows(self) -> int:
        return -(-len(self.records) // self.config.window)

    def samples(self, record: Record) -> Sample | None:
        """The record's sample; None if it is bad and `on_bad` is skip (then it is listed in `bad`)."""
        try:
            conversation = record.conversation()
            if self._moves_front(record):
                conversation = move_media_front(conversation)
            independent = self.config.turns == "independent"
            try:
                encode = self.encoder.encode_turns if independent else self.encoder.encode
                sample = encode(conversation)
            except DataError as error:
                raise record.error(error.what) from None
            if sample.num_inputs > self.config.tokens:
                raise record.error(f"{sample.num_inputs} tokens do not fit data.tokens={self.config.tokens}")
        except DataError as error:
            self._reject(error)
            return None
        return sample

    def media(self) -> Iterator[Media]:
        """Every image and clip of the data with its plan: what a feature cache must hold."""
        for record in self.records:
            sample = self.samples(record)
            if sample is not None:
                yield from sample.media

    def tiles(self, media: Media) -> Tensor:
        """An image's or clip's tiles, uint8[N, H, W, 3], or with a cache its features[N, R, C]."""
        return media.tiles() if self.cache is None else self.cache.features(media)

    def num_rows(self) -> int:
        """Packed rows of the first epoch. Reads every record's text and image header, no pixel."""
        return sum(len(self._window_rows(0, window)) for window in range(self.num_windows))

    def batches(
        self, start: Position, *, rank: int = 0, ranks: int = 1, step: int = 1
    ) -> Generator[tuple[Batch | None, Position], None, None]:
        """Each row's batch with the position after it. Reading runs ahead in a thread; errors come out here.

        A step is `step` rows, dealt out to the ranks in turn: None stands for a row that is another rank's, and
        for one whose samples are all bad. So where a step begins does not depend on who reads what.
        """
        mine = (number % step % ranks == rank for number in count())
        return _prefetch(self._batches(start, mine), depth=2 * ranks)

    def _batches(self, start: Position, mine: Iterator[bool]) -> Iterator[tuple[Batch | None, Position]]:
        epoch, window, row = start.epoch, start.window, start.row
        while True:
            rows = self._window_rows(epoch, window)
            for number in range(row, len(rows)):
                yield self._load(rows[number]) if next(mine) else None, Position(epoch, window, number + 1)
            row, window = 0, window + 1
            if window == self.num_windows:
                if len(self.bad) >= len({record.name for record in self.records}):
                    raise DataError(
                        f"all {len(self.records)} records are bad; the first: {next(iter(self.bad))}"
                    )
                epoch, window = epoch + 1, 0

    def _window_rows(self, epoch: int, window: int) -> list[list[tuple[Record, Sample]]]:
        size = self.config.window
        chosen = self._order(epoch)[window * size : (window + 1) * size]
        pairs = [(self.records[index], self.samples(self.records[index])) for index in chosen]
        good = [(record, sample) for record, sample in pairs if sample is not None]
        packed = pack_rows([sample.num_inputs for _, sample in good], self.config.tokens)
        if packed:  # packing sorts by length; undo that
            packed = [packed[index] for index in self._generator(epoch, window).permutation(len(packed))]
        return [[good[index] for index in row] for row in packed]

    def _moves_front(self, record: Record) -> bool:
        """Drawn by the seed and the record's place: the same in every epoch, whoever reads it."""
        if self.config.media_front == 0:
            return False
        key = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:8], "big")
        return bool(self._generator(key).random() < self.config.media_front)

    def _order(self, epoch: int) -> np.ndarray:
        if not self.config.shuffle:
            return np.arange(len(self.records))
        return self._generator(epoch).permutation(len(self.records))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _load(self, row: list[tuple[Record, Sample]]) -> Batch | None:
        """The batch of a row; samples whose pixels turn out to be broken are left out if `on_bad` is skip."""
        samples: list[Sample] = []
        tiles: list[Tensor] = []
        for record, sample in row:
            try:
                mine = [self.tiles(media) for media in sample.media]
            except DataError as error:
                self._reject(record.error(error.what))
                continue
            samples.append(sample)
            tiles += mine
        if not samples:
            return None
        return collate(samples, tiles)

    def _reject(self, error: DataError) -> None:
        if self.config.on_bad == "stop":
            raise error
        self.bad.setdefault(str(error).replace("; fix the record or set data.on_bad=skip", ""))


def _prefetch(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items, up to `depth` of them made ahead in one thread. Order and errors are those of `source`."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = deque(pool.submit(next, source, end) for _ in range(depth))
        while True:
            item = ahead.popleft().result()
            if item is end:
                return
            ahead.append(pool.submit(next, source, end))
            yield item  # type: ignore[misc]
