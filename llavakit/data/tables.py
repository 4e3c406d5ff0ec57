"""Records of tables: Parquet files, and data sets as the Hugging Face library `datasets` keeps them.

A table's cells may be pictures: bytes, or `{"bytes", "path"}` as that library stores them. An Arrow file is mapped,
and one row is read without the others; Parquet packs rows in groups, and reading a row reads its whole group.
"""

import json
from bisect import bisect_right
from collections import OrderedDict
from importlib import import_module
from itertools import accumulate, count
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from llavakit.core.errors import ConfigError, DataError
from llavakit.data.groups import BUNDLE_BYTES, Groups
from llavakit.data.index import Unreadable

HUB = "hf:"  # hf:NAME or hf:NAME:SPLIT
SPLIT = "train"
KEPT_BYTES = 2 * BUNDLE_BYTES  # threads that read ahead reach into the next bundle


class _GroupCache:
    """Row groups of any files that were read last: up to KEPT_BYTES, and never fewer than two."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[int, int]) -> Any:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
            return self._tables.get(key)

    def keep(self, key: tuple[int, int], table: Any) -> None:
        with self._lock:
            self._tables[key] = table
            while len(self._tables) > 2 and sum(each.nbytes for each in self._tables.values()) > KEPT_BYTES:
                self._tables.popitem(last=False)


_cache = _GroupCache()
_numbers = count()


class ParquetRows:
    """Rows of one Parquet file. Groups that were read last are kept, so reading group by group reads each once."""

    def __init__(self, path: Path) -> None:
        arrow = _needs("pyarrow", "Parquet files")
        parquet = _needs("pyarrow.parquet", "Parquet files")
        self._errors = (arrow.ArrowException, OSError)
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except self._errors as error:
            raise DataError(f"cannot be read as Parquet: {_short(error)}", path=path) from None
        facts = self._file.metadata
        counts = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
        self._firsts = [0, *accumulate(counts)]
        sizes = [facts.row_group(number).total_byte_size for number in range(facts.num_row_groups)]
        self.groups = Groups(np.array(counts, dtype=np.int64), np.array(sizes, dtype=np.int64))
        self._number = next(_numbers)  # in the cache
        self._lock = Lock()  # a ParquetFile is not for several threads

    def __len__(self) -> int:
        return self._firsts[-1]

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> Any:
        group = bisect_right(self._firsts, index) - 1
        with self._lock:
            table = _cache.find((self._number, group))
            if table is None:
                try:
                    table = self._file.read_row_group(group)
                except self._errors as error:
                    return Unreadable(f"cannot be read: {_short(error)}")
                _cache.keep((self._number, group), table)
        return table.slice(index - self._firsts[group], 1).to_pylist()[0]


class ArrowRows:
    """Rows of a directory that `Dataset.save_to_disk` wrote: Arrow streams, mapped, listed in its state.json."""

    def __init__(self, folder: Path) -> None:
        if (folder / "dataset_dict.json").is_file():
            raise DataError("a directory of several splits; name one of the directories in it", path=folder)
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            files = [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
        except FileNotFoundError:
            raise DataError(
                "a directory, but not one that `datasets` saved (no state.json)", path=folder
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"state.json cannot be read: {error}", path=folder) from None
        arrow = _needs("pyarrow", "data sets saved on disk")
        try:
            self._tables = [arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all() for file in files]
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"cannot be read as Arrow: {_short(error)}", path=folder) from None
        self._firsts = [0, *accumulate(table.num_rows for table in self._tables)]

    def __len__(self) -> int:
        return self._firsts[-1]

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> Any:
        number = bisect_right(self._firsts, index) - 1
        return self._tables[number].slice(index - self._firsts[number], 1).to_pylist()[0]


class HubRows:
    """Rows of a data set by its name, as `datasets` loads it: fetched once, then mapped from its cache.

    Not streamed: a stream has no row n, and without one the order could not be a function of the seed, nor could a
    run resume exactly.
    """

    def __init__(self, where: Path) -> None:
        datasets = _needs("datasets", "data sets of the hub")
        name, _, split = str(where).removeprefix(HUB).partition(":")
        try:
            loaded = datasets.load_dataset(name, split=split or SPLIT)
        except (OSError, ValueError, ConnectionError) as error:
            raise DataError(f"`datasets` cannot load it: {_short(error)}", path=where) from None
        self._rows = loaded.with_format("arrow")  # cells as they are stored: no picture is decoded

    def __len__(self) -> int:
        return len(self._rows)

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> Any:
        return self._rows[index].to_pylist()[0]


def _needs(module: str, what: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(f"{what} need {package}: pip install 'llavakit[data]'") from None


def _short(error: Exception) -> str:
    """The first line of a message; some span pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
