"""ms-swift's short records: `query` and `response`, with `system`, `history` and media."""

from typing import Any

from llavakit.data.dialects.pairs import history_turns, pair_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import compose_listed, with_system
from llavakit.text.conversation import Conversation


def is_query_response(raw: dict[str, Any]) -> bool:
    return raw.get("query") is not None and raw.get("response") is not None


def read_query_response(reader: Reader) -> Conversation:
    pair = pair_turns(reader.top, "query", "response")
    turns = with_system([*history_turns(reader.top), *pair], reader.top)
    return compose_listed(turns, reader.images("images"), reader.videos("videos"))
