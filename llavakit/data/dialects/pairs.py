"""Questions with their answers, as data sets have them that keep no roles."""

from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.reader import Fields
from llavakit.data.dialects.turns import Turn, text_of


def pair_turns(fields: Fields, question: str, answer: str) -> list[Turn]:
    """Two turns: what two fields of an object say."""
    asked, said = fields.get(question), fields.get(answer)
    if not isinstance(asked, str) or not isinstance(said, str):
        place = fields.where or "the record"
        raise DataError(f"{place} must have the texts '{question}' and '{answer}'")
    return [
        Turn("user", (text_of(fields, question, asked, "user"),)),
        Turn("assistant", (text_of(fields, answer, said, "assistant"),)),
    ]


def history_turns(top: Fields) -> list[Turn]:
    """The turns of `history`, a list of [question, answer]; they are learned as the last one is."""
    listed = top.get("history")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise DataError("'history' must be a list of [question, answer]")
    turns: list[Turn] = []
    for number, pair in enumerate(listed):
        turns += _history_pair(top, number, pair)
    return turns


def _history_pair(top: Fields, number: int, pair: Any) -> list[Turn]:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise DataError(f"history[{number}] must be [question, answer]")
    where = f"history[{number}]"
    return [
        Turn("user", (text_of(top, where, pair[0], "user"),)),
        Turn("assistant", (text_of(top, where, pair[1], "assistant"),)),
    ]
