"""LLaMA-Factory's, ms-swift's and TRL's records: `messages`, with media in lists of their own, `images`, `videos`.

`<image>` and `<video>` in a question, or parts that name no medium, are the places of the next one; without any the
media stand in front of the first question.
"""

from typing import Any

from llavakit.data.dialects.messages import TALK, message_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import compose_listed, with_system
from llavakit.text.conversation import Conversation


def is_messages_images(raw: dict[str, Any]) -> bool:
    return TALK in raw and not (raw.get("images") is None and raw.get("videos") is None)


def read_messages_images(reader: Reader) -> Conversation:
    turns = with_system(message_turns(reader, reader.objects(TALK)), reader.top)
    return compose_listed(turns, reader.images("images"), reader.videos("videos"))
