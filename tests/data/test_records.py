"""Data files: the same records from every spelling, and one line with file and line for every flaw."""

import json
from pathlib import Path

import pytest

from llavakit.core.errors import DataError
from llavakit.data.records import read_records
from llavakit.text.conversation import Conversation, Image, assistant, system, user
from tests import tiny

TALK = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A shape."}]
RECORDS = [{"id": str(number), "conversations": TALK, "note": "東京 [x], {y}"} for number in range(3)]


def put(folder: Path, text: str, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def talk(*turns: tuple[object, object], **more: object) -> dict:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **more}


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


SPELLINGS = {
    "pretty list": (json.dumps(RECORDS, indent=2), [2, 16, 30]),
    "list on one line": (json.dumps(RECORDS), [1, 1, 1]),
    "a record per line, as a list": ("[\n" + ",\n".join(json.dumps(r) for r in RECORDS) + "\n]\n", [2, 3, 4]),
    "list after blank lines": ("\n \n" + json.dumps(RECORDS), [3, 3, 3]),
    "list with CRLF": (json.dumps(RECORDS, indent=2).replace("\n", "\r\n"), [2, 16, 30]),
    "list with a byte order mark": ("\ufeff" + json.dumps(RECORDS), [1, 1, 1]),
    "lines": (lines(*RECORDS), [1, 2, 3]),
    "lines without the last newline": (lines(*RECORDS).rstrip(), [1, 2, 3]),
    "lines with blank lines": (lines(*RECORDS).replace("\n", "\n\n  \n"), [1, 4, 7]),
    "lines with CRLF": (lines(*RECORDS).replace("\n", "\r\n"), [1, 2, 3]),
    "lines in UTF-8": ("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in RECORDS), [1, 2, 3]),
    "lines with a byte order mark": ("\ufeff" + lines(*RECORDS), [1, 2, 3]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_records_with_their_lines(spelling, tmp_path):
    text, numbers = SPELLINGS[spelling]
    path = put(tmp_path, text)
    records = read_records(path)
    assert [record.raw for record in records] == RECORDS
    assert [record.line for record in records] == numbers
    assert [record.name for record in records] == [f"{path}:{number}" for number in numbers]
    assert {record.conversation() for record in records} == {
        Conversation((user("What?"), assistant("A shape.")))
    }


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_a_line_is_ended_by_a_newline_only(letter, tmp_path):
    """JSON strings may hold these letters, which Python's splitlines takes for line ends."""
    record = talk(("human", f"a{letter}b"), ("gpt", "c"))
    path = put(tmp_path, json.dumps(record, ensure_ascii=False) + "\n" + json.dumps(record))
    first, second = read_records(path)
    assert first.raw == second.raw == record
    assert second.line == 2


@pytest.mark.parametrize("text", ["", "\n\n", "[]", " [ \n ] \n"])
def test_an_empty_file_has_no_records(text, tmp_path):
    assert list(read_records(put(tmp_path, text))) == []


FLAWS = {
    "not an object": ([1, 2], "a record must be an object, found list"),
    "a string": ("text", "a record must be an object, found str"),
    "a foreign record": (
        {"id": "1", "caption": "c"},
        "a record of no dialect that is known (llava-plus, sharegpt, llava, ",
    ),
    "no field": ({}, "a record of no dialect that is known"),
    "a pair": (
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "a pair of answers (trl-pairs), for dpo, kto and reward, and no conversation",
    ),
    "empty conversations": ({"conversations": []}, "'conversations' must be a non-empty list"),
    "conversations a text": ({"conversations": "hello"}, "'conversations' must be a non-empty list"),
    "a turn a text": (
        {"conversations": ["hello"]},
        "conversations[0] must be an object, found str",
    ),
    "no value": (
        {"conversations": [{"from": "human"}]},
        "conversations[0] must have the texts 'from' and 'value'",
    ),
    "value a number": (
        talk(("human", "q"), ("gpt", 3)),
        "conversations[1] must have the texts 'from' and 'value'",
    ),
    "no speaker": (
        {"conversations": [{"value": "q"}]},
        "conversations[0].from is None; valid: human, user, gpt",
    ),
    "unknown speaker": (
        talk(("robot", "q")),
        "conversations[0].from is 'robot'; valid: human, user, gpt, assistant",
    ),
    "speaker a list": (talk((["human"], "q")), "conversations[0].from is ['human']; valid: human, user"),
    "empty answer": (talk(("human", "q"), ("gpt", "")), "conversations[1].value is an empty answer"),
    "blank answer": (talk(("human", "q"), ("gpt", " \n")), "conversations[1].value is an empty answer"),
    "half a character": (
        talk(("human", "a\ud800"), ("gpt", "a")),
        "conversations[0].value holds half a character",
    ),
    "more placeholders": (
        talk(("human", "<image>\n<image>\nq"), ("gpt", "a"), image="x.png"),
        "2 <image> placeholder(s) in the text but 1 image(s) listed",
    ),
    "more images": (
        talk(("human", "<image>\nq"), ("gpt", "a"), image=["x.png", "y.png"]),
        "1 <image> placeholder(s) in the text but 2 image(s) listed",
    ),
    "placeholder without image": (
        talk(("human", "<image>\nq"), ("gpt", "a")),
        "1 <image> placeholder(s) in the text but 0 image(s) listed",
    ),
    "image without placeholder": (
        talk(("human", "q"), ("gpt", "a"), image="x.png"),
        "0 <image> placeholder(s) in the text but 1 image(s) listed",
    ),
    "image a number": (
        talk(("human", "<image>"), ("gpt", "a"), image=3),
        "'image' must be a path or a list of paths",
    ),
    "image an object": (
        talk(("human", "q"), ("gpt", "a"), image={"a": 1}),
        "'image' must be a path or a list of",
    ),
    "image list of numbers": (
        talk(("human", "q"), ("gpt", "a"), image=[3]),
        "'image' must be a path or a list of",
    ),
    "image without name": (
        talk(("human", "q"), ("gpt", "a"), image=""),
        "'image' must be a path or a list of paths",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_told_with_file_and_line(flaw, tmp_path):
    record, problem = FLAWS[flaw]
    for path in (
        put(tmp_path, lines(RECORDS[0], record, RECORDS[1]), "lines.jsonl"),
        put(
            tmp_path,
            "[" + lines(RECORDS[0], record, RECORDS[1]).strip().replace("\n", ",\n") + "]",
            "list.json",
        ),
    ):
        good, bad, other = read_records(path)
        good.conversation()
        other.conversation()
        with pytest.raises(DataError) as caught:
            bad.conversation()
        assert str(caught.value).startswith(f"{path}:2: {problem}")
        assert "fix the record or set data.on_bad=skip" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_malformed_line_fails_when_it_is_used_and_not_before(tmp_path):
    path = put(tmp_path, json.dumps(RECORDS[0]) + '\n{"id": 1, "conversations": [\n' + json.dumps(RECORDS[1]))
    first, bad, last = read_records(path)
    assert first.conversation() == last.conversation()
    with pytest.raises(DataError, match=r"data\.json:2: not JSON: Expecting value \(column"):
        bad.conversation()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{}\n {}", r":3: not JSON: Extra data \(line 4, column 2\)"),
        ('{"a": ]', r":3: not JSON: Expecting value \(column 7\)"),
        ("[" * 100_000 + "]" * 100_000, ":3: not a record: nested too deep"),
    ],
)
def test_a_malformed_entry_of_a_list_fails_when_it_is_used_and_not_before(entry, problem, tmp_path):
    good = json.dumps(RECORDS[0])
    first, bad, last = read_records(put(tmp_path, f"[\n{good},\n{entry},\n{good}]"))
    assert first.conversation() == last.conversation()
    with pytest.raises(DataError, match=problem):
        bad.conversation()


LIST = json.dumps(RECORDS, indent=2)
BROKEN_LISTS = {
    "cut in a record": (LIST[: len(LIST) // 2], "not JSON: "),
    "cut after a record": ("[\n{},\n{}\n", ":4: not JSON: expected ',' or ']' after a record"),
    "cut after a comma": ("[\n{},\n", ":3: not JSON: Expecting value"),
    "a comma too many": ("[\n{},\n,{}]", ":3: not JSON: an entry is missing between two commas or brackets"),
    "a comma at the end": ("[\n{},\n]", ":3: not JSON: an entry is missing between two commas or brackets"),
    "a text without its end": ('[\n{},\n{"a": "b},\n{}]', ":3: not JSON: "),
    "two lists": ("[{}]\n[{}]", ":2: not JSON: something follows the list"),
    "only a bracket": ("[", ":1: not JSON: Expecting value"),
}


@pytest.mark.parametrize("name", BROKEN_LISTS)
def test_a_broken_list_is_one_line_with_its_place(name, tmp_path):
    text, problem = BROKEN_LISTS[name]
    path = put(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}:")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_and_a_binary_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: data file not found"):
        read_records(tmp_path / "gone.json")
    with pytest.raises(DataError, match="a directory, but not one that `datasets` saved"):
        read_records(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\x80\xff\x00")
    with pytest.raises(
        DataError, match=r"binary\.json:1: not UTF-8: invalid start byte at byte 0 of the record"
    ):
        read_records(tmp_path / "binary.json")[0].conversation()


def test_text_only_is_legal(tmp_path):
    (record,) = read_records(put(tmp_path, lines(tiny.record(0, None, [("q", "a")]))))
    assert record.conversation() == Conversation((user("q"), assistant("a")))


def test_a_leading_answer_is_dropped(tmp_path):
    path = put(tmp_path, lines(talk(("gpt", "Welcome!"), ("human", "q"), ("gpt", "a"))))
    assert read_records(path)[0].conversation() == Conversation((user("q"), assistant("a")))


def test_both_spellings_of_roles_and_a_system_message_are_read(tmp_path):
    path = put(tmp_path, lines(talk(("system", "s"), ("user", "q"), ("assistant", "a"))))
    assert read_records(path)[0].conversation() == Conversation((system("s"), user("q"), assistant("a")))


def test_images_stand_where_the_placeholders_are_and_in_their_folder(tmp_path):
    raw = talk(("human", "a <image> b <image>"), ("gpt", "<image> said"), ("human", "<image>"), ("gpt", "d"))
    path = put(tmp_path, lines(raw | {"image": ["1.png", "sub/2.png", "/abs/3.png"]}))
    for folder, base in ((None, tmp_path), (Path("/pictures"), Path("/pictures"))):
        (record,) = read_records(path, folder)
        first, answer, second, _ = record.conversation().messages
        assert [part.text if not isinstance(part, Image) else part.source for part in first.parts] == [
            "a ", base / "1.png", " b ", base / "sub/2.png",
        ]  # fmt: skip
        assert answer == assistant("<image> said")
        assert [image.source for image in second.images] == [Path("/abs/3.png")]
