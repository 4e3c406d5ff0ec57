"""Alpaca records: `instruction`, `input` and `output`, with LLaMA-Factory's and ms-swift's `history` and media."""

from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.pairs import history_turns, pair_turns
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.turns import Turn, compose_listed, text_of, with_system
from llavakit.text.conversation import Conversation


def is_alpaca(raw: dict[str, Any]) -> bool:
    return raw.get("instruction") is not None and raw.get("output") is not None


def read_alpaca(reader: Reader) -> Conversation:
    """The question is the instruction, then the input on a line of its own."""
    top = reader.top
    question, answer = pair_turns(top, "instruction", "output")
    more = top.get("input")
    if more is not None and not isinstance(more, str):
        raise DataError(f"input must be a text, found {type(more).__name__}")
    if more:
        question = Turn("user", (f"{question.text}\n{text_of(top, 'input', more, 'user')}",))
    turns = with_system([*history_turns(top), question, answer], top)
    return compose_listed(turns, reader.images("images"), reader.videos("videos"))
