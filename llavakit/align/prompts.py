"""Prompts: the data's questions, each with what rewards may know about it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llavakit.align.pictures import Pictures
from llavakit.align.rollouts import JSON
from llavakit.core.errors import DataError
from llavakit.data.encode import Sample
from llavakit.data.loader import Loader
from llavakit.data.records import FAULTS, Record
from llavakit.text.conversation import Conversation

Tell = Callable[[Conversation], Conversation]
FACTS = ("facts", "captions")  # fields of a record that tell what its picture shows


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer."""

    key: str  # the record's name
    asked: Conversation  # what the record asks
    talk: Conversation  # how the model is asked it
    reference: str  # the record's own answer
    facts: tuple[str, ...]
    extra: Mapping[str, JSON]
    sample: Sample  # ready to generate from


def as_it_is(talk: Conversation) -> Conversation:
    """The model is asked what the record asks, in its words."""
    return talk


class Prompts:
    """The questions of a loader's records, in its order, for ever."""

    def __init__(self, loader: Loader, room: int, pictures: Pictures, tell: Tell = as_it_is) -> None:
        """`room` is for answers: so many tokens of them must fit a row of `data.tokens` with their prompt.

        `tell` makes of what a record asks how the model is asked it.
        """
        self.loader, self.room, self.pictures, self.tell = loader, room, pictures, tell

    def take(self, start: int, count: int, rank: int, ranks: int) -> Iterator[tuple[int, Prompt]]:
        """(place among the `count` records from number `start` on, prompt) of this rank's share of them.

        A record that cannot be asked is an error, or left out and listed, as `data.on_bad` says.
        """
        records = islice(self.loader.in_order(start), count)
        for place, (epoch, record) in enumerate(records):
            if place % ranks != rank:
                continue
            try:
                yield place, self._prompt(record, epoch)
            except DataError as error:
                self.loader.reject(error)

    def _prompt(self, record: Record, epoch: int) -> Prompt:
        talk, rest = record.read()
        if self.loader.config.turns == "independent" and talk.messages[-1].role == "assistant":
            turns = talk.turns()
            talk = turns[epoch % len(turns)]  # another of its questions in each epoch
        *before, last = talk.messages
        reference = last.text if last.role == "assistant" else ""
        asked = Conversation(tuple(before)) if last.role == "assistant" else talk
        if not asked.messages or asked.messages[-1].role != "user":
            raise record.error("there is no question to be answered")
        try:
            talk = self.tell(asked)
            sample = self.loader.encoder.encode(talk, open_turn=True, plan=self.pictures.plan)
            for media in sample.media:
                self.loader.tiles(
                    media
                )  # what cannot be decoded is this record's fault, and not the engine's
        except (DataError, *FAULTS) as error:
            raise record.blame(error) from None
        most = sample.num_tokens + self.room
        if most > self.loader.config.tokens:
            raise record.error(
                f"{sample.num_tokens} tokens and {self.room} of answers (policy.max_tokens) do not fit "
                f"data.tokens={self.loader.config.tokens}"
            )
        return Prompt(record.name, asked, talk, reference, _facts(record, rest), rest, sample)


def _facts(record: Record, rest: Mapping[str, Any]) -> tuple[str, ...]:
    name = next((name for name in FACTS if rest.get(name)), None)
    if name is None:
        return ()
    found = rest[name]
    if not isinstance(found, list) or not all(isinstance(fact, str) for fact in found):
        raise record.error(f"'{name}' must be a list of texts")
    return tuple(found)
