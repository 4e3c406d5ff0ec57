"""The loader: records to packed batches, in an order that is a function of (seed, epoch, position) alone.

Records are shuffled once per epoch and taken in windows; the samples of a window are packed together. A
`Position` names the next row, so a resumed run reads exactly what the uninterrupted one would have read. Threads
read windows and rows ahead; what comes out, errors included, is in the order that one reader would have made.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import Batch
from llavakit.data.ahead import map_ahead, pool_of
from llavakit.data.cache import FeatureCache
from llavakit.data.changes import weigh_changes
from llavakit.data.encode import Encoder, Sample
from llavakit.data.grader import Grader
from llavakit.data.lengths import FLAW, Lengths, fill_lengths, lengths_key
from llavakit.data.media import Clip, Media
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.pack import collate, pack_rows
from llavakit.data.records import ADVICE, FAULTS, Record
from llavakit.data.settings import DataConfig
from llavakit.text.conversation import Conversation, move_media_front

Modality = Literal["text", "image", "video"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "video")
OTHER = -1  # the mark of an answer to another prompt; 1 and 0 are wanted and unwanted ones
NEAREST = 64  # records among which another prompt is looked for


@dataclass(frozen=True, order=True)
class Position:
    """The next row to be read."""

    epoch: int = 0
    window: int = 0
    row: int = 0


@dataclass(frozen=True)
class _Packed:
    """A record in a row: its number, its length and kind, and what was encoded to know them."""

    index: int
    tokens: int
    kind: Modality
    pair: tuple[Record, Sample] | None = None  # None: its length was noted before, and it was not read


@dataclass(frozen=True)
class _Window:
    """A window's packed rows, and what was wrong with those of its records that are in none."""

    epoch: int
    number: int
    rows: list[list[_Packed]]
    errors: list[DataError]


@dataclass(frozen=True)
class _Row:
    """A packed row to be loaded, the position after it, and errors to be told before it."""

    after: Position
    packed: list[_Packed]
    errors: list[DataError]
    only_errors: bool = (
        False  # no row at all: it brings the errors of a window from which none could be packed
    )
    is_ours: bool = True  # False: another rank reads its pixels


@dataclass
class _EpochTally:
    """Whether anything of an epoch can be read. One that was entered in its middle is not judged."""

    epoch: int
    from_start: bool = True
    usable_rows: int = 0  # rows that are not known to be all bad

    @property
    def is_all_bad(self) -> bool:
        return self.from_start and not self.usable_rows


class Loader:
    """Packed batches of a data set, for ever, from any position."""

    def __init__(
        self,
        config: DataConfig,
        encoder: Encoder,
        *,
        seed: int,
        cache: FeatureCache | None = None,
        pairs: bool = False,
        judged: bool = False,
        changed_weight: float = 1.0,
        grader: Grader | None = None,
        key: Callable[[Sample], str] | None = None,
    ) -> None:
        """With `pairs` a record is two answers to one prompt: a sample with two leaves, chosen and rejected.
        Tokens that only one of them has count `changed_weight` times as much. A `grader` puts the turn behind them
        that a reward model answers. With `judged` a record is answers, each wanted or not (marks 1 and 0); where
        rows are packed, an answer to another prompt goes along (-1).

        `key` gives the names of samples that batches shall have.
        """
        if not config.files:
            raise ConfigError("data.files is empty; name at least one data file or mixture")
        self.config, self.encoder, self.seed, self.cache = config, encoder, seed, cache
        self.pairs, self.judged, self.changed_weight = pairs, judged, changed_weight
        self.grader, self.key = grader, key
        self.records = Mixture(list_sources(config.files, config.images), seed=seed, unread=config.unread)
        if not self.records.num_reads:
            raise ConfigError(f"data.files: no records in {', '.join(str(path) for path in config.files)}")
        self.lengths: Lengths | None = None  # noted before: `note_lengths`
        self._flaws: dict[int, DataError] = {}  # of records that have none, looked at once a run
        self.bad: dict[str, None] = {}  # messages of skipped records, in order, each once
        self._shuffled: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def num_windows(self) -> int:
        return -(-self.records.num_reads // self.config.window)

    def samples(self, record: Record) -> Sample | None:
        """The record's sample; None if it is bad and `on_bad` is skip (then it is listed in `bad`)."""
        try:
            return self._encode(record)
        except DataError as error:
            self.reject(error)
            return None

    def media_by_record(self) -> Iterator[tuple[Media, ...]]:
        """The images and clips of every record with their plans: what a feature cache must hold."""
        for record in self.records:
            sample = self.samples(record)
            yield () if sample is None else sample.media

    def media(self) -> Iterator[Media]:
        """Every image and clip of the data with its plan."""
        return chain.from_iterable(self.media_by_record())

    def tiles(self, media: Media) -> Tensor:
        """An image's or clip's tiles, uint8[N, H, W, 3], or with a cache its features[N, R, C]."""
        return media.tiles() if self.cache is None else self.cache.features(media)

    def note_lengths(self, folder: Path, *, rank: int = 0, ranks: int = 1) -> None:
        """Have every record's length in `folder`, and pack from there: then only rows of one's own are encoded.

        What is not there yet is measured by all `ranks` together. The rows stay those of a loader without.
        """
        config = self.config.model_dump(include={"tokens", "turns", "weights", "media_front", "unread"})
        grading = None if self.grader is None else self.grader.describe()
        key = lengths_key(
            [vars(facts) for facts in self.records.facts()], self.encoder.describe(), config, self.seed,
            self.pairs, self.judged, grading,
        )  # fmt: skip
        self.lengths = fill_lengths(
            folder, key, len(self.records), self._measure,
            rank=rank, ranks=ranks, processes=self.config.workers,
        )  # fmt: skip

    def num_rows(self) -> int:
        """Packed rows of the first epoch. Reads every record's text and image header, no pixel."""
        rows = 0
        with pool_of(self.config.workers) as pool:
            places = ((0, number) for number in range(self.num_windows))
            for window in map_ahead(pool, self._pack, places, self._depth):
                for error in window.errors:
                    self.reject(error)
                rows += len(window.rows)
        return rows

    def batches(
        self, start: Position, *, rank: int = 0, ranks: int = 1, step: int = 1
    ) -> Generator[tuple[Batch | None, Position], None, None]:
        """Each row's batch with the position after it. Reading runs ahead in `workers` threads; errors come here.

        A step is `step` rows, dealt out to the ranks in turn: None stands for a row that is another rank's, and
        for one whose samples are all bad. So where a step begins does not depend on who reads what.
        """
        tally = _EpochTally(start.epoch, from_start=start.window == start.row == 0)
        with pool_of(self.config.workers) as pool:
            windows = map_ahead(pool, self._pack, self._places(start), self._depth)
            rows = _deal_out(_rows(windows, start), rank, ranks, step)
            for batch, row in map_ahead(pool, self._load, rows, 2 * max(self.config.workers, ranks)):
                if row.after.epoch != tally.epoch:
                    self._check_readable(tally)
                    tally = _EpochTally(row.after.epoch)
                for error in row.errors:
                    self.reject(error)
                if row.only_errors:
                    continue
                if (
                    batch is not None or ranks > 1
                ):  # no rank may end alone; what all cannot read, all must tell
                    tally.usable_rows += 1
                yield batch, row.after

    def in_order(self, start: int) -> Iterator[tuple[int, Record]]:
        """(epoch, record) for ever, in the order in which epochs read them; `start` are behind, epochs counted."""
        for number in count(start):
            epoch, at = divmod(number, self.records.num_reads)
            yield epoch, self.records[int(self._order(epoch)[at])]

    def reject(self, error: DataError) -> None:
        """Raise a record's error, or list it in `bad` where `on_bad` is skip."""
        if self.config.on_bad == "stop":
            raise error
        self.bad.setdefault(str(error).removesuffix(ADVICE))

    def _check_readable(self, tally: _EpochTally) -> None:
        if tally.is_all_bad:
            raise DataError(f"all {len(self.records)} records are bad; the first: {next(iter(self.bad))}")

    @property
    def _depth(self) -> int:
        """Windows packed ahead; each holds the text of `window` records and the bytes of pictures in tables."""
        return 1 + self.config.workers // 2

    def _places(self, start: Position) -> Iterator[tuple[int, int]]:
        """(epoch, window), for ever."""
        for number in count(start.epoch * self.num_windows + start.window):
            yield divmod(number, self.num_windows)

    def _encode(self, record: Record, index: int | None = None) -> Sample:
        """The record's sample, with its `index` as packed rows have it. A flaw is a DataError with its name."""
        marks: tuple[int, ...] = ()
        if self.judged:
            talks, marks = self._judged(record, index)
        else:
            talks = list(record.pair()) if self.pairs else [record.conversation()]
        if self._moves_front(record):
            talks = [move_media_front(talk) for talk in talks]
        try:
            if self.grader is not None:
                sample = self.grader.encode(self.encoder, record, talks)
            elif self.config.turns == "independent" and not (self.pairs or self.judged):
                sample = self.encoder.encode_turns(talks[0])
            else:
                sample = replace(self.encoder.encode_alternatives(talks), marks=marks)
                sample = sample if marks else weigh_changes(sample, self.changed_weight)
        except (DataError, *FAULTS) as error:
            raise record.blame(error) from None
        if sample.num_inputs > self.config.tokens:
            raise record.error(f"{sample.num_inputs} tokens do not fit data.tokens={self.config.tokens}")
        return sample

    def _judged(self, record: Record, index: int | None) -> tuple[list[Conversation], tuple[int, ...]]:
        """(its answers to one prompt, and one to another prompt; whether they are wanted).

        The other one is the nearest earlier record's that has another prompt, whatever is read in which order.
        """
        answers = record.judged()
        talks, marks = [talk for talk, _ in answers], tuple(int(wanted) for _, wanted in answers)
        if index is None:
            return talks, marks
        prompt = talks[0].messages[:-1]
        for back in range(1, min(len(self.records), NEAREST + 1)):
            with suppress(DataError):
                other = self.records[(index - back) % len(self.records)].judged()[0][0]
                if other.messages[:-1] != prompt:
                    return [*talks, Conversation((*prompt, other.messages[-1]))], (*marks, OTHER)
        raise record.error(f"none of {NEAREST} records before it has another prompt, which KTO needs")

    def _pack(self, place: tuple[int, int]) -> _Window:
        """Encode and pack one window of an epoch. No pixel is decoded."""
        epoch, number = place
        good: list[_Packed] = []
        errors: list[DataError] = []
        size = self.config.window
        for index in self._order(epoch)[number * size : (number + 1) * size].tolist():
            try:
                good.append(self._found(index))
            except DataError as error:
                errors.append(error)
        packed: list[list[int]] = []
        for group in self._groups([each.kind for each in good]):
            rows = pack_rows([good[at].tokens for at in group], self.config.tokens)
            packed += [[group[at] for at in row] for row in rows]
        if packed:  # packing sorts by length; undo that
            packed = [packed[at] for at in self._generator(epoch, number).permutation(len(packed))]
        return _Window(epoch, number, [[good[at] for at in row] for row in packed], errors)

    def _found(self, index: int) -> _Packed:
        """A record as packing needs it: by its noted length, or encoded."""
        if self.lengths is not None and self.lengths.tokens_N[index] != FLAW:
            tokens, kind = int(self.lengths.tokens_N[index]), MODALITIES[self.lengths.kinds_N[index]]
            return _Packed(index, tokens, kind)
        if index in self._flaws:
            raise self._flaws[index].with_traceback(None)
        record = self.records[index]
        try:
            sample = self._encode(record, index)
        except DataError as error:
            if self.lengths is not None:  # noted as bad, and it is so still
                self._flaws[index] = error
            raise
        return _Packed(index, sample.num_inputs, modality(sample), (record, sample))

    def _measure(self, index: int) -> tuple[int, int]:
        sample = self._encode(self.records[index], index)
        return sample.num_inputs, MODALITIES.index(modality(sample))

    def _read(self, packed: _Packed) -> tuple[Record, Sample]:
        """The record of a row, encoded where it is not yet. DataError if it is not what its length was noted of."""
        if packed.pair is not None:
            return packed.pair
        record = self.records[packed.index]
        sample = self._encode(record, packed.index)
        if sample.num_inputs != packed.tokens:
            raise record.error(
                f"{sample.num_inputs} tokens, but {packed.tokens} when its length was noted: its media were "
                "changed; remove the folder of lengths (data.lengths, or lengths/ in the run's folder)"
            )
        return record, sample

    def _groups(self, kinds: list[Modality]) -> list[list[int]]:
        """Which records may share a row."""
        if self.config.modality == "mixed":
            return [list(range(len(kinds)))]
        return [[at for at, kind in enumerate(kinds) if kind == wanted] for wanted in MODALITIES]

    def _moves_front(self, record: Record) -> bool:
        """Drawn by the seed and the record's place: the same in every epoch, whoever reads it."""
        if self.config.media_front == 0:
            return False
        key = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:8], "big")
        return bool(self._generator(key).random() < self.config.media_front)

    def _order(self, epoch: int) -> np.ndarray:
        shuffled, order = self._shuffled
        if shuffled != epoch:
            if self.config.shuffle:
                order = self.records.shuffled(epoch, self._generator(epoch))
            else:
                order = self.records.reads(epoch)
            self._shuffled = (epoch, order)  # in one step, as several threads may be here
        return order

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _load(self, row: _Row) -> tuple[Batch | None, _Row]:
        """The batch of a row without the samples whose pixels turn out to be broken; the row tells their errors."""
        samples: list[Sample] = []
        tiles: list[Tensor] = []
        keys: list[str] = []
        errors = list(row.errors)
        for packed in row.packed if row.is_ours else ():
            try:
                record, sample = self._read(packed)
            except DataError as error:
                errors.append(error)
                continue
            try:
                sample_tiles = [self.tiles(media) for media in sample.media]
                key = None if self.key is None else self.key(sample)
            except (DataError, *FAULTS) as error:
                errors.append(record.blame(error))
                continue
            samples.append(sample)
            tiles += sample_tiles
            keys += [] if key is None else [key]
        # The samples are let go of here: rows that wait hold their batch only.
        batch = replace(collate(samples, tiles), keys=tuple(keys)) if samples else None
        return batch, replace(row, packed=[], errors=errors)


def modality(sample: Sample) -> Modality:
    """What a sample shows besides text; a video outweighs pictures."""
    if any(isinstance(media.source, Clip) for media in sample.media):
        return "video"
    return "image" if sample.media else "text"


def _rows(windows: Iterable[_Window], start: Position) -> Iterator[_Row]:
    """The rows of windows from `start` on. A window's errors come with its first row, or with an empty one."""
    for window in windows:
        first = start.row if (window.epoch, window.number) == (start.epoch, start.window) else 0
        errors = window.errors
        if errors and first >= len(window.rows):
            yield _Row(Position(window.epoch, window.number, first), [], errors, only_errors=True)
        for number in range(first, len(window.rows)):
            yield _Row(Position(window.epoch, window.number, number + 1), window.rows[number], errors)
            errors = []


def _deal_out(rows: Iterable[_Row], rank: int, ranks: int, step: int) -> Iterator[_Row]:
    """The rows, each with whether it is this rank's; every step begins with rank 0."""
    number = 0  # of the row, those that only bring errors not counted
    for row in rows:
        yield replace(row, is_ours=number % step % ranks == rank)
        if not row.only_errors:
            number += 1
