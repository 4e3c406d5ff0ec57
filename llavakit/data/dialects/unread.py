"""What a dialect has not read although it looks like a medium, or like something that the trainer should know.

Only fields that nobody asked for are looked at, so what counts as read follows from the dialects' own code.
"""

import re
from typing import Any

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.reader import Reader
from llavakit.text.conversation import Conversation

MEDIA = re.compile(
    r"(image|img|picture|photo|video|clip|frame|audio)s?(_(path|file|url|byte)s?)?|pixel_values|media"
)
DIRECTIVES = frozenset(
    (
        "system", "system_prompt", "history", "loss", "losses", "loss_weight", "loss_weights", "loss_scale",
        "loss_mask", "weight", "weights", "train", "training", "train_detail", "training_detail", "tools",
        "functions", "tool_calls", "function_call", "chosen", "rejected", "rejected_response", "rejected_images",
        "rejected_messages",
    )
)  # fmt: skip
VERDICTS = frozenset(("label", "kto_tag"))  # true or false: whether an answer is wanted at all
NO_MEDIA = frozenset(("id", "ids", "idx", "index", "key"))  # the last word of names that only look like paths
ENDING = re.compile(
    r"(?i)\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|avif|jp2|mp4|m4v|mov|mkv|webm|avi|ts|mpe?g|wav|mp3|flac)$"
)
BEGINNING = re.compile(r"(?i)data:(image|video|audio)/")
PATH_PLACEHOLDER = r"<(?:img|image|video|audio)>[^<>\n]{1,4096}</(?:img|image|video|audio)>"
OTHER_PLACEHOLDER = (  # of other models' data: <image 1>, <|image_1|>, <|vision_start|>, <ImageHere>
    r"<\|?(?:image|video|audio|img)[ _]?(?:\d{1,3}|pad|placeholder)\|?>"
    r"|<\|(?:image|video|audio|vision_start)\|>|<ImageHere>"
)
LONE_PLACEHOLDER = r"^[ \t]*<(?:video|audio)>|<(?:video|audio)>[ \t]*$"  # within a sentence it may be HTML
PLACEHOLDERS = re.compile(f"{PATH_PLACEHOLDER}|{OTHER_PLACEHOLDER}|{LONE_PLACEHOLDER}", re.MULTILINE)


def refuse_unread(reader: Reader, talk: Conversation, dialect: str, allowed: frozenset[str]) -> None:
    """DataError (`unread`) with the names of what was passed over, but for those `allowed`."""
    names = [name for name in (*_fields(reader, allowed), *_placeholders(talk)) if name not in allowed]
    if names:
        raise DataError(
            f"not read: {', '.join(map(shorten, names[:8]))} (dialect {dialect}); remove it, spell it as a dialect"
            " does (docs/data.md), or name it in data.unread",
            kind="unread",
        )


def _fields(reader: Reader, allowed: frozenset[str]) -> list[str]:
    return [
        fields.at(name)
        for fields in reader.all
        for name, value in fields.left().items()
        if name not in allowed and _matters(name, value, alone=not reader.num_media)
    ]


def _matters(name: str, value: Any, *, alone: bool) -> bool:
    """Whether a field looks like one that should have been read. `alone`: no medium was read from the record."""
    word = name.lower().replace("-", "_")
    if value in ("", [], {}):
        return False
    if word in DIRECTIVES:
        return value is not True and value != 1  # what is so anyway
    if word in VERDICTS:
        return isinstance(value, bool)
    if MEDIA.fullmatch(word):
        return _can_be_medium(value)
    return alone and word.rpartition("_")[2] not in NO_MEDIA and _is_medium(value)


def _can_be_medium(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_can_be_medium, value))
    return isinstance(value, str | bytes | dict)


def _is_medium(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_medium, value))
    if isinstance(value, dict):
        return bool(value.keys() & {"bytes", "path", "url"}) and any(map(_is_medium, value.values()))
    if isinstance(value, str):
        return bool(ENDING.search(value[-8:]) or BEGINNING.match(value))
    return isinstance(value, bytes)


def _placeholders(talk: Conversation) -> list[str]:
    return [
        found[0]
        for message in talk.messages
        if message.role == "user" and "<" in message.text
        for found in PLACEHOLDERS.finditer(message.text)
    ]
