"""Argilla's exports: `fields` and `responses` (`records.to_json`), or flat columns (`to_datasets`, the hub).

A question ranks the two answers' fields (best first, or with a `rank` each), or picks one by a label: the field's
name, `tie`, `both_bad`. Discarded responses and drafts do not count, suggestions are not looked at.
"""

import re
from pathlib import Path
from typing import Any
from uuid import UUID

from llavakit.core.errors import DataError
from llavakit.data.dialects.judged import (
    Judged,
    Raw,
    Verdict,
    answer_names,
    media_paths,
    read_word,
    split_fields,
    write_prompt,
)
from llavakit.text.conversation import Conversation

PICTURE = re.compile(r"image(_?\d+)?")
RESPONSES = ".responses"
OPEN = ("draft", "discarded", "pending")  # what is no answer, or none yet
NAMES = ("response1", "response2")
Responses = dict[str, list[Any]]  # of each question, the values that were submitted


def is_argilla(raw: Raw) -> bool:
    nested = isinstance(raw.get("fields"), dict) and isinstance(raw.get("responses"), dict)
    return nested or any(name.endswith(RESPONSES) for name in raw)


def split_argilla(raw: Raw) -> Judged:
    """The record's two answers. Several pictures are fields image_1, image_2, ..."""
    fields, responses, beside = _nested(raw) if isinstance(raw.get("fields"), dict) else _flat(raw)
    names = answer_names(fields)
    shown = sorted((name for name in fields if PICTURE.fullmatch(name)), key=lambda name: (len(name), name))
    pictures = [picture for name in shown if (picture := fields.pop(name)) is not None]
    if pictures:
        fields["images"] = pictures
    return split_fields(fields, names, _verdicts(responses, names), beside)


def write_argilla(chosen: Conversation, rejected: Conversation, folder: Path, rest: Raw) -> Raw:
    """A record as `Dataset.records` reads it back; other fields are its metadata."""
    images, videos = media_paths(chosen, folder)
    if videos:
        raise DataError("it has no videos")
    shown = {f"image_{number}": path for number, path in enumerate(images, 1)}
    pictures = {"image": images[0]} if len(images) == 1 else shown
    answers = dict(zip(NAMES, (chosen.messages[-1].text, rejected.messages[-1].text), strict=True))
    nobody = str(UUID(int=0))
    record = {
        "fields": pictures | {"prompt": write_prompt(chosen)} | answers,
        "metadata": {name: value for name, value in rest.items() if name != "id"},
        "suggestions": {},
        "responses": {"preference": [{"value": list(NAMES), "user_id": nobody}]},
        "vectors": {},
    }
    return ({"id": str(rest["id"])} if "id" in rest else {}) | record


def _nested(raw: Raw) -> tuple[Raw, Responses, Raw]:
    """(fields, what was submitted, the rest) of a record of `to_json`."""
    found: Responses = {}
    for question, given in raw["responses"].items():
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise DataError(f"responses.{question} must be a list of objects with a 'value'")
        found[question] = [each.get("value") for each in given if each.get("status") not in OPEN]
    metadata = raw.get("metadata") or {}
    beside = {"id": raw["id"]} if raw.get("id") is not None else {}
    return dict(raw["fields"]), found, metadata | beside


def _flat(raw: Raw) -> tuple[Raw, Responses, Raw]:
    """The same of a row whose columns are named after questions."""
    found: Responses = {}
    for name, given in raw.items():
        if name.endswith(RESPONSES):
            states = raw.get(f"{name}.status") or [None] * len(given or ())
            pairs = zip(given or (), states, strict=False)
            found[name.removesuffix(RESPONSES)] = [value for value, state in pairs if state not in OPEN]
    about = tuple(f"{question}{dot}" for question in found for dot in (RESPONSES, ".suggestion"))
    fields = {name: value for name, value in raw.items() if not name.startswith(about)}
    own = ("status", "inserted_at", "updated_at", "_server_id")
    return {name: value for name, value in fields.items() if name not in own}, found, {}


def _verdicts(responses: Responses, names: tuple[str, str]) -> list[Verdict]:
    """What the one question that is about the two answers was answered with."""
    read = {
        question: [verdict for value in given if (verdict := _read(value, names)) is not None]
        for question, given in responses.items()
    }
    about = [question for question, verdicts in read.items() if verdicts]
    if len(about) > 1:
        raise DataError(f"{len(about)} questions compare the two answers ({', '.join(about)}); keep one")
    return read[about[0]] if about else []


def _read(value: Any, names: tuple[str, str]) -> Verdict | None:
    """A ranking or a label; None for an answer to another question."""
    if isinstance(value, str):
        return read_word(value, names)
    if not isinstance(value, list) or not value:
        return None
    ranks = {
        each.get("value") if isinstance(each, dict) else each: each.get("rank")
        if isinstance(each, dict)
        else at
        for at, each in enumerate(value)
        if isinstance(each, dict | str)
    }
    first, second = (ranks.get(name) for name in names)
    if first is None or second is None:
        return None
    return "tie" if first == second else 1 if first < second else 2
