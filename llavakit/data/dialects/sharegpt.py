"""ShareGPT records as LLaMA-Factory, ms-swift and Axolotl have extended them.

`conversations` of `from` and `value` with more names of speakers (`chatgpt`, `bing`, ...), `system` beside it,
media under `images` and `videos`, and what an answer counts in its `weight`, `loss` or `train`.
"""

from pathlib import Path
from typing import Any

from llavakit.data.dialects.llava import SPEAKERS, TALK, read_lanes, read_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import WEIGHTS, compose, compose_listed, with_system
from llavakit.data.dialects.writing import path_of, text_with_placeholders
from llavakit.text.conversation import Conversation, Image, Video

LISTS = ("images", "videos")
NEW_NAMES = frozenset(("chatgpt", "bing", "bard", "developer", "function_call", "observation"))


def is_sharegpt(raw: dict[str, Any]) -> bool:
    """Whether a talk has something that LLaVA's own format lacks."""
    turns = raw.get(TALK)
    if not isinstance(turns, list):
        return False
    return any(raw.get(name) is not None for name in (*LISTS, "system")) or any(map(_is_extended, turns))


def read_sharegpt(reader: Reader) -> Conversation:
    turns = with_system(read_turns(reader, TALK), reader.top)
    if any(reader.top.raw.get(name) is not None for name in LISTS):
        return compose_listed(turns, reader.images("images"), reader.videos("videos"))
    return compose(turns, read_lanes(reader), in_front=False)


def write_sharegpt(talk: Conversation, folder: Path) -> dict[str, Any]:
    """A record of the conversation for a file in `folder`. DataError for what the format cannot say."""
    turns: list[dict[str, Any]] = []
    for message in talk.messages:
        turns.append({"from": SPEAKERS[message.role], "value": text_with_placeholders(message)})
        if message.weight != 1:
            turns[-1]["weight"] = message.weight
    images = [path_of(medium, folder) for medium in talk.media if isinstance(medium, Image)]
    videos = [_video(medium, folder) for medium in talk.media if isinstance(medium, Video)]
    media = {name: listed for name, listed in (("images", images), ("videos", videos)) if listed}
    return {TALK: turns} | media


def _video(video: Video, folder: Path) -> str | list[str]:
    """A video's path, or the paths of its frames."""
    if isinstance(video.source, tuple):
        return [path_of(Image(frame), folder) for frame in video.source]
    return path_of(video, folder)


def _is_extended(turn: Any) -> bool:
    if not isinstance(turn, dict):
        return False
    speaker = turn.get("from")
    if isinstance(speaker, str) and speaker in NEW_NAMES:
        return True
    return not turn.keys().isdisjoint(WEIGHTS) and any(turn.get(name) is not None for name in WEIGHTS)
