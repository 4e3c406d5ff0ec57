"""Records of tables: Parquet files, and data sets as the Hugging Face library `datasets` keeps them.

A table's cells may be pictures: bytes, or `{"bytes", "path"}` as that library stores them. An Arrow file is mapped,
and one row is read without the others; Parquet packs rows in groups, and reading a row reads its whole group.
"""

import json
from bisect import bisect_right
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from llavakit.core.errors import ConfigError, DataError
from llavakit.data.index import Unreadable

HUB = "hf:"  # hf:NAME or hf:NAME:SPLIT
SPLIT = "train"


class ParquetRows:
    """Rows of one Parquet file. The group read last is kept, so reading in order reads every group once."""

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
        self._group: tuple[int, Any] = (-1, None)
        self._lock = Lock()  # a ParquetFile is not for several threads

    def __len__(self) -> int:
        return self._firsts[-1]

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> Any:
        group = bisect_right(self._firsts, index) - 1
        with self._lock:
            if self._group[0] != group:
                try:
                    self._group = (group, self._file.read_row_group(group))
                except self._errors as error:
                    return Unreadable(f"cannot be read: {_short(error)}")
            table = self._group[1]
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
