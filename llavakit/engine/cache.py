"""The KV cache: slots in sizes of powers of two, and a shelf of what finished sequences leave, in one budget.

A slot holds its sequence's keys and values side by side, so a step of many sequences is one product per size and
nothing is gathered. A slot is at least half full; a sequence that outgrows its slot moves to the next size.
"""

from collections.abc import Iterator, Sequence

from llavakit.engine.kv_slots import Arena, KvShape, KvSlot
from llavakit.engine.layout import StepLayout
from llavakit.engine.prefix import BLOCK, PrefixCache

SMALLEST = 128  # positions of the smallest slot


class SlotCache:
    """All slots and the shelf. Memory is counted in tokens (positions) and never exceeds the budget."""

    def __init__(self, shape: KvShape, budget: int) -> None:
        self.shape, self.budget = shape, budget
        self.prefixes = PrefixCache()
        self._arenas = self._empty()

    @property
    def tokens(self) -> int:
        """Positions there is memory for, in use or not."""
        return self._slot_tokens() + self.prefixes.tokens

    @property
    def longest(self) -> int:
        """The largest number of positions a sequence can have."""
        return 0 if self.budget < SMALLEST else 1 << (self.budget.bit_length() - 1)

    def open(self, positions: int) -> KvSlot | None:
        """A slot for so many positions, or None while the budget has no room for it."""
        arena = self._arena(positions)
        return arena.open() if arena is not None else None

    def widen(self, slot: KvSlot, positions: int) -> bool:
        """See to it that the slot has so many positions; False if the budget has no room for that now."""
        if positions > slot.arena.size:
            arena = self._arena(positions)
            if arena is None:
                return False
            arena.adopt(slot)
        return True

    def close(self, slot: KvSlot, keys: Sequence[bytes]) -> None:
        """Give a slot up. Its complete blocks, which have these keys, go on the shelf as far as there is room."""
        arena = slot.arena
        shelve = self.prefixes.retire(slot, keys)
        arena.close(slot)
        if self.tokens + len(shelve) * BLOCK > self.budget and arena.free >= len(arena.slots):
            arena.resize(len(arena.slots))
        while shelve and self.prefixes.tokens and self.tokens + len(shelve) * BLOCK > self.budget:
            self.prefixes.evict()
        room = max(0, self.budget - self.tokens) // BLOCK
        # The first blocks stand last, and stay: without its beginning a block is never found.
        self.prefixes.shelve(shelve[max(0, len(shelve) - room) :])

    def decoding(self) -> Iterator[KvSlot]:
        """Slots whose sequences decode, in the order of a step's first rows."""
        for arena in self._arenas.values():
            yield from arena.slots[: arena.decoding]

    def step(self, chunks: Sequence[tuple[KvSlot, int]], *, decode: bool = True) -> StepLayout:
        """With `decode` a row for each decoding slot; then so many that go on with the slot of each of `chunks`."""
        return StepLayout([arena for arena in self._arenas.values() if arena.decoding and decode], chunks)

    def clear(self) -> None:
        """Forget everything; no slot may be open."""
        self._arenas = self._empty()
        self.prefixes = PrefixCache()

    def _arena(self, positions: int) -> Arena | None:
        """The arena for so many positions, with a free slot, or None."""
        size = max(SMALLEST, 1 << (positions - 1).bit_length())
        if size > self.longest:
            return None
        arena = self._arenas[size]
        if arena.free:
            return arena
        if self.tokens + size > self.budget:
            # Empty slots of other sizes are given up before anything on the shelf.
            for other in self._arenas.values():
                if other.free:
                    other.resize(len(other.slots))
        if self._slot_tokens() + size > self.budget:
            return None
        while self.tokens + size > self.budget:
            self.prefixes.evict()
        spare = (self.budget - self.tokens) // size
        # Doubling: growing one by one would copy everything each time.
        arena.resize(arena.capacity + min(max(1, arena.capacity), spare))
        return arena

    def _empty(self) -> dict[int, Arena]:
        """An arena of each size from the beginning: other threads ask for `tokens` while slots come and go."""
        first, last = SMALLEST.bit_length() - 1, self.longest.bit_length()
        return {1 << power: Arena(self.shape, 1 << power) for power in range(first, last)}

    def _slot_tokens(self) -> int:
        return sum(arena.capacity * arena.size for arena in self._arenas.values())
