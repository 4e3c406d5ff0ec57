"""What annotators are asked: pairs out of any preference file, or out of a file of rollouts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.align.rollouts import FIELD, file_media
from llavakit.core.errors import DataError
from llavakit.data.dialects.judged import Verdict
from llavakit.data.dialects.messages import TALK, write_messages
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.records import ADVICE, Record
from llavakit.data.votes import Asked, name_item
from llavakit.text.conversation import Conversation, Medium


@dataclass(frozen=True)
class Item:
    """A pair to be judged. Its answers are in an order that is drawn from what they say: a number tells nothing."""

    name: str
    prompt: Conversation  # ends with a question
    asked: Asked
    known: Verdict | None  # what the file says of the two; of a gold item, what is right

    @property
    def media(self) -> tuple[Medium, ...]:
        return self.prompt.media


@dataclass(frozen=True)
class Found:
    """The items of some files, and why other records are none."""

    items: list[Item]
    left_out: list[str]


def read_items(files: list[Path], images: Path | None, folder: Path, unread: Sequence[str] = ()) -> Found:
    """Every pair of the files once, in their order; media that are bytes become files in `folder`/media.

    Of K rollouts of a prompt the first two are a pair, the third and the fourth the next, and so on.
    """
    items: dict[str, Item] = {}
    left_out: list[str] = []
    before: dict[tuple[Path, int], Record] = {}  # rollouts that wait for another one of their prompt
    for record in Mixture(list_sources(files, images), seed=0, unread=list(unread)):
        try:
            for item in _items_of(record, before, folder):
                if item.name in items:
                    raise record.error(f"the same pair as {items[item.name].asked.source}")
                items[item.name] = item
        except DataError as error:
            left_out.append(str(error).removesuffix(ADVICE))
    left_out += [f"{record.name}: an answer without a second one to its prompt" for record in before.values()]
    return Found(list(items.values()), left_out)


def read_gold(files: list[Path], images: Path | None, folder: Path) -> Found:
    """The pairs of the files of which it is known what is right."""
    found = read_items(files, images, folder)
    unknown = [
        f"{item.asked.source}: it does not say what is right" for item in found.items if not item.known
    ]
    return Found([item for item in found.items if item.known], [*found.left_out, *unknown])


def _items_of(record: Record, before: dict[tuple[Path, int], Record], folder: Path) -> Iterator[Item]:
    """The pair of a record, or of a rollout with the one that waited for it."""
    if not isinstance(record.raw, dict) or FIELD not in record.raw:
        found = record.alternatives()
        answers = [talk.messages[-1].text for talk in (found.first, found.second)]
        prompt = Conversation(found.first.messages[:-1])
        yield _make_item(record, prompt, answers, found.verdict, found.rest, folder)
        return
    facts = record.raw[FIELD]
    if not isinstance(facts, dict) or not isinstance(facts.get("text"), str) or "group" not in facts:
        raise record.error(f"{FIELD!r} is no answer of a model: it has no 'text' and 'group'")
    first = before.pop((record.path, facts["group"]), None)
    if first is None:
        before[record.path, facts["group"]] = record
        return
    answers = [first.raw[FIELD]["text"], facts["text"]]
    if answers[0].strip() == answers[1].strip():
        raise record.error(f"the same answer as {first.name}")
    prompt, _ = first.read()
    yield _make_item(first, prompt, answers, None, {"rollouts": [first.name, record.name]}, folder)


def _make_item(
    record: Record,
    prompt: Conversation,
    answers: list[str],
    verdict: Verdict | None,
    extra: dict[str, Any],
    folder: Path,
) -> Item:
    for medium in prompt.media:
        if isinstance(medium.source, Path) and not medium.source.exists():
            raise record.error(f"not found: {medium.source}")
    try:
        messages = write_messages(file_media(prompt, folder), folder)[TALK]
    except DataError as error:
        raise record.error(error.what) from None
    name = name_item(messages, answers)
    ordered = sorted(answers, reverse=bool(int(name, 16) & 1))
    if ordered != answers and verdict in (1, 2):
        verdict = 2 if verdict == 1 else 1
    return Item(name, prompt, Asked(messages, ordered, record.name, extra), verdict)
