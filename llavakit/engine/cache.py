"""The KV cache: slots in sizes of powers of two, and a shelf of what finished sequences leave, in one budget.

A slot holds its sequence's keys and values side by side, so a step of many sequences is one product per arena and
nothing is gathered. A slot is at least half full; a sequence that outgrows its slot moves to the next size.
A size has few arenas, none of them large: one can grow within the budget while its old memory is still there, and
one whose slots fit into the others' empty places is given up without any.
"""

from collections.abc import Iterator, Sequence

from llavakit.engine.kv_slots import Arena, KvShape, KvSlot
from llavakit.engine.layout import Forks, StepLayout
from llavakit.engine.prefix import BLOCK, PrefixCache

SMALLEST = 128  # positions of the smallest slot
SHARE = 8  # an arena takes at most so large a part of the budget, if it has more than one slot


class SlotCache:
    """All slots and the shelf. Memory is counted in tokens (positions) and never exceeds the budget, not even while
    something moves (but for one layer of one slot)."""

    def __init__(self, shape: KvShape, budget: int) -> None:
        self.shape, self.budget = shape, budget
        self.prefixes = PrefixCache()
        self._arenas: tuple[Arena, ...] = ()  # replaced, never changed: other threads ask for `tokens`

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
        shelve = self.prefixes.missing(slot, keys)
        self._release(len(shelve) * BLOCK)
        while shelve and self.prefixes.tokens and self.tokens + len(shelve) * BLOCK > self.budget:
            self.prefixes.evict()
        room = max(0, self.budget - self.tokens) // BLOCK
        # The first blocks stand last, and stay: without its beginning a block is never found.
        self.prefixes.shelve(slot, keys, shelve[max(0, len(shelve) - room) :])
        slot.arena.close(slot)

    def decoding(self) -> Iterator[KvSlot]:
        """Slots whose sequences decode, in the order of a step's first rows."""
        for arena in self._arenas:
            yield from arena.slots[: arena.decoding]

    @property
    def answering(self) -> list[Arena]:
        """The arenas of those slots, in their order."""
        return [arena for arena in self._arenas if arena.decoding]

    def step(
        self, chunks: Sequence[tuple[KvSlot, int]], forks: Forks | None = None, *, decode: bool = True
    ) -> StepLayout:
        """With `decode` a row for each decoding slot; then so many that go on with the slot of each of `chunks`.

        `forks`: those of them that begin as other slots do, which stand before them.
        """
        return StepLayout(self.answering if decode else [], chunks, forks or {})

    def clear(self) -> None:
        """Forget everything; no slot may be open."""
        self._arenas = ()
        self.prefixes = PrefixCache()

    def _arena(self, positions: int) -> Arena | None:
        """An arena for so many positions, with a free slot, or None."""
        size = max(SMALLEST, 1 << (positions - 1).bit_length())
        mine = [arena for arena in self._arenas if arena.size == size]
        free = next((arena for arena in mine if arena.free), None)
        if free is not None or not self._make_room(size):
            return free
        spare, most = (self.budget - self.tokens) // size, max(1, self.budget // SHARE // size)
        # Doubling: growing one by one would copy everything each time.
        more = min(max(1, sum(arena.capacity for arena in mine)), spare, most)
        for arena in mine:
            capacity = arena.capacity + more
            if capacity <= most and self.tokens + capacity * size <= self.budget:
                arena.resize(capacity)
                return arena
        arena = Arena(self.shape, size)
        arena.resize(more)
        self._arenas = tuple(sorted((*self._arenas, arena), key=lambda each: each.size))
        return arena

    def _make_room(self, tokens: int) -> bool:
        """See to it that the budget has so many tokens left; False if it cannot."""
        self._release(tokens)  # empty slots are given up before anything on the shelf
        if self._slot_tokens() + tokens > self.budget:
            return False
        while self.tokens + tokens > self.budget:
            self.prefixes.evict()
        return True

    def _release(self, tokens: int) -> None:
        """Give up empty slots until the budget has so many tokens left, as far as that takes no more memory."""
        while self.tokens + tokens > self.budget:
            arena = min(self._spare_arenas(), key=lambda each: len(each.slots), default=None)
            if arena is not None:
                for slot in list(arena.slots):
                    next(other for other in self._others(arena) if other.free).adopt(slot)
                self._arenas = tuple(each for each in self._arenas if each is not arena)
                continue
            arena = next((each for each in self._arenas if each.free and self._can_shrink(each)), None)
            if arena is None:
                return
            arena.resize(len(arena.slots))

    def _can_shrink(self, arena: Arena) -> bool:
        """Whether an arena's slots can be copied beside all that there is."""
        return self.tokens + len(arena.slots) * arena.size <= self.budget

    def _spare_arenas(self) -> Iterator[Arena]:
        """Those whose slots fit into the empty places of others."""
        for arena in self._arenas:
            if sum(other.free for other in self._others(arena)) >= len(arena.slots):
                yield arena

    def _others(self, arena: Arena) -> list[Arena]:
        return [other for other in self._arenas if other.size == arena.size and other is not arena]

    def _slot_tokens(self) -> int:
        return sum(arena.capacity * arena.size for arena in self._arenas)
