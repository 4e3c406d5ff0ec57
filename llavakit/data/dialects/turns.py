"""What dialects share: who speaks, what an answer counts, and where the media of a list stand in the text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.reader import Fields
from llavakit.text.conversation import Conversation, Medium, Message, Part, Role, Text
from llavakit.vision.kinds import Sort

PLACEHOLDER = re.compile("<(image|video)>")
SURROGATE = re.compile("[\ud800-\udfff]")
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "developer": "system",
}
TOOL_ROLES = frozenset(
    ("tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython")
)
WEIGHTS = ("weight", "loss", "train")  # OpenAI's, ms-swift's and Axolotl's name for what an answer counts


@dataclass(frozen=True)
class Placeholder:
    """The place of the next medium of a list."""

    sort: Sort


@dataclass(frozen=True)
class Turn:
    """A message as its dialect has it. Marks in a user's text are still text."""

    role: Role
    pieces: tuple[str | Medium | Placeholder, ...]
    weight: float = 1.0

    @property
    def text(self) -> str:
        return "".join(piece for piece in self.pieces if isinstance(piece, str))


@dataclass
class Lane:
    """Media of one list, dealt out to the placeholders of their sort."""

    what: str  # in messages
    media: Sequence[Medium]
    asked: int = 0  # placeholders found so far

    def deal(self) -> list[Medium]:
        """The next medium, or nothing where the list has come to its end."""
        found = list(self.media[self.asked : self.asked + 1])
        self.asked += 1
        return found


def text_of(turn: Fields, key: str, text: str, role: Role) -> str:
    """The text itself, if a tokenizer can take it and if an answer says something."""
    if role == "assistant" and not text.strip():
        raise DataError(f"{turn.at(key)} is an empty answer", kind="answer")
    if not text.isascii() and SURROGATE.search(text):
        raise DataError(f"{turn.at(key)} holds half a character (a lone surrogate)")
    return text


def role_of(turn: Fields, key: str) -> Role:
    """Who speaks. Calls of tools and their results are no part of a conversation yet."""
    speaker = turn.get(key)
    if isinstance(speaker, str) and speaker in ROLES:
        return ROLES[speaker]
    if isinstance(speaker, str) and speaker in TOOL_ROLES:
        raise DataError(
            f"{turn.at(key)} is {speaker!r}: calls of tools and their results are not read", kind="unread"
        )
    raise DataError(f"{turn.at(key)} is {shorten(repr(speaker))}; valid: {', '.join(ROLES)}")


def weight_of(turn: Fields, role: Role) -> float:
    """What an answer counts in the loss: 1 unless the turn says otherwise."""
    if turn.raw.keys().isdisjoint(WEIGHTS):  # nearly always
        return 1.0
    names = [name for name in WEIGHTS if turn.get(name) is not None]
    if not names:
        return 1.0
    said = {turn.at(name): turn.get(name) for name in names}
    for name, value in said.items():
        if not isinstance(value, bool | int | float) or not math.isfinite(value) or value < 0:
            raise DataError(f"{name} is {shorten(repr(value))}; it must be true, false or a number from 0")
        if role != "assistant" and value:
            raise DataError(f"{name} is {value}: only answers are learned", kind="unread")
    if len(set(map(float, said.values()))) > 1:
        raise DataError(f"{' and '.join(said)} do not say the same")
    return float(next(iter(said.values()))) if role == "assistant" else 1.0


def with_system(turns: list[Turn], top: Fields) -> list[Turn]:
    """The turns with what `system` beside them says in front."""
    text = top.get("system")
    if text is None or text == "":
        return turns
    if not isinstance(text, str):
        raise DataError(f"system must be a text, found {type(text).__name__}")
    if turns and turns[0].role == "system":
        if turns[0].text != text:
            raise DataError("'system' and the first message are two different system texts")
        return turns
    return [Turn("system", (text,)), *turns]


def compose_listed(turns: Sequence[Turn], images: Sequence[Medium], videos: Sequence[Medium]) -> Conversation:
    """The conversation with media where the placeholders are: `<image>` for one list, `<video>` for the other.

    Media without any placeholder stand in front of the first question, as TRL and ms-swift put them.
    """
    lanes = {"image": Lane("image", images)}
    if videos or any(Placeholder("video") in turn.pieces for turn in turns):
        lanes["video"] = Lane("video", videos)
    return compose(turns, lanes, in_front=True)


def compose(turns: Sequence[Turn], lanes: dict[str, Lane], *, in_front: bool) -> Conversation:
    """The conversation with each placeholder of a sort in `lanes` replaced by the next medium of its lane."""
    messages: list[Message] = []
    for turn in turns:
        if turn.role != "user":
            if any(not isinstance(piece, str) for piece in turn.pieces):
                raise DataError(f"a picture or video stands in a message of the {turn.role}")
            messages.append(Message(turn.role, (Text(turn.text),), turn.weight))
            continue
        parts: list[Part] = []
        for piece in turn.pieces:
            if isinstance(piece, str):
                parts += _cut(piece, lanes)
            else:
                parts += lanes[piece.sort].deal() if isinstance(piece, Placeholder) else [piece]
        messages.append(Message("user", tuple(parts)))
    front: list[Part] = []
    for sort, lane in lanes.items():
        if in_front and not lane.asked:
            front += lane.media
        elif lane.asked != len(lane.media):
            what = f"{lane.asked} <{sort}> placeholder(s) in the text but {len(lane.media)} {lane.what}(s) listed"
            raise DataError(what, kind="placeholders")
    return Conversation(tuple(_in_front(messages, front) if front else messages))


def _in_front(messages: list[Message], front: list[Part]) -> list[Message]:
    at = next((number for number, message in enumerate(messages) if message.role == "user"), None)
    if at is None:
        raise DataError("there is no question for the pictures or videos", kind="placeholders")
    first = Message("user", (*front, *messages[at].parts))
    return [*messages[:at], first, *messages[at + 1 :]]


def _cut(text: str, lanes: dict[str, Lane]) -> list[Part]:
    """A text as texts and media; placeholders of other sorts stay text."""
    parts: list[Part] = []
    begin = 0
    for found in PLACEHOLDER.finditer(text):
        if found[1] in lanes:
            parts += [Text(text[begin : found.start()])] * (begin < found.start())
            parts += lanes[found[1]].deal()
            begin = found.end()
    return [*parts, Text(text[begin:])] if begin < len(text) else parts
