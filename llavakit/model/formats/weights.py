"""Weights that still lie in their files: each has a name and a shape, and is read when it is asked for.

A conversion is a chain of plain functions over such a table, so it never holds more than the shard it is writing.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llavakit.core.errors import CheckpointError
from llavakit.core.files import check_pointer
from llavakit.core.progress import say

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
PATTERNS = ("model*.safetensors", "pytorch_model*.bin")  # looked for in this order, as transformers does
SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file (or of a rule that makes it): its shape now, its numbers when they are read."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    read_rows: Callable[[int, int], Tensor] | None = None  # what of a file can be read without the rest

    def rows(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (not included); of a tensor that a rule makes, all are made for it."""
        return self.read()[first:last] if self.read_rows is None else self.read_rows(first, last)

    def then(self, change: Callable[[Tensor], Tensor]) -> "Stored":
        """The same tensor, changed after reading in a way that keeps its shape."""
        return replace(self, read=lambda: change(self.read()), read_rows=None)


Weights = dict[str, Stored]


def has_weights(folder: Path) -> bool:
    """Whether a directory holds a model's own weight files (an adapter's do not count)."""
    return any(True for pattern in PATTERNS for _ in folder.glob(pattern))


def open_weights(folder: Path) -> Weights:
    """Every tensor of a model directory, safetensors before pickles, in the order of the files.

    An index says which files count; without one a file called model.safetensors stands alone. What is passed over
    (further files, tensors that the index does not name) is told in a line; a tensor that is not where the index
    says, or that two files hold, is a CheckpointError.
    """
    files, index, pickles = _model_files(folder), _find_index(folder), Pickles()
    where = _index(index)
    found: Weights = {}
    passed: dict[str, str] = {}
    for file in files:
        for key, stored in open_file(file, pickles).items():
            if where and where.get(key) != file.name:
                passed[key] = file.name
            elif key in found:
                raise CheckpointError(
                    f"{folder}: two files hold {key}, one of them {file.name}; remove the other"
                )
            else:
                found[key] = stored
    lost = sorted(where.keys() - found.keys())
    if lost and lost[0] in passed:
        raise CheckpointError(
            f"{index} says that {lost[0]} is in {where[lost[0]]}, but {passed[lost[0]]} holds it"
        )
    if lost:
        raise CheckpointError(
            f"{index} names {len(lost)} tensors that no file holds, such as {lost[0]} in {where[lost[0]]}; "
            "download that file again"
        )
    if passed:
        some, place = next(iter(passed.items()))
        say(f"note: not read, as {index} says otherwise: {len(passed)} tensors, such as {some} in {place}")
    return found


def read_all(weights: Weights) -> dict[str, Tensor]:
    """The tensors themselves."""
    return {key: stored.read() for key, stored in weights.items()}


def in_memory(tensors: dict[str, Tensor]) -> Weights:
    """A table of tensors that are there already; those of other devices come to the CPU when they are read."""

    def reader(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor.detach().cpu()

    return {key: Stored(tuple(tensor.shape), reader(tensor)) for key, tensor in tensors.items()}


def open_file(file: Path, pickles: "Pickles | None" = None) -> Weights:
    """The tensors of one .safetensors file, or of one pickle (read with `weights_only`, so it cannot run code)."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    check_pointer(file)
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    pickles = pickles or Pickles()
    shapes = {key: tuple(tensor.shape) for key, tensor in pickles.open(file).items()}
    return {key: Stored(shape, partial(pickles.read, file, key)) for key, shape in shapes.items()}


def first_existing(folder: Path, *names: str) -> Path:
    """The first of these files that is there; the last one if none is, for the error to name."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[-1])


def _model_files(folder: Path) -> list[Path]:
    """The files that count; others of the same kind are told."""
    for pattern, index in zip(PATTERNS, INDEXES, strict=True):
        files = sorted(folder.glob(pattern))
        named = sorted({folder / name for name in _index(folder / index).values()})
        absent = [file.name for file in named if not file.is_file()]
        if absent:
            raise CheckpointError(
                f"{folder / index} names {absent[0]}, which is missing ({len(absent)} in all)"
            )
        alone = [file for file in files if file.name in SINGLE]
        if named or files:
            counted = named or alone or _complete(files)
            extra = [file.name for file in files if file not in counted]
            if extra:
                because = f"{index} does not name them" if named else f"{counted[0].name} is the whole model"
                say(f"note: {folder}: not read, as {because}: {', '.join(extra)}")
            return counted
    raise CheckpointError(f"{folder}: no weights (model*.safetensors or pytorch_model*.bin)")


def _find_index(folder: Path) -> Path:
    """The index that says where tensors are; its name where there is none."""
    kinds = zip(PATTERNS, INDEXES, strict=True)
    return next(
        (
            folder / index
            for pattern, index in kinds
            if (folder / index).is_file() or any(folder.glob(pattern))
        ),
        folder / INDEXES[0],
    )


def _complete(files: list[Path]) -> list[Path]:
    """Files without an index: of numbered shards none may be missing, and a single file stands alone."""
    numbers = [match for file in files if (match := SHARD.fullmatch(file.name))]
    if numbers and len(numbers) != int(numbers[0][2]):
        raise CheckpointError(
            f"{files[0].parent}: {len(numbers)} of {int(numbers[0][2])} shards are here; download the rest"
        )
    return files


def _index(file: Path) -> dict[str, str]:
    """Tensor name -> file name; empty where there is no index."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not an index of shards: {error}") from None


def _open_safetensors(file: Path) -> Weights:
    try:
        opened = safe_open(file, framework="pt")
        return {
            key: Stored(
                tuple(opened.get_slice(key).get_shape()),
                partial(_get, opened, key, file),
                partial(_get_rows, opened, key, file),
            )
            for key in opened.keys()  # noqa: SIM118  (not a dictionary)
        }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a complete safetensors file: {error}") from None


def _get(opened: safe_open, key: str, file: Path) -> Tensor:
    try:
        tensor: Tensor = opened.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {key} cannot be read: {error}") from None
    return tensor


def _get_rows(opened: safe_open, key: str, file: Path, first: int, last: int) -> Tensor:
    try:
        rows: Tensor = opened.get_slice(key)[first:last]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {key} cannot be read: {error}") from None
    return rows


class Pickles:
    """The .bin files of one model: only the one that was read last is kept open."""

    def __init__(self) -> None:
        self.newest: Path | None = None
        self.tensors: dict[str, Tensor] = {}

    def open(self, file: Path) -> dict[str, Tensor]:
        """The tensors of a file, memory-mapped where its format allows."""
        if file != self.newest:
            self.tensors = {}  # let go of the last file before the next is read
            self.newest, self.tensors = file, _load_pickle(file)
        return self.tensors

    def read(self, file: Path, key: str) -> Tensor:
        """One tensor of a file."""
        return self.open(file)[key]


def _load_pickle(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about pickle protocols, before the error that says more
            # The format before PyTorch 1.6 is no zip file and cannot be mapped: it is read whole.
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: refused: not a plain table of tensors, and reading anything else could run its code; "
            "download it again, or get the weights as .safetensors"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CheckpointError(f"{file}: not a table of tensors")
    return {str(key): tensor.detach() for key, tensor in found.items()}
