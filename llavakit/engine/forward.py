"""One step as a forward of the model: what its rows are, and what is left of it when it fails.

Shape letters: T rows of the step, S sequences that speak, D decoder width, V vocabulary.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from llavakit.engine.buckets import Buckets, Record
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import Decoder
from llavakit.engine.fault import Boundary, report
from llavakit.engine.features import FeatureCache
from llavakit.engine.layout import Forks
from llavakit.engine.step import Sequence, Step
from llavakit.model.llava import Llava


@dataclass(frozen=True)
class Spoken:
    """What a step gave: the scores of the next token of each of `speaking`, and whom it failed for."""

    speaking: list[Sequence]
    logits_SV: Tensor
    failed: list[tuple[Sequence, Exception]]


class Forward:
    """Runs steps. An error costs the sequence it comes from: a step that fails is taken again, one by one."""

    def __init__(
        self, model: Llava, decoder: Decoder, features: FeatureCache, record: Record | None = None
    ) -> None:
        """`record`: how steps in which everybody decodes are recorded (buckets.py); None: they are not."""
        self.model, self._decoder, self._features = model, decoder, features
        self._device = model.device
        self._buckets = None if record is None else Buckets(model, decoder, record)

    def forget(self) -> None:
        """Recordings of a model whose weights are others now."""
        if self._buckets is not None:
            self._buckets.forget()

    def run(self, step: Step, cache: SlotCache) -> Spoken:
        """Compute a step. The slots of the sequences that it did not fail for have grown by it."""
        with Boundary() as whole:
            return self._run(step, cache)
        assert whole.error is not None
        sequences = step.sequences
        if len(sequences) == 1:
            return Spoken([], torch.empty(0), [(sequences[0], whole.error)])
        report("a step failed and is taken again, one sequence at a time", whole.error)
        whole.error.__traceback__ = None  # its frames hold the memory that may have been too much
        return _together([self._run_alone(sequence, step, cache) for sequence in sequences])

    def _run_alone(self, sequence: Sequence, step: Step, cache: SlotCache) -> Spoken:
        part = step.of(sequence)
        if not all(fill.can_run for fill in part.filling.values()):
            # Whom it begins like has failed: with the next step it begins itself.
            return Spoken([], torch.empty(0), [])
        with Boundary() as own:
            return self._run(part, cache)
        assert own.error is not None
        return Spoken([], torch.empty(0), [(sequence, own.error)])

    def _run(self, step: Step, cache: SlotCache) -> Spoken:
        self._see(step)
        if not step.decoding and not step.filling:
            return Spoken([], torch.empty(0), [])
        if self._buckets is not None and step.decoding and not step.filling:
            tokens = [sequence.ids[-1] for sequence in step.decoding]
            logits_SV = self._buckets.logits(tokens, cache.answering)
            if logits_SV is not None:
                return Spoken(list(step.decoding), logits_SV, [])
        chunks = [(slot, fill.count) for fill in step.filling.values() if (slot := fill.sequence.slot)]
        layout = cache.step(chunks, _forks(step), decode=bool(step.decoding))
        speaking, rows = _speaking(step)
        last_S = torch.tensor(rows, dtype=torch.long, device=self._device)
        hidden_SD = self._decoder(self._embed(step), self._positions(step), layout, layout, last_S)
        logits_SV = self._decoder.logits(hidden_SD) if speaking else torch.empty(0)
        layout.finish()
        return Spoken(speaking, logits_SV, [])

    def _see(self, step: Step) -> None:
        """More tiles for those who look; the rows of what is known by then for all whose prompts come in."""
        if not step.looking and not step.filling:
            return
        needed = [
            (sequence, key)
            for sequence in step.prompts
            for key, _, _ in sequence.request.unseen(step.start(sequence), sequence.seen)
        ]
        self._take(needed, {})  # first: what comes in may drive out what is known
        for look in step.looking:
            self._features.begin(look.key, look.media, look.sequence.request.tiles.get(look.key))
        fresh = self._features.advance([(look.key, look.tiles) for look in step.looking])
        self._take(needed, fresh)

    def _take(self, needed: Many[tuple[Sequence, bytes]], fresh: Mapping[bytes, Tensor]) -> None:
        for sequence, key in needed:
            rows_SD = fresh[key] if key in fresh else self._features.find(key)
            if rows_SD is not None:
                sequence.seen[key] = rows_SD

    def _embed(self, step: Step) -> Tensor:
        """x_TD of a step's rows."""
        ids = [sequence.ids[-1] for sequence in step.decoding]
        slots: list[int] = []
        pictures: list[Tensor] = []
        for sequence, fill in step.filling.items():
            start, end = fill.start, fill.end
            places, rows = sequence.request.rows_between(start, end, sequence.seen)
            slots += [len(ids) + place - start for place in places]
            pictures += rows
            ids += [max(token, 0) for token in sequence.ids[start:end]]  # IMAGE_ID is no row of the table
        x_TD: Tensor = self.model.language.get_input_embeddings()(torch.tensor(ids, device=self._device))
        if slots:
            x_TD[torch.tensor(slots, device=x_TD.device)] = torch.cat(pictures).to(x_TD.dtype)
        return x_TD

    def _positions(self, step: Step) -> Tensor:
        positions = [sequence.done for sequence in step.decoding]
        for fill in step.filling.values():
            positions += range(fill.start, fill.end)
        return torch.tensor(positions, device=self._device)


def _together(parts: Many[Spoken]) -> Spoken:
    return Spoken(
        [sequence for part in parts for sequence in part.speaking],
        torch.cat([part.logits_SV for part in parts]),
        [fault for part in parts for fault in part.failed],
    )


def _speaking(step: Step) -> tuple[list[Sequence], list[int]]:
    """The sequences that will have said all they know after this step, and each one's last row."""
    speaking, rows = list(step.decoding), list(range(len(step.decoding)))
    row = len(rows)
    for sequence, fill in step.filling.items():
        row += fill.count
        if fill.end == len(sequence.ids):
            speaking.append(sequence)
            rows.append(row - 1)
    return speaking, rows


def _forks(step: Step) -> Forks:
    """The slots that begin as others do."""
    return {
        slot: (other, fill.start)
        for fill in step.filling.values()
        if (slot := fill.sequence.slot) and fill.fork and (other := fill.fork.slot)
    }
