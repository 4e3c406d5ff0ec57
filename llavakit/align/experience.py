"""Experience: answers with their scores and what the learner found about each of their tokens, as rows to learn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llavakit.align.rollouts import Rollout, read_lines, write_rollouts
from llavakit.core.types import Batch, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate, pack_rows
from llavakit.text.conversation import Message


@dataclass(frozen=True)
class Experience:
    """An answer to be learned from."""

    rollout: Rollout
    scores: Mapping[str, float | None]  # by term, and `total`; None: unscorable
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # a number for each of its tokens

    def with_columns(self, columns: Mapping[str, Sequence[float]]) -> "Experience":
        """With further columns, or others in their place."""
        more = {name: tuple(column) for name, column in columns.items()}
        return replace(self, columns={**self.columns, **more})


@dataclass(frozen=True)
class Row:
    """Samples that are packed together, and which experience each of their leaves is, in order."""

    samples: list[Sample]
    places: list[int]


def write_experiences(path: Path, experiences: Sequence[Experience]) -> None:
    """A file of rollouts with scores and columns beside them: all that learning from them again needs."""
    beside: list[Mapping[str, Any]] = [
        {"scores": dict(each.scores), "columns": dict(each.columns)} for each in experiences
    ]
    write_rollouts(path, [each.rollout for each in experiences], beside)


def read_experiences(path: Path) -> list[Experience]:
    """What `write_experiences` wrote, number for number."""
    return [
        Experience(rollout, rest["scores"]).with_columns(rest["columns"])
        for rollout, rest in read_lines(path)
    ]


def spoken(rollout: Rollout, encode_reply: Callable[[Message], Sample]) -> Sample:
    """An answer as it goes on from its prompt: the model's own tokens count 1, what came between them 0."""
    own = rollout.own
    parts = [_own(own[0])]
    for exchange, ids in zip(rollout.exchanges, own[1:], strict=True):
        parts += [encode_reply(exchange.reply), _own(ids)]
    return go_on(parts)


def go_on(parts: Sequence[Sample]) -> Sample:
    """Samples of one segment each as one that says them one after the other."""
    ids = tuple(token for part in parts for token in part.ids)
    weights = tuple(weight for part in parts for weight in part.weights)
    media = tuple(each for part in parts for each in part.media)
    return Sample(ids, weights, (Segment(0, len(ids)),), media)


def _own(ids: Sequence[int]) -> Sample:
    return Sample(tuple(ids), (1.0,) * len(ids), (Segment(0, len(ids)),))


def answered(prompt: Sample, answers: Sequence[Sample]) -> Sample:
    """The prompt, with each of the answers as a child of it; of the prompt nothing is learned."""
    ids, weights, segments = list(prompt.ids), [0.0] * prompt.num_tokens, [Segment(0, prompt.num_tokens)]
    for answer in answers:
        segments.append(Segment(len(ids), len(ids) + answer.num_tokens, 0))
        ids += answer.ids
        weights += answer.weights
    media = (*prompt.media, *(each for answer in answers for each in answer.media))
    return Sample(tuple(ids), tuple(weights), tuple(segments), media)


def plan_rows(
    experiences: Sequence[Experience],
    encode: Callable[[Rollout], Sample],
    encode_reply: Callable[[Message], Sample],
    budget: int,
) -> list[Row]:
    """Packed rows of at most `budget` tokens; the answers to a prompt share it, as far as they fit one row."""
    parts: list[tuple[Sample, list[int]]] = []
    for _, members in groupby(range(len(experiences)), lambda at: experiences[at].rollout.group):
        places = list(members)
        prompt = encode(experiences[places[0]].rollout)
        answers = {at: spoken(experiences[at].rollout, encode_reply) for at in places}
        for chosen in _fill(places, [answers[at].num_tokens for at in places], prompt, budget):
            parts.append((answered(prompt, [answers[at] for at in chosen]), chosen))
    rows = pack_rows([sample.num_inputs for sample, _ in parts], budget)
    return [
        Row([parts[at][0] for at in row], [place for at in row for place in parts[at][1]]) for row in rows
    ]


def _fill(places: list[int], sizes: list[int], prompt: Sample, budget: int) -> Iterator[list[int]]:
    """The answers of a group, as many together as fit beside the prompt; each has a token that is not read."""
    chosen: list[int] = []
    used = prompt.num_tokens
    for place, size in zip(places, sizes, strict=True):
        if chosen and used + size - 1 > budget:
            yield chosen
            chosen, used = [], prompt.num_tokens
        chosen.append(place)
        used += size - 1
    yield chosen


def make_batch(row: Row, experiences: Sequence[Experience], show: Callable[[Media], Tensor]) -> Batch:
    """The row's batch, with the columns of its answers. `show` gives a medium's tiles, or what the tower gives."""
    tiles = [show(media) for sample in row.samples for media in sample.media]
    found = [experiences[place].columns for place in row.places]
    columns = {name: torch.tensor([value for each in found for value in each[name]]) for name in found[0]}
    return replace(collate(row.samples, tiles), columns=columns)


def split_columns(batch: Batch, names: Sequence[str]) -> tuple[Batch, Batch]:
    """The row with these columns alone, and with all others."""
    chosen = {name: batch.columns[name] for name in names}
    others = {name: column for name, column in batch.columns.items() if name not in chosen}
    return replace(batch, columns=chosen), replace(batch, columns=others)
