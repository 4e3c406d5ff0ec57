"""Records as a reward model sees them: answers to one prompt, each with the turn that asks to grade it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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

    def describe(self) -> list[str]:
        """All that decides what it puts there."""
        return [repr(self.grading), "" if self.facts is None else repr(self.facts.config), str(self.seed)]

    def encode(self, encoder: Encoder, record: Record, talks: Sequence[Conversation]) -> Sample:
        """One sample with a leaf an answer. DataError where the record has no facts."""
        facts: Sequence[str] = ()
        if self.facts is not None:
            facts = self._shuffled(self.facts.of(talks[0], record.raw), talks)
        return encoder.encode_graded(talks, self.grading, facts)

    def _shuffled(self, facts: Sequence[str], talks: Sequence[Conversation]) -> list[str]:
        """In an order drawn by the seed and what is said, so that no place in the list means anything."""
        said = "\0".join(message.text for talk in talks for message in talk.messages)
        key = int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        order = np.random.default_rng([self.seed, key]).permutation(len(facts))
        return [facts[at] for at in order]
