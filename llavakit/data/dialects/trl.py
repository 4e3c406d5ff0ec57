"""TRL's `prompt` and `completion`, each a text or messages, with `images`. The completion alone is learned."""

from dataclasses import replace
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.messages import message_turns
from llavakit.data.dialects.pairs import pair_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import Turn, compose_listed
from llavakit.text.conversation import Conversation


def is_trl(raw: dict[str, Any]) -> bool:
    return raw.get("prompt") is not None and raw.get("completion") is not None


def read_trl(reader: Reader) -> Conversation:
    return compose_listed(_turns(reader), reader.images("images"), reader.videos("videos"))


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
