"""How other releases of the series spell a record, and the same record in LLaVA's own format.

- LLaVA-Plus: `thoughts` and `actions` beside an answer's `value` become one text, as its training code writes it.
  The picture is called `file_name`. A question repeated after a tool's result must not repeat its `<image>`.
- LLaVA-Med: evaluation files say `conversatons`.

What is unknown (`domain`, `captions`, `data_source`, ...) is left alone and not read.
"""

import json
from typing import Any

from llavakit.text.conversation import IMAGE_TOKEN

TALK, MISSPELT = "conversations", "conversatons"
# The labels with their quotes and signs are what released weights learned; so are `json`'s blanks and escapes.
THOUGHTS, ACTIONS, VALUE = '"thoughts🤔" ', '"actions🚀" ', '"value👉" '


def unify(raw: dict[str, Any]) -> dict[str, Any]:
    """The record in LLaVA's format; one that has it already is returned itself. ValueError for what cannot be."""
    changes: dict[str, Any] = {}
    if TALK not in raw and MISSPELT in raw:
        changes[TALK] = raw[MISSPELT]
    if raw.get("image") is None and raw.get("video") is None and "image_id" in raw and "file_name" in raw:
        changes["image"] = raw["file_name"]
    turns = changes.get(TALK, raw.get(TALK))
    if isinstance(turns, list) and any(map(_uses_tools, turns)):
        changes[TALK] = _one_image([_serialise(turn) if _uses_tools(turn) else turn for turn in turns])
    return raw | changes if changes else raw


def _uses_tools(turn: Any) -> bool:
    return isinstance(turn, dict) and ("thoughts" in turn or "actions" in turn)


def _serialise(turn: dict[str, Any]) -> dict[str, Any]:
    """An answer of LLaVA-Plus as one text: thoughts, calls as JSON, words; each ends its line."""
    thoughts, actions, value = turn.get("thoughts", ""), turn.get("actions", []), turn.get("value")
    if not isinstance(thoughts, str) or not isinstance(value, str) or not isinstance(actions, list):
        raise ValueError("an answer with tools needs the texts 'thoughts' and 'value' and the list 'actions'")
    text = f"{THOUGHTS}{thoughts}\n{ACTIONS}{json.dumps(actions)}\n{VALUE}{value}\n"
    return {"from": turn.get("from"), "value": text}


def _one_image(turns: list[Any]) -> list[Any]:
    """The turns with the picture's mark in the first question that has it, and no more in later ones."""
    seen = False
    out = []
    for turn in turns:
        value = turn.get("value") if isinstance(turn, dict) else None
        if isinstance(value, str) and IMAGE_TOKEN in value and turn.get("from") == "human":
            turn = {**turn, "value": value.replace(IMAGE_TOKEN, "").strip()} if seen else turn
            seen = True
        out.append(turn)
    return out
