"""Mixtures: which files a run reads, how much of each, and the order of an epoch.

Two YAML lists are read. LLaVA-NeXT's own, as it is:

    datasets:
      - json_path: a.json
        sampling_strategy: first:10%     # all, or first, end or random with a count or a share rounded up

and ours, whose paths start at the list's folder:

    sources:
      - path: shards/{000..099}.tar
        name: captions                   # in tables; default: the path
        images: pictures                 # folder of relative image paths
        take: random:5000                # the same words
        weight: 0.5                      # how often an epoch reads each record; 2 is twice

What `random` and a broken weight choose is drawn from the run's seed.
"""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import yaml

from llavakit.core.errors import DataError, nearest
from llavakit.data.groups import Groups, join_groups
from llavakit.data.records import Record, Records, read_records
from llavakit.data.tables import HUB, ParquetRows

Rule = Literal["all", "first", "end", "random"]
STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")
BRACES = re.compile(r"(.*?)\{([^{}]*)\}(.*)")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
NEXT_KEYS = ("json_path", "sampling_strategy")
OUR_KEYS = ("path", "name", "images", "take", "weight")
TAKEN, ROUND = 1 << 31, (1 << 31) + 1  # keep these draws apart from the loader's, which are keyed by epoch
MAX_WEIGHT = 1000.0
MAX_FILES = 100_000  # of one {first..last}


@dataclass(frozen=True)
class Take:
    """Which records of a source are read: all, or so many (with `share`, a fraction) from one end or at random."""

    rule: Rule = "all"
    amount: Fraction = Fraction(1)
    share: bool = True

    def choose(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Sorted numbers below `count`. More than there are is all there are, as in the released code."""
        if self.rule == "all":
            return np.arange(count)
        wanted = min(count, math.ceil(self.amount * count) if self.share else int(self.amount))
        if self.rule == "first":
            return np.arange(wanted)
        if self.rule == "end":
            return np.arange(count - wanted, count)
        return np.sort(rng.choice(count, wanted, replace=False))


@dataclass(frozen=True)
class Source:
    """One entry of a mixture: files of a kind, and how much of them an epoch reads."""

    name: str
    paths: tuple[Path, ...]
    images: Path | None = None  # folder of relative image paths; None: each file's own
    take: Take = Take()
    weight: float = 1.0


@dataclass(frozen=True)
class SourceFacts:
    """What says whether a source is still the one that a run began with."""

    name: str
    records: int  # that are chosen
    digest: str


def list_sources(files: Sequence[Path], images: Path | None = None) -> list[Source]:
    """The sources that data files and mixture lists (.yaml) name, each looked for on the disk; nothing is read.

    `images` holds for every source that names no folder of its own.
    """
    sources: list[Source] = []
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            sources += _read_list(file, images)
        else:
            try:
                paths = tuple(_expand(str(file)))
            except ValueError as error:
                raise DataError(str(error), path=file) from None
            missing = next((path for path in paths if not _is_there(path)), None)
            if missing is not None:
                raise DataError("data file not found", path=missing)
            sources.append(Source(str(file), paths, images))
    return sources


def parse_take(text: str) -> Take:
    """`all`, or `first:`, `end:` or `random:` with a count or a percentage. ValueError for anything else."""
    if text == "all":
        return Take()
    found = STRATEGY.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text!r} is none of all, first:N, end:N, random:N, where N is a count or a percentage"
        )
    amount, share = Fraction(found[2]), bool(found[3])
    if amount <= 0 or (share and amount > 100) or (not share and amount.denominator != 1):
        raise ValueError(f"{text!r} must take a whole number of records from 1, or a percentage up to 100")
    return Take(cast(Rule, found[1]), amount / 100 if share else amount, share)


class Mixture(Sequence[Record]):
    """The records that sources choose, by number, and the order in which an epoch reads them."""

    def __init__(self, sources: Sequence[Source], *, seed: int, unread: Collection[str] = ()) -> None:
        """`unread` are fields and placeholders of records that are passed over on purpose; see `read_records`."""
        self.sources, self.seed = list(sources), seed
        self._files: list[list[Records]] = []
        self._starts: list[list[int]] = []  # of every source: the number of each file's first record
        self._groups: list[Groups | None] = []  # of sources whose rows are read in groups
        self._chosen: list[np.ndarray] = []
        for number, source in enumerate(self.sources):
            files = [read_records(path, source.images, frozenset(unread)) for path in source.paths]
            rng = np.random.default_rng([seed, TAKEN, number])
            self._files.append(files)
            self._groups.append(_groups_of(files))
            self._starts.append([0, *accumulate(map(len, files))])
            self._chosen.append(source.take.choose(self._starts[-1][-1], rng))
        self._firsts = [0, *accumulate(map(len, self._chosen))]

    def __len__(self) -> int:
        """Records that are chosen, whatever their weights."""
        return self._firsts[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        records, row = self._find(index)
        return records[row]

    def place(self, index: int) -> str:
        """`file:line` of a record, which is not read."""
        records, row = self._find(index)
        return f"{records.path}:{records.rows.line(row)}"

    def source_of(self, index: int) -> int:
        """The number of the source that a record belongs to."""
        return int(np.searchsorted(self._firsts, index, side="right")) - 1

    def count(self, source: int) -> int:
        """How many records of a source are chosen."""
        return len(self._chosen[source])

    def facts(self) -> list[SourceFacts]:
        """Of every source, in order."""
        found = []
        for source, files, chosen in zip(self.sources, self._files, self._chosen, strict=True):
            digest = hashlib.sha256("".join(records.digest() for records in files).encode()).hexdigest()
            found.append(SourceFacts(source.name, len(chosen), digest[:16]))
        return found

    @cached_property
    def num_reads(self) -> int:
        """Records read in an epoch, the same number in each."""
        return len(self.reads(0))

    def reads(self, epoch: int) -> np.ndarray:
        """The numbers of the records an epoch reads, unshuffled.

        Of a weight's broken part each epoch reads the next share of the source in a drawn order, so several epochs
        see all of it before any of it again.
        """
        parts = []
        for number, source in enumerate(self.sources):
            first, count = self._firsts[number], len(self._chosen[number])
            whole = int(source.weight)
            part = round((source.weight - whole) * count)
            parts.append(first + np.tile(np.arange(count), whole))
            if part:
                drawn = np.random.default_rng([self.seed, ROUND, number]).permutation(count)
                parts.append(first + drawn[(epoch * part + np.arange(part)) % count])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def shuffled(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """The numbers of the records an epoch reads, in random order; in sources with groups, group by group.

        Those sources are as evenly spread over the epoch as the others.
        """
        reads = self.reads(epoch)
        if not any(self._groups):
            return reads[rng.permutation(len(reads))]
        times = rng.random(len(reads))  # when each is read
        numbers = np.searchsorted(self._firsts, reads, side="right") - 1
        for number, groups in enumerate(self._groups):
            if groups is not None:
                mine = np.flatnonzero(numbers == number)
                rows = self._chosen[number][reads[mine] - self._firsts[number]]
                times[mine[groups.shuffle(rows, rng)]] = np.sort(times[mine])
        return reads[np.argsort(times)]

    def _find(self, index: int) -> tuple[Records, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = self.source_of(index)
        row = int(self._chosen[number][index - self._firsts[number]])
        starts = self._starts[number]
        file = bisect_right(starts, row) - 1
        return self._files[number][file], row - starts[file]


def _groups_of(files: Sequence[Records]) -> Groups | None:
    """The groups of a source's files, if all of them have some."""
    parts = [records.rows.groups for records in files if isinstance(records.rows, ParquetRows)]
    return join_groups(parts) if parts and len(parts) == len(files) else None


def _read_list(path: Path, images: Path | None) -> list[Source]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError("mixture not found", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from None
    except yaml.YAMLError as error:
        raise DataError(f"not YAML: {' '.join(str(error).split())}", path=path) from None
    readers = {"datasets": _next_source, "sources": _our_source}
    if not isinstance(document, dict) or len(document) != 1 or next(iter(document)) not in readers:
        raise DataError(
            "a mixture is one list, 'sources:' (ours) or 'datasets:' (LLaVA-NeXT's), and nothing else",
            path=path,
        )
    ((key, entries),) = document.items()
    if not isinstance(entries, list) or not entries:
        raise DataError(f"'{key}' must be a list of at least one entry", path=path)
    sources = []
    for number, entry in enumerate(entries, 1):
        try:
            source = readers[key](entry, path.parent, images)
            for file in source.paths:
                if not _is_there(file):
                    raise ValueError(f"data file not found: {file}")
        except ValueError as error:
            raise DataError(f"{key}, entry {number}: {error}", path=path) from None
        sources.append(source)
    return sources


def _next_source(entry: Any, folder: Path, images: Path | None) -> Source:
    """An entry of LLaVA-NeXT's list. Its paths start where the program runs, as in the released code."""
    _check_keys(entry, NEXT_KEYS, needed="json_path")
    name = _text(entry, "json_path")
    return Source(name, tuple(_expand(name)), images, parse_take(_text(entry, "sampling_strategy", "all")))


def _our_source(entry: Any, folder: Path, images: Path | None) -> Source:
    _check_keys(entry, OUR_KEYS, needed="path")
    text = _text(entry, "path")
    paths = tuple(path if str(path).startswith(HUB) else folder / path for path in _expand(text))
    weight = entry.get("weight", 1)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight <= MAX_WEIGHT:
        raise ValueError(f"weight is {weight!r}; it must be a number above 0 and at most {MAX_WEIGHT:g}")
    return Source(
        name=_text(entry, "name", text),
        paths=paths,
        images=folder / _text(entry, "images") if "images" in entry else images,
        take=parse_take(_text(entry, "take", "all")),
        weight=float(weight),
    )


def _check_keys(entry: Any, valid: tuple[str, ...], *, needed: str) -> None:
    if not isinstance(entry, dict) or needed not in entry:
        raise ValueError(f"must have '{needed}'")
    for key in entry:
        if key not in valid:
            raise ValueError(f"unknown key {key!r}{nearest(str(key), valid)}")


def _text(entry: dict[str, Any], key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}; it must be a text")
    return value


def _expand(path: str) -> list[Path]:
    """`dir/{a,b}.json` and `{000..099}.tar` as the paths they stand for."""
    found = BRACES.fullmatch(path)
    if not found:
        return [Path(path)]
    before, inner, after = found.groups()
    span = RANGE.fullmatch(inner)
    if span:
        width = len(span[1]) if span[1].startswith("0") else 0
        first, last = int(span[1]), int(span[2])
        if not 0 <= last - first < MAX_FILES:
            raise ValueError(f"{{{inner}}} must count up, to at most {MAX_FILES} files")
        words = [str(number).zfill(width) for number in range(first, last + 1)]
    else:
        words = [word.strip() for word in inner.split(",")]
    return [whole for word in words for whole in _expand(f"{before}{word}{after}")]


def _is_there(path: Path) -> bool:
    """Names of the hub cannot be looked up without loading them."""
    return str(path).startswith(HUB) or path.exists()
