"""A conversation: messages made of text and images. What every door (trainer, chat, server) speaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import PIL.Image

ImageSource = Path | bytes | PIL.Image.Image
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Text:
    """Written by a person or a data set: special-token text inside it stays text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture: a file, the bytes of one, or an opened image."""

    source: ImageSource


VideoSource = Path | bytes | tuple[ImageSource, ...]


@dataclass(frozen=True)
class Video:
    """A clip: a file, the bytes of one, a directory of frames, or frames already in memory."""

    source: VideoSource


Part = Text | Image | Video


@dataclass(frozen=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        return tuple(part for part in self.parts if not isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message, then user and assistant in turn."""

    messages: tuple[Message, ...]

    @property
    def media(self) -> tuple[Image | Video, ...]:
        return tuple(part for message in self.messages for part in message.media)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)

    def turns(self) -> list["Conversation"]:
        """Every question with its answer as a conversation of its own.

        Each carries the system message and all images, the latter in front of its question: what was said in
        other turns is not seen, so an earlier answer cannot give a later one away.
        """
        system = tuple(message for message in self.messages if message.role == "system")
        talk = self.messages[len(system) :]
        pairs = zip(talk[::2], talk[1::2], strict=True)
        return [
            Conversation((*system, Message("user", (*self.images, Text(question.text.strip()))), answer))
            for question, answer in pairs
        ]


def user(text: str, images: Sequence[ImageSource] = ()) -> Message:
    """A question about zero or more images, images first."""
    return Message("user", (*(Image(source) for source in images), Text(text)))


def assistant(text: str) -> Message:
    return Message("assistant", (Text(text),))


def system(text: str) -> Message:
    return Message("system", (Text(text),))
