"""Who runs in the next step: decoding sequences always, then prompts as far as the step's tokens and memory go.

A tile that goes through the tower counts as the tokens that would cost the decoder as much. What a prompt begins
with is not computed again: it is forked from one that runs, to the token, or copied in blocks that others left.

Nothing here touches the model. A sequence waits, is filled (its prompt goes through in chunks), decodes, and ends;
when memory runs out the youngest goes back to waiting, and is filled again later with what it has said.
"""

from collections import deque

from llavakit.engine.beginnings import Beginnings
from llavakit.engine.cache import SlotCache
from llavakit.engine.features import FeatureCache
from llavakit.engine.prefix import BLOCK, extend_keys
from llavakit.engine.step import Fill, Look, Sequence, Step

PROMPTS = 4  # a quarter of a step is for prompts, whatever else runs


class Scheduler:
    """Sequences, first come first served."""

    def __init__(
        self, cache: SlotCache, features: FeatureCache, *, max_sequences: int, step_tokens: int
    ) -> None:
        self.cache, self.features = cache, features
        self.max_sequences, self.step_tokens = max_sequences, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self._beginnings = Beginnings()  # of those
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
                left -= self._fill(sequence, left, step, sequence.done)
        self._admit(left, step)
        # Last: a slot that is opened may move others, and their order is that of the step's rows.
        owners = {sequence.slot: sequence for sequence in self.running}
        step.decoding.extend(owners[slot] for slot in self.cache.decoding())
        return step

    def filled(self, sequence: Sequence) -> None:
        """A chunk went through: at the prompt's end it decodes."""
        assert sequence.slot is not None
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
        self._beginnings.remove(sequence)
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

    def _fill(
        self, sequence: Sequence, left: int, step: Step, start: int, fork: Sequence | None = None
    ) -> int:
        """Give a prompt its part of a step: tiles for the pictures it comes to, and tokens from `start` up to the
        next picture that is not seen then. What that costs, in tokens: the last tile may cost more than is left."""
        cost, ready = 0, len(sequence.ids)
        for key, media, first_slot in sequence.request.unseen(start, sequence.seen):
            planned = sum(look.tiles for look in step.looking if look.key == key)
            tiles = self.features.left(key, media) - planned
            some = min(tiles, -(-(left - cost) // self.features.tile_tokens))
            if some > 0:
                step.looking.append(Look(sequence, key, media, some))
                cost += some * self.features.tile_tokens
            if some < tiles:
                ready = first_slot
                break
        count = min(left - cost, ready - start)
        if count > 0:
            step.filling[sequence] = Fill(sequence, start, count, fork)
            cost += count
        return cost

    def _admit(self, left: int, step: Step) -> None:
        """Give waiting sequences a slot, with what is known of their beginning already in it."""
        for sequence in list(self.waiting):
            if left <= 0 or len(self.running) == self.max_sequences:
                break
            # The last token is always computed: its hidden state says what comes next.
            most = len(sequence.ids) - 1
            alike, there, source = self._source(sequence, most, step)
            keys = sequence.keys[: most // BLOCK]
            if there < alike > self.cache.prefixes.matching(keys) * BLOCK:
                continue  # somebody is computing what this one needs: it goes on from there afterwards
            slot = self.cache.open(len(sequence.ids))
            if slot is None:
                break
            sequence.slot = slot
            self.waiting.remove(sequence)
            self.running.append(sequence)
            known = self.cache.prefixes.matching(keys)  # making room may have cost some
            if known * BLOCK >= there:
                self.cache.prefixes.copy(keys[:known], slot)
                there, source = known * BLOCK, None
            left -= self._fill(sequence, left, step, there, source)
            if source is not None and source.slot is not None and sequence not in step.filling:
                there = min(there, source.done)  # a picture comes first
                slot.begin_like(source.slot, there)
            self._beginnings.add(sequence)
            self.prompt_tokens += len(sequence.ids)
            self.known_tokens += there

    def _source(self, sequence: Sequence, most: int, step: Step) -> tuple[int, int, Sequence | None]:
        """How many of `most` tokens one who runs begins with, how many of them it has after this step, and who."""
        best: tuple[int, int, Sequence | None] = (0, 0, None)
        for other, alike in self._beginnings.nearest(sequence):
            alike = min(alike, most)
            there = min(alike, step.reach(other))
            if (alike, there) > best[:2]:
                best = alike, there, other
        return best

    def all(self) -> list[Sequence]:
        """Every sequence that has not ended."""
        return [*self.running, *self.waiting]

    def reset(self, cache: SlotCache) -> list[Sequence]:
        """Begin anew with another cache; the sequences that had not ended."""
        left, self.cache = self.all(), cache
        self.running.clear()
        self._beginnings.clear()
        self.waiting.clear()
        return left
