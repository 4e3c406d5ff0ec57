"""What looks like a medium or like an instruction to the trainer and is not read is a flaw with its name."""

import pytest

from llavakit.core.errors import DataError
from llavakit.data.records import Record
from tests.data.dialects.test_table import FOLDER, record

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHOW = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]

UNREAD = {
    "a path under another name": ({"conversations": TURNS, "image_path": "x.png"}, ["image_path"]),
    "a path under any name": ({"conversations": TURNS, "scan": "a/b.jpeg"}, ["scan"]),
    "paths under any name": ({"conversations": TURNS, "scans": ["b.jpg", "c.PNG"]}, ["scans"]),
    "bytes under any name": ({"conversations": TURNS, "scan": {"bytes": b"x", "path": None}}, ["scan"]),
    "sounds": ({"messages": MESSAGES, "audios": ["a.wav"]}, ["audios"]),
    "another list beside the one that is read": (
        {"conversations": SHOW, "images": ["x.png"], "image": "y.png"},
        ["image"],
    ),
    "a picture's path in the text": (
        {"conversations": [{"from": "human", "value": "<img>a/x.png</img>\nq"}, TURNS[1]]},
        ["<img>a/x.png</img>"],
    ),
    "a video's mark without a video": (
        {"conversations": [{"from": "human", "value": "<video>\nWhat happens?"}, TURNS[1]]},
        ["<video>"],
    ),
    "another model's marks": (
        {"conversations": [{"from": "human", "value": "<image 1> and <|image_2|>?"}, TURNS[1]]},
        ["<image 1>", "<|image_2|>"],
    ),
    "the weight of a record": ({"conversations": TURNS, "weight": 0.5}, ["weight"]),
    "whether a record is learned": ({"messages": MESSAGES, "loss": False}, ["loss"]),
    "a system text of a dialect without one": ({"prompt": "q", "completion": "a", "system": "s"}, ["system"]),
    "which letters are learned": (
        {"messages": [MESSAGES[0], MESSAGES[1] | {"train_detail": [{"begin": 0}]}]},
        ["messages[1].train_detail"],
    ),
    "tools": ({"conversations": TURNS, "tools": "[{}]"}, ["tools"]),
    "an answer that is not wanted": ({"prompt": "q", "completion": "a", "label": False}, ["label"]),
    "preferences": ({"conversations": TURNS, "chosen": "a", "rejected": "b"}, ["chosen", "rejected"]),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_told_by_name_unless_it_is_allowed(name):
    raw, names = UNREAD[name]
    with pytest.raises(DataError) as caught:
        record(raw).conversation()
    assert caught.value.kind == "unread"
    assert caught.value.what.startswith(f"not read: {', '.join(names)} (dialect ")
    allowed = frozenset(name.rpartition("].")[2] for name in names)
    assert Record(raw, FOLDER / "data.json", 1, FOLDER, unread=allowed).conversation().messages


HARMLESS = [
    {"image": None, "images": None, "weight": None, "tools": [], "system": "", "videos": []},
    {"weight": 1, "loss": True, "train": 1.0},
    {"id": "coco/train2017/000000033471.jpg", "image_id": "9.jpg", "image_size": [640, 480], "num_frames": 8},
    {
        "label": "cat",
        "source": "coco",
        "domain": {"ct_scan": True},
        "captions": ["a", "b"],
        "metadata": {"a": 1},
    },
]


@pytest.mark.parametrize("more", HARMLESS)
def test_what_people_keep_beside_a_conversation_is_left_alone(more):
    assert record({"conversations": TURNS, **more}).conversation().messages
    assert record({"messages": MESSAGES, **more}).conversation().messages


def test_where_a_picture_was_read_its_origin_is_left_alone():
    more = {"url": "https://example.org/x.jpg", "file_name": "x.jpg", "thumbnail": "x_small.png"}
    assert record({"conversations": SHOW, "image": "x.jpg", **more}).conversation().media


@pytest.mark.parametrize("text", ["How do I use the <video> tag?", "a <img src='x.png'> tag", "<b>x.png</b>"])
def test_questions_about_html_are_text(text):
    assert record({"conversations": [{"from": "human", "value": text}, TURNS[1]]}).conversation().messages
