"""A conversation: messages made of text, images and videos. What every door (trainer, chat, server) speaks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

import PIL.Image

from llavakit.core.errors import DataError

ImageSource = Path | bytes | PIL.Image.Image
VideoSource = Path | bytes | tuple[ImageSource, ...]
S = TypeVar("S")
Role = Literal["system", "user", "assistant"]
IMAGE_TOKEN = "<image>"  # how data files and prompts write the place of an image or a video


@dataclass(frozen=True)
class Text:
    """Written by a person or a data set: special-token text inside it stays text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture: a file, the bytes of one, or an opened image."""

    source: ImageSource


@dataclass(frozen=True)
class Video:
    """A video: a file, the bytes of one, a directory of frames, or frames already in memory (a tuple)."""

    source: VideoSource


Medium = Image | Video
Part = Text | Medium


def words_digest(parts: Sequence[Part]) -> str:
    """A name for what is said: the texts and the places of media, not what media show."""
    words = [part.text if isinstance(part, Text) else "\0" for part in parts]
    return sha256("\1".join(words).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Message:
    role: Role
    parts: tuple[Part, ...]
    weight: float = 1.0  # what an answer counts in the loss; 0: it is read and not learned

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def media(self) -> tuple[Medium, ...]:
        """Images and videos, in order."""
        return tuple(part for part in self.parts if not isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images alone."""
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message, then user and assistant in turn."""

    messages: tuple[Message, ...]

    @property
    def media(self) -> tuple[Medium, ...]:
        """Images and videos of all messages, in order."""
        return tuple(medium for message in self.messages for medium in message.media)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images alone."""
        return tuple(medium for medium in self.media if isinstance(medium, Image))

    def turns(self) -> list["Conversation"]:
        """Every question with its answer as a conversation of its own.

        Each carries the system message and all images and videos, the latter in front of its question: what was
        said in other turns is not seen, so an earlier answer cannot give a later one away. A turn whose answer
        counts nothing would be of no use, and is left out.
        """
        system = tuple(message for message in self.messages if message.role == "system")
        talk = self.messages[len(system) :]
        pairs = zip(talk[::2], talk[1::2], strict=True)
        return [
            Conversation((*system, Message("user", (*self.media, Text(question.text.strip()))), answer))
            for question, answer in pairs
            if answer.weight
        ]


def learn_last_answer(conversation: Conversation) -> Conversation:
    """The conversation with all its answers but the last as something that is read and not learned."""
    *before, last = conversation.messages
    return Conversation((*read_only(Conversation(tuple(before))).messages, last))


def read_only(conversation: Conversation) -> Conversation:
    """The conversation with its answers as something that is read and not learned."""
    return Conversation(
        tuple(
            replace(message, weight=0.0) if message.role == "assistant" else message
            for message in conversation.messages
        )
    )


def move_media_front(conversation: Conversation) -> Conversation:
    """The conversation with all its images and videos in front of the first question.

    Where each stood its marker stays behind as ordinary text, so the words still say which one they speak of.
    NeXT-Interleave (arXiv 2407.07895) trained some samples so and left the others as they stood; which ones is for
    the caller to draw. A conversation without media is returned as it is.
    """
    asked = [number for number, message in enumerate(conversation.messages) if message.role == "user"]
    media = tuple(medium for number in asked for medium in conversation.messages[number].media)
    if not media:
        return conversation
    messages = list(conversation.messages)
    for number in asked:
        words: list[Part] = [
            part if isinstance(part, Text) else Text(IMAGE_TOKEN) for part in messages[number].parts
        ]
        messages[number] = Message("user", (*media, *words) if number == asked[0] else tuple(words))
    return Conversation(tuple(messages))


def open_media(media: Sequence[str | S], name: str) -> list[S | Path]:
    """Strings become paths; a string in place of a list (taken letter by letter) is an error here."""
    if isinstance(media, str | bytes | Path):
        raise DataError(f"{name} must be a list: {name}=['x.png']")
    return [Path(item) if isinstance(item, str) else item for item in media]


def user(text: str, images: Sequence[ImageSource] = (), videos: Sequence[VideoSource] = ()) -> Message:
    """A question about zero or more images and videos: images first, then videos, then the text."""
    return Message("user", (*map(Image, images), *map(Video, videos), Text(text)))


def assistant(text: str) -> Message:
    return Message("assistant", (Text(text),))


def system(text: str) -> Message:
    return Message("system", (Text(text),))
