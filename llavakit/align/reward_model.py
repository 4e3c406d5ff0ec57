"""A reward model at work: conversations in, a number for each of their last answers.

It has a tower, a tokenizer and rules for pictures of its own: what the policy looks like makes no difference to it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import Batch
from llavakit.data.encode import Encoder, Sample
from llavakit.data.pack import collate, pack_rows
from llavakit.data.records import FAULTS
from llavakit.engine.decoder import Kernels, Weights, fuse
from llavakit.engine.engine import Engine
from llavakit.model.card import Card
from llavakit.model.checkpoint import load
from llavakit.model.directory import load_card
from llavakit.model.llava import Llava
from llavakit.text.conversation import Conversation
from llavakit.text.grading import Grading
from llavakit.text.tokenizer import Tokenizer

ROW_TOKENS = 4096  # of one packed row; more where the answers to one prompt need more
WINDOW = 64  # prompts whose pictures are in memory at once


@dataclass(frozen=True)
class Unscorable:
    """Why an answer has no score: never 0 in its place, which would teach something."""

    reason: str


Score = float | Unscorable


def finite(value: float) -> Score:
    """A model's number as a score."""
    return value if math.isfinite(value) else Unscorable(f"the score is {value}")


@dataclass(frozen=True)
class _Group:
    """Answers to one prompt, encoded together: their places in what was asked."""

    places: list[int]
    sample: Sample
    tiles: list[Tensor]


class Rewards(Protocol):
    """Who computes them."""

    def rewards(self, batch: Batch) -> Tensor:
        """float32[A]: what a reward model makes of every answer of a packed row (`Encoder.encode_graded`)."""
        ...


R = TypeVar("R", bound=Rewards, covariant=True)


class RewardModel(Generic[R]):
    """Scores answers through the encoder it was taught with."""

    def __init__(self, engine: R, encoder: Encoder, grading: Grading) -> None:
        self.engine, self.encoder, self.grading = engine, encoder, grading

    def scores(
        self, conversations: Sequence[Conversation], facts: Sequence[Sequence[str]] | None = None
    ) -> list[Score]:
        """A score for each conversation's last answer; what cannot be read or is too long has none.

        `facts` are what is known about each one's pictures. Neighbours that differ in their last answer alone are
        computed as one: prompt and pictures once. ConfigError for facts that the model's prompt has no place for.
        """
        known = facts or [()] * len(conversations)
        if any(known) and not self.grading.has_place:
            raise ConfigError(
                "the reward model's prompt has no place for facts; withhold them (facts: false)"
            )
        found: dict[int, Score] = {}
        together = list(_neighbours(conversations, known))
        for start in range(0, len(together), WINDOW):
            window = together[start : start + WINDOW]
            self._score(
                [g for places in window for g in self._read(conversations, known, places, found)], found
            )
        return [found[at] for at in range(len(conversations))]

    @property
    def wants_facts(self) -> bool:
        """Whether it was taught with facts."""
        return self.grading.facts

    def close(self) -> None:
        """Holds nothing but the model."""

    def _read(
        self,
        talks: Sequence[Conversation],
        facts: Sequence[Sequence[str]],
        places: list[int],
        found: dict[int, Score],
    ) -> list[_Group]:
        """Encoded together; where that fails each on its own, as one of them may be at fault."""
        try:
            sample = self.encoder.encode_graded([talks[at] for at in places], self.grading, facts[places[0]])
            return [_Group(places, sample, [media.tiles() for media in sample.media])]
        except (DataError, *FAULTS) as error:
            if len(places) == 1:
                found[places[0]] = Unscorable(str(error))
                return []
        return [group for at in places for group in self._read(talks, facts, [at], found)]

    def _score(self, groups: list[_Group], found: dict[int, Score]) -> None:
        lengths = [group.sample.num_inputs for group in groups]
        for row in pack_rows(lengths, max([ROW_TOKENS, *lengths])):
            chosen = [groups[at] for at in row]
            batch = collate([g.sample for g in chosen], [tiles for g in chosen for tiles in g.tiles])
            places = [at for group in chosen for at in group.places]
            found |= zip(places, map(finite, self.engine.rewards(batch).tolist()), strict=True)


def open_reward_model(
    path: str | Path,
    *,
    template_name: str | None = None,
    rope_factor: float | None = None,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
) -> RewardModel[Engine]:
    """The reward model of a run or a directory. CheckpointError and ConfigError for what is none.

    Template and stretched positions as for `load`; `weights` and `kernels` are the engine's (docs/engine.md).
    """
    card = load_card(Path(path), template_name)
    if card.grading is None:
        raise ConfigError(
            f"{path} is no reward model; make one of it: llavakit train reward model.start={path} data.files=PAIRS"
        )
    loaded = load(Path(path), template_name=template_name, rope_factor=rope_factor)
    if torch.cuda.is_available():
        loaded.model.cuda()
    encoder = encoder_of(loaded.model, loaded.tokenizer, card)
    decoder = fuse(loaded.model, weights, kernels=kernels, release=True)
    engine = Engine(loaded.model, frozenset(), tokenizer=loaded.tokenizer, decoder=decoder)
    return RewardModel(engine, encoder, card.grading)


def encoder_of(model: Llava, tokenizer: Tokenizer, card: Card) -> Encoder:
    """What encodes for a reward model by its card."""
    return Encoder(
        tokenizer, card.prompt(), card.image, card.video, context=model.context, stretched=model.stretched
    )


def _neighbours(conversations: Sequence[Conversation], facts: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Places of conversations that follow each other, with one prompt and the same facts."""
    group: list[int] = []
    for at, talk in enumerate(conversations):
        if group:
            first = group[0]
            same = talk.messages[:-1] == conversations[first].messages[:-1]
            if not same or list(facts[at]) != list(facts[first]):
                yield group
                group = []
        group.append(at)
    if group:
        yield group
