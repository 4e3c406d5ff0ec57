"""LLaVA's own records: `conversations` of `from` and `value`, a path or a list under `image` or `video`.

`<image>` in a question is the place of an image or of a video (released data has one for a whole video); `<video>`
is the place of a video too. LLaVA-Med's evaluation files say `conversatons`.
"""

from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.reader import Fields, Reader
from llavakit.data.dialects.turns import Lane, Turn, compose, role_of, text_of, weight_of
from llavakit.data.dialects.writing import path_of, refuse_weights, text_with_placeholders
from llavakit.text.conversation import IMAGE_TOKEN, Conversation, Image, Role, Video

SPEAKERS: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
TALK, MISSPELT = "conversations", "conversatons"


def is_llava(raw: dict[str, Any]) -> bool:
    return TALK in raw or MISSPELT in raw


def read_llava(reader: Reader) -> Conversation:
    return compose(read_turns(reader, talk_name(reader.top.raw)), read_lanes(reader), in_front=False)


def write_llava(talk: Conversation, folder: Path) -> dict[str, Any]:
    """A record of the conversation for a file in `folder`. DataError for what the format cannot say."""
    refuse_weights(talk)
    paths = {
        "image": [path_of(medium, folder) for medium in talk.media if isinstance(medium, Image)],
        "video": [path_of(medium, folder) for medium in talk.media if isinstance(medium, Video)],
    }
    if paths["image"] and paths["video"]:
        raise DataError("a record has either pictures or videos")
    turns = [
        {"from": SPEAKERS[message.role], "value": text_with_placeholders(message, video=IMAGE_TOKEN)}
        for message in talk.messages
    ]
    media = {name: found[0] if len(found) == 1 else found for name, found in paths.items() if found}
    return media | {TALK: turns}


def talk_name(raw: dict[str, Any]) -> str:
    """The field that has the turns."""
    return MISSPELT if TALK not in raw and MISSPELT in raw else TALK


def read_turns(reader: Reader, name: str) -> list[Turn]:
    """The turns of `from` and `value`. A leading answer (as in ShareGPT) is dropped, as the released code does."""
    return without_greeting([read_turn(fields) for fields in reader.objects(name)])


def without_greeting(turns: list[Turn]) -> list[Turn]:
    """The turns from the first that is not an answer on."""
    first = next((number for number, turn in enumerate(turns) if turn.role != "assistant"), len(turns))
    return turns[first:]


def read_turn(fields: Fields) -> Turn:
    """A turn of `from` and `value`."""
    value = fields.get("value")
    if not isinstance(value, str):
        raise DataError(f"{fields.where} must have the texts 'from' and 'value'")
    role = role_of(fields, "from")
    return Turn(role, (text_of(fields, "value", value, role),), weight_of(fields, role))


def read_lanes(reader: Reader, image: str = "image") -> dict[str, Lane]:
    """The media of `image` or of `video`, whose placeholders look alike."""
    images, videos = reader.images(image), reader.videos("video")
    if images and videos:
        raise DataError("a record has either 'image' or 'video'; split it, or give the frames as images")
    if not videos:
        return {"image": Lane("image", images)}
    lane = Lane("video", videos)
    return {"image": lane, "video": lane}
