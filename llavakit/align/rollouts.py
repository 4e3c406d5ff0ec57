"""Rollouts: what a model answered to the prompts of a step, as it was sampled. Files that can be replayed exactly.

A line is a record of the `messages` dialect (the prompt; pictures by their paths) with a field `rollout` beside it.
An answer that called tools has several turns: all tokens of the model stand in one list, and what came back between
them in `exchanges`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from llavakit.align.exchanges import Exchange, read_exchange, write_exchange
from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.data.dialects.messages import write_messages
from llavakit.data.dialects.writing import comparable
from llavakit.data.records import Record, read_records
from llavakit.text.conversation import Conversation, Message, Part, Text

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
FIELD, MEDIA = "rollout", "media"


@dataclass(frozen=True)
class Rollout:
    """One sampled answer of a model, and what is known about its prompt."""

    key: str  # the record's name, file:line
    group: int  # number of the prompt in the step; its answers are compared with each other
    choice: int  # 0..K-1, which of the prompt's answers it is
    prompt: Conversation  # ends with a question
    reference: str  # the record's own answer, "" if it has none
    ids: tuple[int, ...]  # generated, with the end token if it came
    logprobs: tuple[float, ...]  # of each of them by the sampler, at temperature 1
    text: str  # stripped, without the end
    finish: str  # "stop", or "length": cut at the limit
    facts: tuple[str, ...] = ()  # what a reward may know about the picture, as captions
    extra: Mapping[str, JSON] = field(default_factory=dict)  # the record's other fields, as caption_type
    exchanges: tuple[Exchange, ...] = ()  # turns before the last one, in order; `text` is the last one's
    counts: Mapping[str, float] = field(
        default_factory=dict
    )  # what who sampled it counted, as calls of tools

    @property
    def own(self) -> tuple[tuple[int, ...], ...]:
        """The model's tokens turn by turn."""
        ends = [0, *accumulate(each.tokens for each in self.exchanges), len(self.ids)]
        return tuple(self.ids[start:end] for start, end in pairwise(ends))


def write_rollouts(
    path: Path, rollouts: Sequence[Rollout], beside: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write a line for each, the whole file at once. DataError for a prompt that would not read back the same.

    `beside` has further fields for each line. A picture that is no file yet (of a table or an archive) becomes one,
    once, in `media/` beside the file.
    """
    prompts: dict[int, dict[str, Any]] = {}
    for each in rollouts:
        if each.group not in prompts:
            prompts[each.group] = _record(each, path)
    rows = [prompts[each.group] | {FIELD: _facts(each, path)} for each in rollouts]
    for row, more in zip(rows, beside or (), strict=beside is not None):
        row |= more
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of a file, in order. DataError, with file:line, for a line that is none."""
    return [rollout for rollout, _ in read_lines(path)]


def read_lines(path: Path) -> Iterator[tuple[Rollout, dict[str, Any]]]:
    """Each rollout of a file, with the fields beside it."""
    names = Rollout.__dataclass_fields__.keys() - {"prompt"}
    for record in read_records(path):
        prompt, rest = record.read()
        facts = rest.get(FIELD)
        if not isinstance(facts, dict) or facts.keys() != names:
            raise record.error(f"no rollout: {FIELD!r} must be an object of {', '.join(sorted(names))}")
        lists = {name: tuple(facts[name]) for name in ("ids", "logprobs", "facts")}
        try:
            lists["exchanges"] = tuple(read_exchange(each, path.parent) for each in facts["exchanges"])
        except DataError as error:
            raise record.error(error.what) from None
        yield Rollout(prompt=prompt, **(facts | lists)), rest


def _record(rollout: Rollout, path: Path) -> dict[str, Any]:
    """The prompt as a record of the file."""
    try:
        prompt = file_media(rollout.prompt, path.parent)
        raw = write_messages(prompt, path.parent)
        if comparable(Record(raw, path, 0, path.parent).conversation()) != comparable(prompt):
            raise DataError("read again it is another conversation")
    except DataError as error:
        raise DataError(f"{rollout.key}: its prompt cannot be kept in {path}: {error.what}") from None
    return raw


def _facts(rollout: Rollout, path: Path) -> dict[str, Any]:
    """Everything but the prompt."""
    found = {name: value for name, value in vars(rollout).items() if name != "prompt"}
    exchanges = [
        write_exchange(replace(each, reply=_filed(each.reply, path.parent)), path.parent)
        for each in rollout.exchanges
    ]
    return found | {"extra": dict(rollout.extra), "counts": dict(rollout.counts), "exchanges": exchanges}


def file_media(prompt: Conversation, folder: Path) -> Conversation:
    """The prompt with every picture and video that is bytes as a file in the folder's `media`, named by content."""
    return Conversation(tuple(_filed(each, folder) for each in prompt.messages))


def _filed(message: Message, folder: Path) -> Message:
    return replace(message, parts=tuple(_filed_part(part, folder) for part in message.parts))


def _filed_part(part: Part, folder: Path) -> Part:
    if isinstance(part, Text) or not isinstance(part.source, bytes):
        return part
    file = folder / MEDIA / blake2b(part.source, digest_size=16).hexdigest()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".writing")
        draft.write_bytes(part.source)
        draft.replace(file)
    return replace(part, source=file)
