"""How long every record is, kept on disk: ranks pack from it and encode only the rows that are theirs.

Records are measured in stripes. A stripe is one file that appears whole; ranks take stripes in turn, each in
processes of its own (threads would wait for the interpreter's lock), and go on when all are there, however long
that takes.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from llavakit.core.errors import CheckpointError, ConfigError, DataError
from llavakit.core.files import draft_of
from llavakit.core.progress import bar

STRIPE = 4096  # records
PAUSE = 0.2  # seconds between looks for stripes that others make
FLAW = 0  # in the place of the length of a record that could not be used then: who needs it looks again

Measure = Callable[[int], tuple[int, int]]  # number of a record -> (its tokens, its kind), or a DataError


@dataclass(frozen=True)
class Lengths:
    """Of every record its tokens (or FLAW) and its kind. N records."""

    tokens_N: np.ndarray
    kinds_N: np.ndarray


def fill_lengths(
    folder: Path, key: str, count: int, measure: Measure, *, rank: int = 0, ranks: int = 1, processes: int = 1
) -> Lengths:
    """The lengths of `count` records; what `folder` lacks is measured first, by all ranks that call this.

    `key` names all that lengths depend on: another one begins anew beside it. A killed process loses its stripe.
    """
    folder = folder / key
    files = [folder / f"{number:06d}.npz" for number in range(-(-count // STRIPE))]
    mine = [number for number in range(rank, len(files), ranks) if not files[number].exists()]
    if mine:
        _make_folder(folder)
        with bar("record lengths", sum(len(_records(number, count)) for number in mine)) as progress:
            for number, stripe in _stripes(mine, partial(_measure_stripe, measure, count), processes):
                _write(files[number], stripe)
                progress.advance(len(_records(number, count)))
    for file in files:
        while not file.exists():  # no collective: those give up after a time
            time.sleep(PAUSE)
    return _join([_read(file) for file in files])


def lengths_key(*facts: Any) -> str:
    """A name for what the lengths of records depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _records(number: int, count: int) -> range:
    return range(number * STRIPE, min((number + 1) * STRIPE, count))


def _measure_stripe(measure: Measure, count: int, number: int) -> Lengths:
    tokens, kinds = list[int](), list[int]()
    for at in _records(number, count):
        try:
            length, kind = measure(at)
        except DataError:
            length, kind = FLAW, 0
        tokens.append(length)
        kinds.append(kind)
    return Lengths(np.array(tokens, dtype=np.int32), np.array(kinds, dtype=np.uint8))


def _stripes(
    numbers: list[int], make: Callable[[int], Lengths], processes: int
) -> Iterator[tuple[int, Lengths]]:
    """Each stripe when it is made."""
    if processes < 2 or len(numbers) < 2:
        yield from ((number, make(number)) for number in numbers)
        return
    # Forks have the records' index and the tokenizer already, as those of PyTorch's own loader.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("fork"), initializer=_begin, initargs=(make,)
    )
    with pool:
        try:
            yield from zip(numbers, pool.map(_make, numbers), strict=True)
        except BrokenProcessPool:
            raise ConfigError(
                "a process that measured records was killed, perhaps for memory; set data.workers=1"
            ) from None


_work: list[Callable[[int], Lengths]] = []  # of a forked process


def _begin(make: Callable[[int], Lengths]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _work.append(make)


def _make(number: int) -> Lengths:
    return _work[0](number)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: could not be made: {error.strerror or error}") from None


def _write(file: Path, stripe: Lengths) -> None:
    draft = draft_of(file)
    try:
        with draft.open("wb") as opened:
            np.savez(opened, tokens=stripe.tokens_N, kinds=stripe.kinds_N)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(f"{file}: could not be written: {error.strerror or error}") from None


def _read(file: Path) -> Lengths:
    try:
        with np.load(file, allow_pickle=False) as found:
            return Lengths(found["tokens"], found["kinds"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise CheckpointError(f"{file}: no lengths of records ({error}); remove it") from None


def _join(stripes: list[Lengths]) -> Lengths:
    return Lengths(
        np.concatenate([stripe.tokens_N for stripe in stripes]),
        np.concatenate([stripe.kinds_N for stripe in stripes]),
    )
