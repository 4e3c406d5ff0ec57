"""`data convert`: any dialect into any other that can say it, and the flaw's name where it cannot."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import draft_of
from llavakit.data.convert import WRITTEN, Conversion, convert_mixture
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.records import read_records
from llavakit.text.conversation import Conversation
from tests.data.dialects.test_table import PAGE, ROW
from tests.data.test_tables import shard, text

EXAMPLES = {name: json.loads(record) for name, record in ROW.findall(PAGE)}


def convert(source: Path, to: str, out: Path) -> Conversion:
    mixture = Mixture(list_sources([source]), seed=0)
    return convert_mixture(mixture, to, out, out.with_suffix(".bad"))


def talks(path: Path) -> list[Conversation]:
    return [record.conversation() for record in read_records(path)]


def put(path: Path, *records: dict) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def said(talk: Conversation) -> list:
    """What a conversation says, wherever its texts are cut."""
    return [
        (message.role, message.text, message.weight, [medium.source for medium in message.media])
        for message in talk.messages
    ]


@pytest.mark.parametrize("to", WRITTEN)
@pytest.mark.parametrize("dialect", EXAMPLES)
def test_every_dialect_can_be_written_in_every_other(dialect, to, tmp_path):
    source = put(tmp_path / "a.jsonl", EXAMPLES[dialect] | {"id": "7", "domain": {"mri": True}})
    found = convert(source, to, tmp_path / "b.jsonl")
    assert (found.written, dict(found.dialects), found.flaws.total()) == (1, {dialect: 1}, 0)
    assert [said(talk) for talk in talks(tmp_path / "b.jsonl")] == [said(talk) for talk in talks(source)]
    (raw,) = [record.raw for record in read_records(tmp_path / "b.jsonl")]
    assert (raw["id"], raw["domain"]) == ("7", {"mri": True})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


WORDS = st.text(st.sampled_from('ab <>\n"é'), min_size=1, max_size=6).filter(str.strip) | st.sampled_from(
    ["<image>", "a <video> b", "<video>\n", "</image>"]
)
PARTS = st.one_of(
    WORDS.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from("xyz").map(lambda name: {"type": "image_url", "image_url": {"url": f"{name}.png"}}),
    st.just({"type": "video_url", "video_url": {"url": "v.mp4"}}),
    st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
)
ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": WORDS}, optional={"weight": st.sampled_from([0, 0.5, 1])}
)
QUESTIONS = st.fixed_dictionaries(
    {"role": st.just("user"), "content": WORDS | st.lists(PARTS, min_size=1, max_size=4)}
)
TALKS = st.lists(st.tuples(QUESTIONS, ANSWERS), min_size=1, max_size=3).map(lambda pairs: [*sum(pairs, ())])


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(messages=TALKS, system=st.none() | WORDS)
def test_what_is_written_reads_as_it_was_or_is_a_flaw(tmp_path_factory, messages, system):
    folder = tmp_path_factory.mktemp("convert")
    head = [] if system is None else [{"role": "system", "content": system}]
    source = put(folder / "a.jsonl", {"messages": [*head, *messages]})
    try:
        (talk,) = talks(source)
    except DataError:
        talk = None
    for to in WRITTEN:
        found = convert(source, to, folder / to)
        assert found.written + found.flaws.total() == 1
        if found.written:
            assert talk is not None and [said(again) for again in talks(folder / to)] == [said(talk)]
    if talk is not None:
        assert convert(source, "messages", folder / "again").written == 1


CANNOT = {
    "weights": ("llava", [{}, {"weight": 0.5}], "llava cannot say it: it has no weights"),
    "an earlier answer": (
        "trl",
        [{}, {}, {}, {}],
        "trl cannot say it: its completion is the last answer, and an earlier one is learned too",
    ),
    "bytes": (
        "sharegpt",
        [{"content": [{"type": "image", "image": "data:image/png;base64,AAAA"}]}, {}],
        "sharegpt cannot say it: a picture or video that is bytes or a list of frames has no path",
    ),
    "both kinds": (
        "llava",
        [{"content": [{"type": "image", "image": "x.png"}, {"type": "video", "video": "v.mp4"}]}, {}],
        "llava cannot say it: a record has either pictures or videos",
    ),
    "a placeholder that is text": (
        "sharegpt",
        [{"content": [{"type": "video", "video": "v.mp4"}, {"type": "text", "text": "a <video> b"}]}, {}],
        "sharegpt cannot say it: 2 <video> placeholder(s) in the text but 1 video(s) listed",
    ),
    "a text in front of its picture": (
        "trl",
        [{"content": [{"type": "text", "text": "<image 1>"}, {"type": "image", "image": "x.png"}]}, {}],
        "not read: <image 1>",
    ),
    "videos": (
        "trl",
        [{"content": [{"type": "video", "video": "v.mp4"}]}, {}],
        "trl cannot say it: it has no videos",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_said_is_listed_by_its_name(name, tmp_path):
    to, turns, problem = CANNOT[name]
    roles = ("user", "assistant") * 2
    messages = [{"role": role, "content": "q"} | turn for role, turn in zip(roles, turns, strict=False)]
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    source = put(tmp_path / "a.jsonl", {"messages": messages}, good)
    found = convert(source, to, tmp_path / "b.jsonl")
    assert (found.written, found.flaws.total()) == (1, 1)
    (line,) = map(json.loads, (tmp_path / "b.bad").read_text().splitlines())
    assert line["record"] == f"{source}:1" and line["reason"].startswith(problem)


def test_records_that_cannot_be_read_are_listed_with_their_own_flaw(tmp_path):
    source = put(tmp_path / "a.jsonl", {"a": 1}, EXAMPLES["trl"] | {"loss": 0.5}, EXAMPLES["trl"])
    found = convert(source, "llava", tmp_path / "b.jsonl")
    assert (found.written, dict(found.flaws)) == (1, {"record": 1, "unread": 1})
    assert [name for name, _ in found.first] == [f"{source}:1", f"{source}:2"]


def test_pictures_in_an_archive_become_data_urls(tmp_path):
    path = shard(tmp_path / "a.tar", [("0.json", text("<image>")), ("0.png", b"\x89PNG\r\n\x1a\npixels")])
    assert convert(path, "messages", tmp_path / "b.jsonl").written == 1
    assert '"data:image/png;base64,' in (tmp_path / "b.jsonl").read_text()
    assert said(talks(tmp_path / "b.jsonl")[0]) == said(talks(path)[0])


def test_paths_below_the_new_file_are_relative_and_others_whole(tmp_path):
    (tmp_path / "data").mkdir()
    source = put(tmp_path / "data" / "a.jsonl", EXAMPLES["llava"])
    for out, name in (
        (tmp_path / "b.jsonl", "data/x.png"),
        (tmp_path / "new" / "c.jsonl", str(source.parent / "x.png")),
    ):
        convert(source, "llava", out)
        assert json.loads(out.read_text())["image"] == name


@pytest.mark.parametrize("taken", ["b.jsonl", "b.bad"])
def test_a_file_that_is_there_is_not_replaced_and_a_stopped_one_leaves_nothing(taken, tmp_path, monkeypatch):
    source = put(tmp_path / "a.jsonl", EXAMPLES["trl"])
    (tmp_path / taken).write_text("mine")
    with pytest.raises(ConfigError, match="is there already and is not replaced; choose a new name"):
        convert(source, "llava", tmp_path / "b.jsonl")
    assert (tmp_path / taken).read_text() == "mine"

    def stop(talk, folder):
        assert draft_of(tmp_path / "c.jsonl").exists()
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITTEN, "llava", WRITTEN["llava"].__class__("llava", print, print, stop))
    with pytest.raises(KeyboardInterrupt):
        convert(source, "llava", tmp_path / "c.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", taken]
