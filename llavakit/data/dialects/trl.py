"""TRL's `prompt` and `completion`, each a text or messages, with `images`. The completion alone is learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.messages import message_turns
from llavakit.data.dialects.pairs import pair_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import Turn, compose_listed
from llavakit.data.dialects.writing import joined, path_of
from llavakit.text.conversation import Conversation, Message, Text, Video


def is_trl(raw: dict[str, Any]) -> bool:
    return raw.get("prompt") is not None and raw.get("completion") is not None


def read_trl(reader: Reader) -> Conversation:
    return compose_listed(_turns(reader), reader.images("images"), reader.videos("videos"))


def write_trl(talk: Conversation, folder: Path) -> dict[str, Any]:
    """A record of the conversation for a file in `folder`. DataError for what the format cannot say."""
    *prompt, completion = talk.messages
    if any(message.role == "assistant" and message.weight for message in prompt):
        raise DataError("its completion is the last answer, and an earlier one is learned too")
    if completion.role != "assistant" or completion.weight != 1:
        raise DataError("its completion is an answer that counts 1, and the last message is none")
    if any(isinstance(medium, Video) for medium in talk.media):
        raise DataError("it has no videos")
    images = [path_of(medium, folder) for medium in talk.media]
    raw = {
        "prompt": [_write_message(message, parts=bool(images)) for message in prompt],
        "completion": [_write_message(completion, parts=bool(images))],
    }
    return raw | {"images": images} if images else raw


def _write_message(message: Message, *, parts: bool) -> dict[str, Any]:
    """A message; in a record with pictures all contents are lists of parts."""
    if not parts:
        return {"role": message.role, "content": message.text}
    content = [
        {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
        for part in joined(message.parts)
    ]
    return {"role": message.role, "content": content}


def _turns(reader: Reader) -> list[Turn]:
    prompt, completion = (isinstance(reader.top.raw[name], list) for name in ("prompt", "completion"))
    if not prompt and not completion:
        return pair_turns(reader.top, "prompt", "completion")
    if not (prompt and completion):
        raise DataError("'prompt' and 'completion' must both be texts, or both lists of messages")
    asked = message_turns(reader, reader.objects("prompt"))
    said = message_turns(reader, reader.objects("completion"))
    if any(turn.role != "assistant" for turn in said):
        raise DataError("'completion' has a message that is not the assistant's")
    return [*(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in asked), *said]
