"""LLaVA-Plus: `thoughts` and `actions` beside an answer's `value` become one text, as its training code writes it.

The picture is called `file_name`. A question repeated after a tool's result must not repeat its `<image>`, unless a
picture of its own is listed for it: one that a tool made.
"""

from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.llava import is_llava, read_lanes, read_turn, talk_name, without_greeting
from llavakit.data.dialects.reader import Fields, Reader
from llavakit.data.dialects.turns import Turn, compose, role_of, text_of, weight_of
from llavakit.text.conversation import IMAGE_TOKEN, Conversation
from llavakit.text.llava_plus import write_answer


def is_llava_plus(raw: dict[str, Any]) -> bool:
    """Whether an answer uses tools, or the picture has LLaVA-Plus' name."""
    return is_llava(raw) and (_names_file(raw) or _any_uses_tools(raw))


def read_llava_plus(reader: Reader) -> Conversation:
    """The conversation; with tools and one picture only the first question that has its placeholder keeps it."""
    raw = reader.top.raw
    fields = reader.objects(talk_name(raw))
    turns = without_greeting(
        [_serialise(turn) if _uses_tools(turn.raw) else read_turn(turn) for turn in fields]
    )
    lanes = read_lanes(reader, "file_name" if _names_file(raw) else "image")
    if _any_uses_tools(raw) and len(lanes["image"].media) == 1:
        marked = [number for number, turn in enumerate(turns) if _has_placeholder(turn)]
        for number in marked[1:]:
            turns[number] = Turn("user", (turns[number].text.replace(IMAGE_TOKEN, "").strip(),))
    return compose(turns, lanes, in_front=False)


def _names_file(raw: dict[str, Any]) -> bool:
    named = raw.get("image_id") is not None and raw.get("file_name") is not None
    return named and raw.get("image") is None and raw.get("video") is None


def _any_uses_tools(raw: dict[str, Any]) -> bool:
    turns = raw.get(talk_name(raw))
    return isinstance(turns, list) and any(map(_uses_tools, turns))


def _uses_tools(turn: Any) -> bool:
    return isinstance(turn, dict) and not (turn.get("thoughts") is None and turn.get("actions") is None)


def _has_placeholder(turn: Turn) -> bool:
    return turn.role == "user" and IMAGE_TOKEN in turn.text


def _serialise(turn: Fields) -> Turn:
    """An answer with tools as one text: thoughts, calls as JSON, words; each ends its line."""
    thoughts, actions, value = turn.get("thoughts") or "", turn.get("actions") or [], turn.get("value")
    if not isinstance(thoughts, str) or not isinstance(value, str) or not isinstance(actions, list):
        raise DataError("an answer with tools needs the texts 'thoughts' and 'value' and the list 'actions'")
    try:
        text = write_answer(thoughts, actions, value)
    except (TypeError, ValueError, RecursionError) as error:  # a table's cells may be bytes or dates
        raise DataError(f"{turn.at('actions')} cannot be written as JSON: {error}") from None
    role = role_of(turn, "from")
    return Turn(role, (text_of(turn, "value", text, role),), weight_of(turn, role))
