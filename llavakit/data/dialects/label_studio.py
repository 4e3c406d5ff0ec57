"""Label Studio's JSON export: tasks of `data` and `annotations`, whose Pairwise tag picks `left` or `right`.

`data` has a prompt and two answers (`prompt`, `answer1`, `answer2` in its template), and pictures or videos as
`image`, `images`, `video` or `videos`. A Choices tag beside it may say `tie` or `both bad`. Skipped tasks say
nothing; where an annotation is marked as ground truth, it alone counts.
"""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from llavakit.core.errors import DataError, shorten
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

LOCAL, UPLOADED = "/data/local-files/?d=", "/data/"  # how it writes files that it serves
MEDIA = ("image", "images", "video", "videos")
NAMES = ("answer1", "answer2")


def is_label_studio(raw: Raw) -> bool:
    return isinstance(raw.get("data"), dict) and isinstance(raw.get("annotations"), list)


def split_label_studio(raw: Raw) -> Judged:
    """The task's two answers. Paths below its own folder of files start at `data.images`."""
    data = {name: _local(value) if name in MEDIA else value for name, value in raw["data"].items()}
    names = answer_names(data)
    marked = [each for each in raw["annotations"] if isinstance(each, dict) and each.get("ground_truth")]
    found = [_read(each, names) for each in marked or raw["annotations"]]
    beside = {"id": raw["id"]} if raw.get("id") is not None else {}
    return split_fields(data, names, found, beside)


def write_label_studio(chosen: Conversation, rejected: Conversation, folder: Path, rest: Raw) -> Raw:
    """A task with an annotation, as it is imported; other fields lie in `data`."""
    images, videos = media_paths(chosen, folder)
    media = {
        name: listed[0] if len(listed) == 1 else listed
        for name, listed in (("image", images), ("video", videos))
        if listed
    }
    answers = dict(zip(NAMES, (chosen.messages[-1].text, rejected.messages[-1].text), strict=True))
    said = {
        "from_name": "comparison", "to_name": ",".join(NAMES), "type": "pairwise", "value": {"selected": "left"},
    }  # fmt: skip
    return {
        "data": rest | media | {"prompt": write_prompt(chosen)} | answers,
        "annotations": [{"result": [said], "was_cancelled": False, "ground_truth": False}],
    }


def _read(annotation: Any, names: tuple[str, str]) -> Verdict | None:
    """What an annotation says; None if it was skipped, or says nothing of the two."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise DataError("an annotation must be an object with a list 'result'")
    if annotation.get("was_cancelled"):
        return None
    for part in annotation["result"]:
        value = part.get("value") if isinstance(part, dict) else None
        if not isinstance(value, dict):
            raise DataError("a part of an annotation's 'result' has no 'value'")
        words = [value.get("selected"), *_strings(value.get("choices"))]
        for word in words:
            if isinstance(word, str) and (verdict := read_word(word, names)) is not None:
                return verdict
        if part.get("type") == "pairwise":
            raise DataError(f"a pairwise annotation selects {shorten(repr(value.get('selected')), 60)}")
    return None


def _strings(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _local(value: Any) -> Any:
    """A path that its server gives out as the path of a file below its folder."""
    if isinstance(value, list):
        return [_local(each) for each in value]
    if not isinstance(value, str):
        return value
    for beginning in (LOCAL, UPLOADED):
        if value.startswith(beginning):
            return unquote(value.removeprefix(beginning))
    return value
