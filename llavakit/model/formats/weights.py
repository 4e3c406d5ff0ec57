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

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PATTERNS = ("model*.safetensors", "pytorch_model*.bin")  # looked for in this order, as transformers does
LFS = b"version https://git-lfs"
SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file (or of a rule that makes it): its shape now, its numbers when they are read."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def then(self, change: Callable[[Tensor], Tensor]) -> "Stored":
        """The same tensor, changed after reading in a way that keeps its shape."""
        return replace(self, read=lambda: change(self.read()))


Weights = dict[str, Stored]


def has_weights(folder: Path) -> bool:
    """Whether a directory holds a model's own weight files (an adapter's do not count)."""
    return any(True for pattern in PATTERNS for _ in folder.glob(pattern))


def open_weights(folder: Path) -> Weights:
    """Every tensor of a model directory, safetensors before pickles, in the order of the files."""
    files, pickles = _model_files(folder), Pickles()
    found: Weights = {}
    for file in files:
        found |= open_file(file, pickles)
    index = folder / INDEXES[files[0].suffix != ".safetensors"]
    named = _index(index)
    lost = sorted(named.keys() - found.keys())
    if lost:
        raise CheckpointError(
            f"{index} names {len(lost)} tensors that no file holds, such as {lost[0]} in {named[lost[0]]}; "
            "download that file again"
        )
    return found


def open_file(file: Path, pickles: "Pickles | None" = None) -> Weights:
    """The tensors of one .safetensors file, or of one pickle (read with `weights_only`, so it cannot run code)."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    with file.open("rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`"
            )
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    pickles = pickles or Pickles()
    shapes = {key: tuple(tensor.shape) for key, tensor in pickles.open(file).items()}
    return {key: Stored(shape, partial(pickles.read, file, key)) for key, shape in shapes.items()}


def first_existing(folder: Path, *names: str) -> Path:
    """The first of these files that is there; the last one if none is, for the error to name."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[-1])


def _model_files(folder: Path) -> list[Path]:
    for pattern, index in zip(PATTERNS, INDEXES, strict=True):
        files = sorted(folder.glob(pattern))
        named = sorted({folder / name for name in _index(folder / index).values()})
        absent = [file.name for file in named if not file.is_file()]
        if absent:
            raise CheckpointError(
                f"{folder / index} names {absent[0]}, which is missing ({len(absent)} in all)"
            )
        if named or files:
            return named or _complete(files)
    raise CheckpointError(f"{folder}: no weights (model*.safetensors or pytorch_model*.bin)")


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
            key: Stored(tuple(opened.get_slice(key).get_shape()), partial(_get, opened, key, file))
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
