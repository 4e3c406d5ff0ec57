"""The KV cache: whatever comes and goes, what slots hold is kept, and memory never exceeds its budget."""

from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.engine.cache import SlotCache
from llavakit.engine.kv_slots import Arena, KvShape
from llavakit.engine.prefix import BLOCK
from tests.train.peak import Peak

SHAPE = KvShape(4, 1, 2, torch.float32, torch.device("cpu"))


class Held:
    """A sequence: it writes its own number into its slot and knows how far."""

    def __init__(self, slot, number):
        self.slot, self.number, self.promoted = slot, number, False

    def grow(self, length):
        self.slot.kv_L2HKD[:, :, :, self.slot.length : length] = self.number
        self.slot.length = length

    def promote(self):
        if not self.promoted:
            self.slot.arena.promote(self.slot)
            self.promoted = True

    @property
    def kept(self):
        return bool((self.slot.written_L2HKD == self.number).all())

    @property
    def keys(self):
        return [f"{self.number} {block}".encode() for block in range(self.slot.length // BLOCK)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    budget=st.sampled_from([512, 700, 1100, 2048, 5000]),
    work=st.lists(
        st.tuples(st.sampled_from(["open", "grow", "close"]), st.integers(1, 900), st.integers(0, 20)),
        min_size=5, max_size=40,
    ),
)  # fmt: skip
def test_memory_stays_in_the_budget_while_slots_come_grow_and_go(budget, work):
    cache, held, numbers = SlotCache(SHAPE, budget), [], count(1)
    with Peak([]) as peak:
        for what, size, which in work:
            if what == "open" and size <= cache.longest:
                slot = cache.open(size)
                if slot is not None:
                    held.append(Held(slot, next(numbers)))
                    held[-1].grow(size)
            elif held:
                one = held[which % len(held)]
                if what == "close":
                    cache.close(one.slot, one.keys)
                    held.remove(one)
                elif one.slot.length + size <= cache.longest and cache.widen(
                    one.slot, one.slot.length + size
                ):
                    one.grow(one.slot.length + size)
                    one.promote()
            one = slot = None  # a closed slot holds its arena
            assert cache.tokens <= budget
            assert all(each.kept for each in held)
    one_layer = max(cache.longest, 1) * SHAPE.token_bytes // SHAPE.layers
    assert peak.most <= budget * SHAPE.token_bytes + one_layer + 1000  # and the tests' own small tensors
    decoding = list(cache.decoding())
    assert {id(slot) for slot in decoding} == {id(each.slot) for each in held if each.promoted}


@pytest.mark.parametrize("budget", [128, 700, 4096])
def test_a_sequence_alone_gets_the_longest_slot_whatever_was_before(budget):
    cache = SlotCache(SHAPE, budget)
    for size in (100, 60, 128):
        slots = [slot for slot in (cache.open(size) for _ in range(40)) if slot is not None]
        for number, slot in enumerate(slots):
            slot.length = size
            cache.close(slot, [f"{size} {number} {block}".encode() for block in range(size // BLOCK)])
    assert cache.prefixes.tokens or budget == 128
    slot = cache.open(cache.longest)
    assert slot is not None and slot.arena.size == cache.longest


def test_all_of_the_budget_can_be_used():
    cache = SlotCache(SHAPE, 128 * 10)
    slots = [cache.open(100) for _ in range(10)]
    assert None not in slots and cache.open(100) is None
    assert cache.tokens == cache.budget


def test_a_size_has_one_arena_up_to_an_eighth_of_the_budget():
    cache = SlotCache(SHAPE, 128 * 8 * 32)
    assert len({id(cache.open(100).arena) for _ in range(32)}) == 1


def test_where_it_stands_can_be_asked_while_slots_come(monkeypatch):
    """As another thread does: the first question for memory meets an engine that opens a slot of a new size."""
    cache = SlotCache(SHAPE, 10_000)
    cache.open(100)
    capacity, opened = Arena.capacity.fget, []

    def meanwhile(arena):
        if not opened:
            opened.append(True)
            opened.append(cache.open(600))
        return capacity(arena)

    monkeypatch.setattr(Arena, "capacity", property(meanwhile))
    assert cache.tokens > 0 and opened[1].arena.size == 1024


def test_of_many_that_end_together_only_what_is_left_moves():
    cache = SlotCache(SHAPE, 128 * 8 * 32)
    held = [Held(cache.open(100), number) for number in range(10)]
    for each in held:
        each.grow(5)
    for each in held[:8]:
        each.promote()
    for number in (6, 0, 2, 8, 4):
        cache.close(held[number].slot, [])
    left = [held[number] for number in (1, 3, 5, 7, 9)]
    assert all(each.kept for each in left), "nobody has asked where they are"
    assert [slot.arena.slots[slot.number] is slot for slot in cache.decoding()] == [True] * 4
    assert [each.slot.decodes for each in left] == [True] * 4 + [False]
    assert [each.slot.number for each in left] == [1, 3, 0, 2, 4], "1 and 3 stay"
    assert all(each.kept for each in left)
