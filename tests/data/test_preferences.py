"""Pairs of answers in the spellings people have them in: one prompt, two answers, media in place."""

import json

import pytest

from llavakit.core.errors import DataError
from llavakit.data.convert import PAIRS_WRITTEN, convert_mixture
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.records import read_records
from llavakit.text.conversation import Image, Video
from tests import tiny

ASKED, GOOD, BAD = "What color is it?", "It is red.", "It is blue."
SAID = [{"role": "assistant", "content": GOOD}], [{"role": "assistant", "content": BAD}]
PROMPT = [{"role": "user", "content": ASKED}]
SPELLINGS = {
    "rlhf": {
        "image": "x.png",
        "conversations": [
            {"from": "human", "value": f"<image>\n{ASKED}"},
            {"from": "gpt", "value": "to be replaced"},
        ],
        "output_1": {"from": "gpt", "value": BAD},
        "output_2": {"from": "gpt", "value": GOOD},
        "preference": 2,
        "hallucination": True,
    },
    "next": {"image": "x.png", "prompt": f"<image>\n{ASKED}", "chosen": GOOD, "rejected": BAD, "score": 3},
    "trl": {"images": ["x.png"], "prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "trl-messages": {"images": ["x.png"], "prompt": PROMPT, "chosen": SAID[0], "rejected": SAID[1]},
    "trl-mixed": {"images": ["x.png"], "prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
    "trl-whole": {"images": ["x.png"], "chosen": [*PROMPT, *SAID[0]], "rejected": [*PROMPT, *SAID[1]]},
    "rlaif-v": {"image": "x.png", "question": ASKED, "chosen": GOOD, "rejected": BAD},
}


def record_of(tmp_path, raw):
    tiny.picture(tmp_path / "x.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(raw) + "\n")
    return read_records(tmp_path / "pairs.jsonl")[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gives_the_same_pair(tmp_path, name):
    chosen, rejected = record_of(tmp_path, SPELLINGS[name]).pair()
    for talk, answer in ((chosen, GOOD), (rejected, BAD)):
        question, said = talk.messages
        assert (question.text.strip(), said.text) == (ASKED, answer)
        assert question.media == (Image(tmp_path / "x.png"),)


def test_a_video_stands_in_front_wherever_its_mark_was(tmp_path):
    raw = {"video": "clip.mp4", "prompt": f"{ASKED}\n<video>", "chosen": GOOD, "rejected": BAD}
    chosen, _ = record_of(tmp_path, raw).pair()
    assert chosen.messages[0].media == (Video(tmp_path / "clip.mp4"),)
    assert isinstance(chosen.messages[0].parts[0], Video)


def test_earlier_answers_are_read_and_not_learned(tmp_path):
    talk = [
        *PROMPT,
        {"role": "assistant", "content": "Red, I think."},
        {"role": "user", "content": "Sure?"},
    ]
    chosen, _ = record_of(tmp_path, {"prompt": talk, "chosen": SAID[0], "rejected": SAID[1]}).pair()
    assert [message.weight for message in chosen.messages if message.role == "assistant"] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rejected": GOOD}, "chosen and rejected are equal"),
        ({"rejected": " "}, "empty answer"),
        ({"rejected": None}, "a pair has 'chosen' and 'rejected'"),
        ({"images": ["x.png", "x.png"], "prompt": f"<image>\n{ASKED}"}, r"placeholder"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, changes, what):
    with pytest.raises(DataError, match=rf"pairs.jsonl:1: .*{what}"):
        record_of(tmp_path, SPELLINGS["trl"] | changes).pair()


@pytest.mark.parametrize(
    ("preference", "what"),
    [(None, "does not say which"), *((wrong, "'preference' must be 1 or 2") for wrong in (0, 3, "1", True))],
)
def test_a_preference_is_one_or_two(tmp_path, preference, what):
    with pytest.raises(DataError, match=what):
        record_of(tmp_path, SPELLINGS["rlhf"] | {"preference": preference}).pair()


@pytest.mark.parametrize("to", PAIRS_WRITTEN)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_can_be_written_in_every_other(tmp_path, name, to):
    raw = SPELLINGS[name] | {"id": "7"}
    before = record_of(tmp_path, raw).pair()
    mixture = Mixture(list_sources([tmp_path / "pairs.jsonl"]), seed=0)
    found = convert_mixture(mixture, to, tmp_path / "new.jsonl", tmp_path / "bad.jsonl")
    assert (found.written, found.flaws.total()) == (1, 0)
    [record] = read_records(tmp_path / "new.jsonl")
    for mine, theirs in zip(record.pair(), before, strict=True):
        assert [(m.role, m.text.strip(), m.media, m.weight) for m in mine.messages] == [
            (m.role, m.text.strip(), m.media, m.weight) for m in theirs.messages
        ]
    rest = record.alternatives().rest
    assert rest["id"] == "7" and rest.get("hallucination") is raw.get("hallucination")


def test_what_is_no_pair_or_cannot_be_said_is_listed_and_not_written(tmp_path, run):
    video = {"video": "clip.mp4", "prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    equal = SPELLINGS["trl"] | {"rejected": GOOD}
    tiny.picture(tmp_path / "x.png")
    rows = [SPELLINGS["trl"], video, equal]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "new.jsonl"
    code, said, _ = run("data", "convert", tmp_path / "pairs.jsonl", "--to", "trl-pairs", "--out", out)
    assert code == 1 and "1 of 3 records written as trl-pairs (read as 1 trl-pairs)" in said
    assert "pairs.jsonl:2: record: trl-pairs cannot say it: it has no videos" in said
    assert "pairs.jsonl:3: answer: chosen and rejected are equal" in said
    assert len(out.read_text().splitlines()) == 1
