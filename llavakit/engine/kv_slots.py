"""Memory for keys and values: one tensor for all slots of a size, and a slot for every running sequence.

Shape letters: L layers, S slots, H key heads, K positions of a slot, D head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KvShape:
    """What a decoder stores of one token."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self.layers * 2 * self.heads * self.width * self.dtype.itemsize


class KvSlot:
    """A place for one sequence. It may be moved; whoever holds it asks it where it is."""

    def __init__(self, arena: "Arena", number: int) -> None:
        self.arena, self.number = arena, number
        self.length = 0  # positions written

    @property
    def kv_L2HKD(self) -> Tensor:
        """A view of the slot's memory."""
        return self.arena.kv_L2SHKD[:, :, self.number]

    @property
    def written_L2HKD(self) -> Tensor:
        """The part that holds something."""
        return self.kv_L2HKD[:, :, :, : self.length]

    def begin_like(self, other: "KvSlot", length: int) -> None:
        """Copy the first positions of another slot into this empty one."""
        self.kv_L2HKD[:, :, :, :length] = other.kv_L2HKD[:, :, :, :length]
        self.length = length

    @property
    def decodes(self) -> bool:
        """Whether it stands among those that get a token in every step."""
        decoding = self.arena.decoding  # asked first: it may move this slot
        return self.number < decoding


class Arena:
    """The slots of one size, without holes: first those whose sequences decode, then those still being filled.

    Of many that are given up after a step only what is left moves, once: when somebody asks where the slots are.
    """

    def __init__(self, shape: KvShape, size: int) -> None:
        self.size = size
        self._decoding = 0
        self._slots: list[KvSlot | None] = []  # None: given up since they were last without holes
        self.kv_L2SHKD = torch.empty(
            shape.layers, 2, 0, shape.heads, size, shape.width, dtype=shape.dtype, device=shape.device
        )

    @property
    def slots(self) -> list[KvSlot]:
        """Those in use, in order."""
        self._close_ranks()
        return [slot for slot in self._slots if slot is not None]

    @property
    def decoding(self) -> int:
        """How many of them decode."""
        self._close_ranks()
        return self._decoding

    @property
    def capacity(self) -> int:
        """Slots there is memory for."""
        return self.kv_L2SHKD.shape[2]

    @property
    def free(self) -> int:
        """Slots that could be opened at once."""
        return self.capacity - len(self.slots)

    def resize(self, capacity: int) -> None:
        """Memory for `capacity` slots, at least those in use."""
        slots = self.slots
        layers, two, _, heads, size, width = self.kv_L2SHKD.shape
        # Zeros: what is masked is still multiplied, and chance bits may be no numbers.
        kv_L2SHKD = self.kv_L2SHKD.new_zeros(layers, two, capacity, heads, size, width)
        for slot in slots:
            kv_L2SHKD[:, :, slot.number, :, : slot.length] = slot.written_L2HKD
        self.kv_L2SHKD = kv_L2SHKD

    def open(self) -> KvSlot:
        """A slot to be filled. There must be a free one."""
        slot = KvSlot(self, len(self.slots))
        self._slots.append(slot)
        return slot

    def promote(self, slot: KvSlot) -> None:
        """From now on the slot's sequence decodes: it changes places with the first that is being filled."""
        other = self.slots[self.decoding]
        if other is not slot:
            mine_L2HKD, others_L2HKD = slot.kv_L2HKD, other.kv_L2HKD
            length = max(slot.length, other.length)
            for mine_2HKD, others_2HKD in zip(mine_L2HKD, others_L2HKD, strict=True):  # little at a time
                kept = mine_2HKD[:, :, :length].clone()
                mine_2HKD[:, :, :length] = others_2HKD[:, :, :length]
                others_2HKD[:, :, :length] = kept
            self._place(other, slot.number)
            self._place(slot, self._decoding)
        self._decoding += 1

    def close(self, slot: KvSlot) -> None:
        """Give the slot up."""
        self._slots[slot.number] = None

    def adopt(self, slot: KvSlot) -> None:
        """Take a slot over from another arena, with what it holds. There must be a free place here."""
        place, decodes = self.open(), slot.decodes
        place.kv_L2HKD[:, :, :, : slot.length] = slot.written_L2HKD
        place.length = slot.length
        if decodes:
            self.promote(place)
        slot.arena.close(slot)
        slot.arena = self
        self._place(slot, place.number)

    def _close_ranks(self) -> None:
        """Move slots into the holes before them: those that decode first, what is being filled behind them."""
        if None not in self._slots:
            return
        decoding = [slot for slot in self._slots[: self._decoding] if slot is not None]
        filling = [slot for slot in self._slots[self._decoding :] if slot is not None]
        self._decoding = len(decoding)
        self._slots = [None for _ in (*decoding, *filling)]
        for first, kept in ((0, decoding), (len(decoding), filling)):
            places = range(first, first + len(kept))
            taken = {slot.number for slot in kept}
            holes = [number for number in places if number not in taken]
            for hole, slot in zip(holes, [slot for slot in kept if slot.number not in places], strict=True):
                self.kv_L2SHKD[:, :, hole, :, : slot.length] = slot.written_L2HKD
                slot.number = hole
            for slot in kept:
                self._slots[slot.number] = slot

    def _place(self, slot: KvSlot, number: int) -> None:
        self._slots[number], slot.number = slot, number
