"""Who runs in the next step: decoding sequences always, then prompts as far as the step's tokens and memory go.

Nothing here touches the model. A sequence waits, is filled (its prompt goes through in chunks), decodes, and ends;
when memory runs out the youngest goes back to waiting, and is filled again later with what it has said.
"""

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from llavakit.engine.cache import SlotCache
from llavakit.engine.kv_slots import KvSlot
from llavakit.engine.prefix import BLOCK, extend_keys
from llavakit.engine.request import Ends, Listen, Request
from llavakit.engine.sampler import Draw


@dataclass(eq=False)
class Sequence:
    """One choice of a request on its way."""

    number: int
    choice: int
    request: Request
    draw: Draw
    listen: Listen
    ends: Ends
    room: int  # tokens it may still say
    ids: list[int]  # prompt and answer
    names: list[int]  # the same, pictures by their content
    keys: list[bytes] = field(default_factory=list)  # of its complete blocks
    seen: dict[bytes, Tensor] = field(default_factory=dict)  # rows_SD of its media, while it is filled
    slot: KvSlot | None = None
    ended: bool = False

    @property
    def done(self) -> int:
        """Tokens whose keys and values are in its slot."""
        return 0 if self.slot is None else self.slot.length

    def say(self, token: int) -> None:
        """Append a token to the answer."""
        self.ids.append(token)
        self.names.append(token)
        self.room -= 1


@dataclass(frozen=True)
class Step:
    """What one forward computes: a row for each of `decoding`, then for each of `filling` so many more tokens."""

    decoding: list[Sequence]
    filling: list[tuple[Sequence, int]]
    admitted: list[Sequence]

    def one_by_one(self) -> list["Step"]:
        """The same in steps of one sequence; the token of one that decodes is as well a piece of its prompt."""
        parts = [(sequence, 1) for sequence in self.decoding] + self.filling
        return [
            Step([], [(sequence, size)], [sequence] if sequence in self.admitted else [])
            for sequence, size in parts
        ]


class Scheduler:
    """Sequences, first come first served."""

    def __init__(self, cache: SlotCache, *, max_sequences: int, step_tokens: int) -> None:
        self.cache, self.max_sequences, self.step_tokens = cache, max_sequences, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.preemptions = 0
        self.prompt_tokens = 0  # of admitted sequences
        self.known_tokens = 0  # of those, the ones that were copied

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        extend_keys(sequence.keys, sequence.names, sequence.request.salt)
        self.waiting.append(sequence)

    def plan(self) -> Step:
        """The next step; running sequences have memory for it."""
        self._widen()
        owners = {sequence.slot: sequence for sequence in self.running}
        decoding = [owners[slot] for slot in self.cache.decoding()]
        left = max(0, self.step_tokens - len(decoding))
        filling: list[tuple[Sequence, int]] = []
        for sequence in self.running:
            if left and sequence.slot is not None and not sequence.slot.decodes:
                left -= self._fill(sequence, left, filling)
        return Step(decoding, filling, self._admit(left, filling))

    def filled(self, sequence: Sequence) -> None:
        """A chunk went through: its blocks can be copied, and at the prompt's end it decodes."""
        assert sequence.slot is not None
        self.cache.prefixes.publish(sequence.slot, sequence.keys)
        if sequence.done == len(sequence.ids):
            sequence.seen.clear()
            sequence.slot.arena.promote(sequence.slot)

    def remove(self, sequence: Sequence) -> None:
        """A sequence ended, wherever it was."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._leave(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Back to waiting, first in the queue."""
        self.running.remove(sequence)
        self._leave(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        extend_keys(sequence.keys, sequence.names, sequence.request.salt)
        self.cache.close(sequence.slot, sequence.keys)
        sequence.slot = None
        sequence.seen.clear()

    def _widen(self) -> None:
        """Memory for one more token of all that decode; the youngest make room."""
        for sequence in list(self.running):
            while sequence.slot is not None and not self.cache.widen(sequence.slot, sequence.done + 1):
                self.preempt(self.running[-1])

    def _fill(self, sequence: Sequence, left: int, filling: list[tuple[Sequence, int]]) -> int:
        count = min(left, len(sequence.ids) - sequence.done)
        filling.append((sequence, count))
        return count

    def _admit(self, left: int, filling: list[tuple[Sequence, int]]) -> list[Sequence]:
        """Give waiting sequences a slot, with what is known of their beginning already in it."""
        coming = {key for sequence in self.running for key in _coming(sequence)}
        admitted: list[Sequence] = []
        for sequence in list(self.waiting):
            if not left or len(self.running) == self.max_sequences:
                break
            # The last token is always computed: its hidden state says what comes next.
            known = self.cache.prefixes.matching(sequence.keys[: (len(sequence.ids) - 1) // BLOCK])
            if known < len(sequence.keys) and sequence.keys[known] in coming:
                continue  # somebody is computing what this one needs: it copies that afterwards
            slot = self.cache.open(len(sequence.ids))
            if slot is None:
                break
            known = self.cache.prefixes.matching(sequence.keys[:known])  # making room may have cost some
            self.cache.prefixes.copy(sequence.keys[:known], slot)
            sequence.slot = slot
            self.waiting.remove(sequence)
            self.running.append(sequence)
            admitted.append(sequence)
            coming.update(_coming(sequence))
            self.prompt_tokens += len(sequence.ids)
            self.known_tokens += known * BLOCK
            left -= self._fill(sequence, left, filling)
        return admitted

    def all(self) -> list[Sequence]:
        """Every sequence that has not ended."""
        return [*self.running, *self.waiting]

    def reset(self, cache: SlotCache) -> list[Sequence]:
        """Begin anew with another cache; the sequences that had not ended."""
        left, self.cache = self.all(), cache
        self.running.clear()
        self.waiting.clear()
        return left


def _coming(sequence: Sequence) -> list[bytes]:
    """Blocks that will be known when the sequence is filled."""
    return [] if sequence.slot is None or sequence.slot.decodes else sequence.keys[sequence.done // BLOCK :]
