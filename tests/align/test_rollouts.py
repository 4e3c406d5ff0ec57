"""Rollouts: what is written is read back the same, pictures by reference."""

from pathlib import Path

import pytest

from llavakit.align.rollouts import Rollout, read_rollouts, write_rollouts
from llavakit.core.errors import DataError
from llavakit.text.conversation import Conversation, Message, Text, Video, assistant, user
from tests import tiny


def rollout(prompt: Conversation, **changes) -> Rollout:
    given = {
        "key": "data.json:3", "group": 0, "choice": 0, "prompt": prompt, "reference": "red", "ids": (5, 7, 2),
        "logprobs": (-0.1, -2.5, -1e-9), "text": "a red\n<image> 東京", "finish": "stop", "facts": ("a shape",),
        "extra": {"caption_type": 3, "options": ["A", None]},
    }  # fmt: skip
    return Rollout(**(given | changes))


def test_rollouts_are_read_back_as_they_were(tmp_path):
    image = tiny.picture(tmp_path / "x.png")
    first = Conversation((Message("system", (Text("Be brief."),)), user("What color?", [image])))
    second = Conversation((user("One"), assistant("two"), user("three", [], [(image, image)][:0])))
    given = [
        rollout(first), rollout(first, choice=1, text="", ids=(), logprobs=(), finish="length"),
        rollout(second, group=1, reference="", facts=(), extra={}),
    ]  # fmt: skip
    write_rollouts(tmp_path / "rollouts" / "step.jsonl", given)
    found = read_rollouts(tmp_path / "rollouts" / "step.jsonl")
    assert found == given


def test_a_picture_that_is_no_file_becomes_one_once(tmp_path):
    image = tiny.picture(tmp_path / "x.png").read_bytes()
    prompt = Conversation((user("What color?", [image]),))
    write_rollouts(tmp_path / "a.jsonl", [rollout(prompt), rollout(prompt, choice=1)])
    write_rollouts(tmp_path / "b.jsonl", [rollout(prompt)])
    [file] = (tmp_path / "media").iterdir()
    assert file.read_bytes() == image
    [part] = read_rollouts(tmp_path / "b.jsonl")[0].prompt.media
    assert part.source == file
    assert len((tmp_path / "a.jsonl").read_text()) < 2000


def test_what_cannot_be_kept_is_refused_by_its_record(tmp_path):
    clip = Conversation((Message("user", (Video((Path("a.png"), Path("b.png"))), Text("What?"))),))
    with pytest.raises(DataError, match=r"data.json:3.*list of frames"):
        write_rollouts(tmp_path / "a.jsonl", [rollout(clip)])
    marked = Conversation((user("What is an <image> here?"),))
    with pytest.raises(DataError, match=r"data.json:3"):
        write_rollouts(tmp_path / "a.jsonl", [rollout(marked)])
    assert not (tmp_path / "a.jsonl").exists()


def test_a_line_that_is_no_rollout_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1: no rollout: 'rollout' must be an object"):
        read_rollouts(tmp_path / "a.jsonl")
