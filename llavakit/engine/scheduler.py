"""Who runs in the next step: decoding sequences always, then prompts as far as the step's tokens and memory go.

A tile that goes through the tower counts as the tokens that would cost the decoder as much.

Nothing here touches the model. A sequence waits, is filled (its prompt goes through in chunks), decodes, and ends;
when memory runs out the youngest goes back to waiting, and is filled again later with what it has said.
"""

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from llavakit.data.media import Media
from llavakit.engine.cache import SlotCache
from llavakit.engine.features import FeatureCache
from llavakit.engine.kv_slots import KvSlot
from llavakit.engine.prefix import BLOCK, extend_keys
from llavakit.engine.request import Ends, Listen, Request
from llavakit.engine.sampler import Draw

PROMPTS = 4  # a quarter of a step is for prompts, whatever else runs


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
class Look:
    """So many more tiles of a medium that a sequence waits for."""

    sequence: Sequence
    key: bytes
    media: Media
    tiles: int


@dataclass(frozen=True)
class Step:
    """What one forward computes: a row for each of `decoding`, then for each of `filling` so many more tokens.

    Before it, the tiles of `looking` go through the tower.
    """

    decoding: list[Sequence] = field(default_factory=list)
    filling: list[tuple[Sequence, int]] = field(default_factory=list)
    looking: list[Look] = field(default_factory=list)

    @property
    def prompts(self) -> list[Sequence]:
        """Those whose prompts come in, each once."""
        both = (*(look.sequence for look in self.looking), *(sequence for sequence, _ in self.filling))
        return list(dict.fromkeys(both))

    @property
    def sequences(self) -> list[Sequence]:
        """Everybody who has a part in it."""
        return self.decoding + self.prompts

    def of(self, sequence: Sequence) -> "Step":
        """One sequence's part alone; the token of one that decodes is as well a piece of its prompt."""
        filling = [(sequence, 1)] if sequence in self.decoding else []
        return Step(
            [],
            filling + [part for part in self.filling if part[0] is sequence],
            [look for look in self.looking if look.sequence is sequence],
        )


class Scheduler:
    """Sequences, first come first served."""

    def __init__(
        self, cache: SlotCache, features: FeatureCache, *, max_sequences: int, step_tokens: int
    ) -> None:
        self.cache, self.features = cache, features
        self.max_sequences, self.step_tokens = max_sequences, step_tokens
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
        step = Step()
        # However many answer, prompts get a share: without it those who come in would wait for all of them to end.
        answering = sum(1 for _ in self.cache.decoding())
        left = max(self.step_tokens - answering, self.step_tokens // PROMPTS, 1)
        for sequence in self.running:
            if left > 0 and sequence.slot is not None and not sequence.slot.decodes:
                left -= self._fill(sequence, left, step)
        self._admit(left, step)
        # Last: a slot that is opened may move others, and their order is that of the step's rows.
        owners = {sequence.slot: sequence for sequence in self.running}
        step.decoding.extend(owners[slot] for slot in self.cache.decoding())
        return step

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
        for key, _, _ in sequence.request.unseen(sequence.done, sequence.seen):
            self.features.drop(key)
        sequence.slot = None
        sequence.seen.clear()

    def _widen(self) -> None:
        """Memory for one more token of all that decode; the youngest make room."""
        for sequence in list(self.running):
            while sequence.slot is not None and not self.cache.widen(sequence.slot, sequence.done + 1):
                self.preempt(self.running[-1])

    def _fill(self, sequence: Sequence, left: int, step: Step) -> int:
        """Give a prompt its part of a step: tiles for the pictures it comes to, and tokens up to the next picture
        that is not seen then. What that costs, in tokens: the last tile may cost more than is left."""
        cost, ready = 0, len(sequence.ids)
        for key, media, first_slot in sequence.request.unseen(sequence.done, sequence.seen):
            planned = sum(look.tiles for look in step.looking if look.key == key)
            tiles = self.features.left(key, media) - planned
            some = min(tiles, -(-(left - cost) // self.features.tile_tokens))
            if some > 0:
                step.looking.append(Look(sequence, key, media, some))
                cost += some * self.features.tile_tokens
            if some < tiles:
                ready = first_slot
                break
        count = min(left - cost, ready - sequence.done)
        if count > 0:
            step.filling.append((sequence, count))
            cost += count
        return cost

    def _admit(self, left: int, step: Step) -> None:
        """Give waiting sequences a slot, with what is known of their beginning already in it."""
        if not self.waiting:  # most steps: nothing to be compared with what all others are computing
            return
        coming = {key for sequence in self.running for key in _coming(sequence)}
        for sequence in list(self.waiting):
            if left <= 0 or len(self.running) == self.max_sequences:
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
            coming.update(_coming(sequence))
            self.prompt_tokens += len(sequence.ids)
            self.known_tokens += known * BLOCK
            left -= self._fill(sequence, left, step)

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
