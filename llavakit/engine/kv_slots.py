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
        return self.number < self.arena.decoding


class Arena:
    """The slots of one size, without holes: first those whose sequences decode, then those still being filled."""

    def __init__(self, shape: KvShape, size: int) -> None:
        self.size, self.decoding = size, 0
        self.slots: list[KvSlot] = []
        self.kv_L2SHKD = torch.empty(
            shape.layers, 2, 0, shape.heads, size, shape.width, dtype=shape.dtype, device=shape.device
        )

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
        layers, two, _, heads, size, width = self.kv_L2SHKD.shape
        # Zeros: what is masked is still multiplied, and chance bits may be no numbers.
        kv_L2SHKD = self.kv_L2SHKD.new_zeros(layers, two, capacity, heads, size, width)
        for slot in self.slots:
            kv_L2SHKD[:, :, slot.number, :, : slot.length] = slot.written_L2HKD
        self.kv_L2SHKD = kv_L2SHKD

    def open(self) -> KvSlot:
        """A slot to be filled. There must be a free one."""
        slot = KvSlot(self, len(self.slots))
        self.slots.append(slot)
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
            self._place(slot, self.decoding)
        self.decoding += 1

    def close(self, slot: KvSlot) -> None:
        """Give the slot up; the last of its kind takes its place."""
        hole = slot.number
        if slot.decodes:
            self.decoding -= 1
            hole = self._fill(hole, self.decoding)
        self._fill(hole, len(self.slots) - 1)
        self.slots.pop()

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

    def _fill(self, hole: int, last: int) -> int:
        """Move the slot numbered `last` into the hole; returns where the hole is now."""
        if hole != last:
            moved = self.slots[last]
            self.kv_L2SHKD[:, :, hole, :, : moved.length] = moved.written_L2HKD
            self._place(moved, hole)
        return last

    def _place(self, slot: KvSlot, number: int) -> None:
        self.slots[number], slot.number = slot, number
