"""Every dialect reads the same conversation from its own spelling, and the page about data shows each."""

import base64
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.data.dialects.table import DIALECTS
from llavakit.data.records import Record, read_records
from llavakit.text.conversation import Conversation, Image, Message, Text, Video, assistant, system, user

FOLDER = Path("/pictures")
PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
ROW = re.compile(r"^\| `([\w-]+)` \| .*? \| `(\{.*\})` \|$", re.MULTILINE)
ASK = {"role": "user", "content": "<image>What is it?"}
SAY = {"role": "assistant", "content": "A cat."}
PICTURE = Image(FOLDER / "x.png")
SHOWN = Conversation((Message("user", (PICTURE, Text("What is it?"))), assistant("A cat.")))


def record(raw: object) -> Record:
    return Record(raw, FOLDER / "data.json", 1, FOLDER)


def read(raw: object) -> Conversation:
    return record(raw).conversation()


def test_the_page_has_a_record_of_every_dialect_and_they_say_the_same():
    rows = {name: json.loads(text) for name, text in ROW.findall(PAGE)}
    assert list(rows) == [dialect.name for dialect in DIALECTS]
    assert {name: record(raw).dialect().name for name, raw in rows.items()} == {name: name for name in rows}
    for name, raw in rows.items():
        if name == "llava-plus":
            continue  # its answers have thoughts and actions in their text
        talk = read(raw)
        asked, said = [message for message in talk.messages if message.role != "system"]
        assert (asked.media, asked.text.strip(), said.text) == ((PICTURE,), "What is it?", "A cat."), name


PARTS = {
    "a path": {"type": "image_url", "image_url": {"url": "x.png"}},
    "a path without an object": {"type": "image_url", "image_url": "x.png"},
    "with its detail": {"type": "image_url", "image_url": {"url": "x.png", "detail": "low"}},
    "a file": {"type": "image_url", "image_url": {"url": "file:///pictures/x.png"}},
    "of the responses": {"type": "input_image", "image_url": "x.png"},
    "of transformers": {"type": "image", "image": "x.png"},
    "of transformers, as a path": {"type": "image", "path": "x.png"},
    "of datasets": {"type": "image", "image": {"bytes": b"", "path": "x.png"}},
    "in a table": {"type": "image", "image": "x.png", "text": None, "video": None},
}


@pytest.mark.parametrize("kind", PARTS)
def test_pictures_in_parts(kind):
    content = [PARTS[kind], {"type": "text", "text": "What is it?"}]
    assert read({"messages": [{"role": "user", "content": content}, SAY]}) == SHOWN


def test_data_urls_are_their_bytes_wherever_a_path_may_stand():
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    for raw in (
        {"messages": [{"role": "user", "content": [part]}, SAY]},
        {"messages": [ASK, SAY], "images": [url]},
        {
            "image": url,
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}],
        },
    ):
        assert read(raw).media == (Image(b"pixels"),)
    part["image_url"]["url"] = "data:image/png;base64,?"
    with pytest.raises(DataError, match="the data URL is not base64"):
        read({"messages": [{"role": "user", "content": [part]}, SAY]})


def test_texts_that_follow_each_other_are_a_line_apart_and_media_stand_where_they_stood():
    texts = [{"type": "text", "text": letter} for letter in "abc"]
    film = {"type": "video_url", "video_url": {"url": "v.mp4"}}
    content = [texts[0], PARTS["a path"], texts[1], texts[2], film]
    talk = read(
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": texts[:2]}]}
    )
    parts = (Text("a"), PICTURE, Text("b"), Text("\n"), Text("c"), Video(FOLDER / "v.mp4"))
    assert talk == Conversation((Message("user", parts), assistant("a\nb")))


def test_marks_take_the_media_of_their_own_list():
    raw = {
        "messages": [{"role": "user", "content": "<video>a<image>b<image>"}, SAY],
        "images": ["1.png", "2.png"],
        "videos": [["f0.png", "f1.png"]],
    }
    film = Video((FOLDER / "f0.png", FOLDER / "f1.png"))
    first, second = Image(FOLDER / "1.png"), Image(FOLDER / "2.png")
    assert read(raw).messages[0].parts == (film, Text("a"), first, Text("b"), second)


@pytest.mark.parametrize(
    "asked", ["What is it?", [{"type": "image"}, {"type": "text", "text": "What is it?"}]]
)
def test_media_without_a_mark_stand_in_front_and_parts_without_media_are_marks(asked):
    talk = [{"role": "user", "content": asked}]
    assert read({"messages": [*talk, SAY], "images": ["x.png"]}) == SHOWN
    assert read({"prompt": talk, "completion": [SAY], "images": ["x.png"]}) == SHOWN


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (["x.png", "y.png"], "1 <image> placeholder(s) in the text but 2 image(s) listed"),
        ([], "1 <image> placeholder(s) in the text but 0 image(s) listed"),
    ],
)
def test_marks_and_media_must_be_as_many(images, problem):
    with pytest.raises(DataError) as caught:
        read({"messages": [ASK, SAY], "images": images})
    assert (caught.value.kind, caught.value.what.startswith(problem)) == ("placeholders", True)


WEIGHTS = [
    ("weight", 0, 0.0),
    ("weight", 0.5, 0.5),
    ("loss", False, 0.0),
    ("loss", True, 1.0),
    ("train", False, 0.0),
]


@pytest.mark.parametrize(("name", "value", "weight"), WEIGHTS)
def test_answers_count_what_they_say(name, value, weight):
    messages = [{**turn, name: None} for turn in (ASK, SAY, ASK, SAY)]
    messages[1][name] = value
    talk = read({"messages": messages, "images": ["x.png"] * 2})
    assert [message.weight for message in talk.messages] == [1, weight, 1, 1]
    names = {"user": "human", "assistant": "chatgpt"}
    turns = [
        {"from": names[turn["role"]], "value": turn["content"].removeprefix("<image>"), name: turn[name]}
        for turn in messages
    ]
    assert [message.weight for message in read({"conversations": turns}).messages] == [1, weight, 1, 1]


@pytest.mark.parametrize(
    ("turns", "kind", "problem"),
    [
        ([{}, {"weight": 0}], "answer", "no answer is learned: all of them count 0"),
        (
            [{}, {"weight": -1}],
            "record",
            "messages[1].weight is -1; it must be true, false or a number from 0",
        ),
        ([{}, {"weight": "all"}], "record", "messages[1].weight is 'all'; it must be"),
        ([{}, {"weight": float("nan")}], "record", "messages[1].weight is nan; it must be"),
        (
            [{}, {"weight": 1, "train": False}],
            "record",
            "messages[1].weight and messages[1].train do not say",
        ),
        ([{"train": True}, {}], "unread", "messages[0].train is True: only answers are learned"),
    ],
)
def test_weights_that_cannot_be_are_told(turns, kind, problem):
    plain = [{"role": "user", "content": "q"}, SAY]
    with pytest.raises(DataError) as caught:
        read({"messages": [turn | more for turn, more in zip(plain, turns, strict=True)]})
    assert caught.value.kind == kind and caught.value.what.startswith(problem)


def test_of_a_prompt_nothing_is_learned():
    prompt = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    talk = read({"prompt": prompt, "completion": [SAY]})
    assert [message.weight for message in talk.messages] == [1, 0, 1, 1]
    for bad, problem in (
        ({"prompt": prompt, "completion": "d"}, "'prompt' and 'completion' must both be texts, or both"),
        (
            {"prompt": prompt, "completion": [SAY, ASK]},
            "'completion' has a message that is not the assistant's",
        ),
    ):
        with pytest.raises(DataError, match=problem):
            read(bad)


def test_system_texts_stand_in_front():
    plain = (user("q"), assistant("a"))
    talk = Conversation((system("s"), *plain))
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read({"conversations": turns, "system": "s"}) == talk
    assert read({"messages": messages, "system": "s"}) == talk
    assert read({"messages": [{"role": "developer", "content": "s"}, *messages]}) == talk
    assert read({"instruction": "q", "output": "a", "system": "s"}) == talk
    assert read({"messages": messages, "system": ""}) == Conversation(plain)
    with pytest.raises(DataError, match="two different system texts"):
        read({"messages": [{"role": "system", "content": "t"}, *messages], "system": "s"})


def test_alpaca_and_query_with_their_history():
    history = [["q0", "a0"], ["q1", "a1"]]
    talk = Conversation(tuple(message for at in "012" for message in (user(f"q{at}"), assistant(f"a{at}"))))
    assert read({"instruction": "q2", "output": "a2", "history": history}) == talk
    assert read({"query": "q2", "response": "a2", "history": history}) == talk
    assert read({"instruction": "q", "input": "more", "output": "a"}).messages[0] == user("q\nmore")
    with pytest.raises(DataError, match=r"history\[0\] must be \[question, answer\]"):
        read({"query": "q", "response": "a", "history": ["q0"]})


@pytest.mark.parametrize(
    "raw",
    [
        {
            "messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            "images": ["x"],
        },
        {"messages": [ASK, SAY, {"role": "tool", "content": "3"}, SAY], "images": ["x"]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "data": "x"}]}, SAY]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]},
    ],
)
def test_tools_and_sounds_are_unread_by_name(raw):
    with pytest.raises(DataError) as caught:
        read(raw)
    assert caught.value.kind == "unread"


def test_a_table_of_messages_is_read_with_its_empty_cells(tmp_path):
    content = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    answer = [{"type": "text", "text": "A cat."}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": content, "weight": None},
                {"role": "assistant", "content": answer, "weight": 1},
            ],
            "images": [{"bytes": b"pixels", "path": None}],
            "system": None,
        }
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    talk = read_records(tmp_path / "a.parquet")[0].conversation()
    assert talk == Conversation(
        (Message("user", (Image(b"pixels"), Text("What is it?"))), assistant("A cat."))
    )


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("iVBORw0KGgo" * 900, "is no path: 'iVBORw0KGgo"),
        ("a\ud800.png", "is no path: it holds half a character"),
        ("a\0.png", "is no path: 'a\\\\x00.png'"),
        ("https://example.org/x.png", "is an address on the web; download it and give its path"),
        ({"url": 3}, "must be a path or a list of paths"),
    ],
)
def test_what_is_no_path_is_a_flaw_of_its_record(cell, problem):
    for raw in (
        {
            "image": cell,
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}],
        },
        {"messages": [ASK, SAY], "images": [cell]},
    ):
        with pytest.raises(DataError, match=problem) as caught:
            read(raw)
        assert len(str(caught.value)) < 400


def names_in(value: object) -> set[str]:
    """The names of all fields, at any depth."""
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    return set(value).union(*map(names_in, value.values())) if isinstance(value, dict) else set()


EXAMPLES = [json.loads(text) for _, text in ROW.findall(PAGE)]
NAMES = st.sampled_from(
    sorted(names_in(EXAMPLES) | {"history", "videos", "video", "path", "bytes", "tool_calls"})
)
TEXTS = [
    "", "human", "gpt", "user", "assistant", "system", "tool", "image", "image_url", "text", "x.png", "<image>",
    "a<video>", "data:image/png;base64,AAAA", "data:x", "\ud800", "https://a/b.png", "a\0",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 0.5, float("nan"), 10**400]),
    st.sampled_from(TEXTS),
    st.sampled_from([b"", b"pixels"]),
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(example=st.sampled_from(EXAMPLES), more=st.dictionaries(NAMES, ANY, max_size=3), data=st.data())
def test_any_record_is_a_conversation_or_one_line(example, more, data):
    raw = example | more
    lists = [
        name for name, value in example.items() if isinstance(value, list) and isinstance(value[0], dict)
    ]
    for name in lists:  # a turn or message is broken too
        turn = data.draw(st.dictionaries(NAMES, ANY, max_size=2))
        raw[name] = [example[name][0] | turn, *example[name][1:]]
    try:
        talk = read(raw)
    except DataError as error:
        assert str(error).startswith("/pictures/data.json:1: ") and len(str(error).splitlines()) == 1
    else:
        assert isinstance(talk, Conversation)


def test_a_system_text_beside_a_talk_of_greetings_only_is_no_traceback():
    talk = read({"conversations": [{"from": "gpt", "value": "Hello!"}], "system": "s"})
    assert talk == Conversation((system("s"),))
