"""Records as a reward model sees them: answers to one prompt, each with the turn that asks to grade it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llavakit.core.errors import DataError
from llavakit.data.encode import Encoder, Sample
from llavakit.data.facts import Facts
from llavakit.data.records import Record
from llavakit.text.conversation import Conversation
from llavakit.text.grading import Grading


@dataclass(frozen=True)
class Grader:
    """Puts the grading turn behind answers, with the record's facts in one order that all of them share."""

    grading: Grading
    facts: Facts | None  # None: without
    seed: int
    margin_field: str | None = None  # of a record: by how much the better answer shall win

    def describe(self) -> list[str]:
        """All that decides what it puts there."""
        return [repr(self.grading), "" if self.facts is None else repr(self.facts.config), str(self.seed)]

    def encode(self, encoder: Encoder, record: Record, talks: Sequence[Conversation]) -> Sample:
        """One sample with a leaf an answer, marked with the record's margin where there is a field for it.

        DataError where the record has no facts, or no number of that name.
        """
        facts: Sequence[str] = ()
        if self.facts is not None:
            facts = self._shuffled(self.facts.of(talks[0], record.raw), talks)
        sample = encoder.encode_graded(talks, self.grading, facts)
        if self.margin_field is None:
            return sample
        return replace(sample, marks=(self._margin(record),) * len(talks))

    def _margin(self, record: Record) -> float:
        margin = record.raw.get(self.margin_field)
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
            raise DataError(
                f"{self.margin_field!r} must be a number from 0 on (reward.margin_field), found {margin!r}"
            )
        return float(margin)

    def _shuffled(self, facts: Sequence[str], talks: Sequence[Conversation]) -> list[str]:
        """In an order drawn by the seed and what is said, so that no place in the list means anything."""
        said = "\0".join(message.text for talk in talks for message in talk.messages)
        key = int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        order = np.random.default_rng([self.seed, key]).permutation(len(facts))
        return [facts[at] for at in order]
