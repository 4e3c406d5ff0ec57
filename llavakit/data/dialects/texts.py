"""The Cauldron's and FineVision's records: `texts` of `user` and `assistant`, with `images`."""

from typing import Any

from llavakit.data.dialects.pairs import pair_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import compose_listed
from llavakit.text.conversation import Conversation


def is_texts(raw: dict[str, Any]) -> bool:
    texts = raw.get("texts")
    return isinstance(texts, list) and any(isinstance(pair, dict) and "user" in pair for pair in texts)


def read_texts(reader: Reader) -> Conversation:
    turns = [turn for pair in reader.objects("texts") for turn in pair_turns(pair, "user", "assistant")]
    return compose_listed(turns, reader.images("images"), ())
