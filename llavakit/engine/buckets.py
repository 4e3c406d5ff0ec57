"""Steps in which everybody decodes, in few shapes, so that a GPU replays them instead of being told each operation.

The rows of an arena (kv_slots.py) are filled up to the next bucket. A shape is recorded when it comes a second time
and replayed from then on; what is recorded reads tokens, lengths and idle rows from a table that stays where it is.
Shape letters: S sequences, T rows with the idle ones, V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from llavakit.engine.decoder import Decoder
from llavakit.engine.fault import report
from llavakit.engine.kv_slots import Arena
from llavakit.engine.layout import Padded, PartedLayout
from llavakit.model.llava import Llava

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # rows; above the largest a step runs as it is
KEPT = 64  # shapes, those of the latest steps


class Replay(NamedTuple):
    """Computes what was recorded again, from what is in its inputs now."""

    run: Callable[[], None]
    logits_TV: Tensor  # where it leaves what it computed


Record = Callable[[Callable[[], Tensor]], Replay]


class Place(NamedTuple):
    """Memory of slots and how many of them have a row: what tells recordings of one model apart."""

    address: int
    capacity: int
    size: int
    rows: int


@dataclass(frozen=True)
class Recording:
    """A replay and the table that it reads."""

    table_3T: Tensor
    replay: Replay


class Buckets:
    """Runs decode steps in a few shapes, and keeps what is recorded of them."""

    def __init__(self, model: Llava, decoder: Decoder, record: Record) -> None:
        self._model, self._decoder, self._record = model, decoder, record
        self._recordings: OrderedDict[tuple[Place, ...], Recording | None] = OrderedDict()
        self._gave_up = False

    @property
    def recorded(self) -> int:
        """Shapes that are replayed."""
        return sum(recording is not None for recording in self._recordings.values())

    def logits(self, tokens: Sequence[int], arenas: Sequence[Arena]) -> Tensor | None:
        """logits_SV of what follows the last `tokens` of the slots of `arenas` that decode, in their order.

        None for steps that fit no bucket, and once a step could not be recorded. The slots are longer by it.
        """
        sizes = [bucket(arena.decoding, arena.capacity) for arena in arenas]
        rows = [size for size in sizes if size is not None]
        if self._gave_up or len(rows) < len(sizes) or torch.is_autocast_enabled(self._model.device.type):
            return None  # autocast keeps copies of weights, which must not be a recording's
        places = tuple(
            Place(arena.kv_L2SHKD.data_ptr(), arena.capacity, arena.size, count)
            for arena, count in zip(arenas, rows, strict=True)
        )
        table_3T, busy = _table(tokens, arenas, rows)
        logits_TV = self._run(places, table_3T.to(self._model.device), arenas)
        for arena in arenas:
            for slot in arena.slots[: arena.decoding]:
                slot.length += 1
        return logits_TV[torch.tensor(busy, device=logits_TV.device)]

    def _run(self, places: tuple[Place, ...], table_3T: Tensor, arenas: Sequence[Arena]) -> Tensor:
        """logits_TV, by a recording where there is one; it is made when a shape comes for the second time."""
        known = places in self._recordings
        recording = self._recordings.pop(places, None)
        if recording is None and known:
            recording = self._try_to_record(table_3T, places, arenas)
        self._recordings[places] = recording  # the latest stands last
        while len(self._recordings) > KEPT:
            self._recordings.popitem(last=False)
        if recording is None:
            return self._compute(table_3T, places, arenas)
        recording.table_3T.copy_(table_3T)
        recording.replay.run()
        return recording.replay.logits_TV

    def _try_to_record(
        self, table_3T: Tensor, places: tuple[Place, ...], arenas: Sequence[Arena]
    ) -> Recording | None:
        own_3T = table_3T.clone()
        try:
            return Recording(own_3T, self._record(lambda: self._compute(own_3T, places, arenas)))
        except RuntimeError as error:  # an operation that waits for the device, no memory
            report("a step could not be recorded; steps run one operation at a time", error)
            self._gave_up = True
            self.forget()
            return None

    def _compute(self, table_3T: Tensor, places: tuple[Place, ...], arenas: Sequence[Arena]) -> Tensor:
        """logits_TV of a step: what is recorded. Nothing here depends on what the table holds."""
        ids_T, lengths_T, busy_T = table_3T[0], table_3T[1], table_3T[2] > 0
        parts, row = [], 0
        for arena, place in zip(arenas, places, strict=True):
            rows = slice(row, row + place.rows)
            parts.append(Padded(arena, row, lengths_T[rows], busy_T[rows]))
            row += place.rows
        layout = PartedLayout(parts)
        x_TD = self._model.language.get_input_embeddings()(ids_T)
        return self._decoder.logits(self._decoder(x_TD, lengths_T, layout, layout))

    def forget(self) -> None:
        """What was recorded computes with weights that are no more."""
        self._recordings.clear()


def bucket(rows: int, capacity: int) -> int | None:
    """How many rows a step has for so many that are busy, of `capacity` slots; None above the largest bucket."""
    fitting = next((size for size in SIZES if size >= rows), None)
    return None if fitting is None else min(fitting, capacity)


def _table(tokens: Sequence[int], arenas: Sequence[Arena], rows: Sequence[int]) -> tuple[Tensor, list[int]]:
    """(int64[3, T]: tokens, lengths of their slots, and 1 for rows that are busy; which those are)."""
    ids, lengths, busy, left = list[int](), list[int](), list[int](), iter(tokens)
    for arena, count in zip(arenas, rows, strict=True):
        slots = arena.slots[: arena.decoding]
        idle = [0] * (count - len(slots))
        busy += range(len(ids), len(ids) + len(slots))
        ids += [*(next(left) for _ in slots), *idle]
        lengths += [*(slot.length for slot in slots), *idle]
    table_3T = torch.tensor([ids, lengths, [0] * len(ids)])
    table_3T[2, busy] = 1
    return table_3T, busy
