"""Indexed reading equals parsing the whole file, whatever the file holds and wherever the blocks are cut."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.data import index
from llavakit.data.index import TextRows, Unreadable, index_text
from llavakit.data.records import read_records

FEW = settings(derandomize=True, deadline=None, max_examples=60)
NASTY = st.text(st.sampled_from('"\\{}[],:\n\r\t ua0\u2028\x85é東🙂\ud800'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3),
    max_leaves=8,
)
CHUNKS = st.integers(1, 9) | st.just(1 << 20)
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"indent": "\t"}, {"separators": (",", ":")}])


def spans(path: Path, chunk: int) -> tuple[list, list[int]]:
    """The entries of a file by its index, and their lines."""
    data = path.read_bytes()
    found = index_text(path, chunk).tolist()
    return [json.loads(data[start:end]) for start, end, _ in found], [line for _, _, line in found]


def lines_of_a_list(text: str) -> list[int]:
    """The slow twin: parse one entry after the other and count the newlines before it."""
    decoder, at, out = json.JSONDecoder(), text.index("[") + 1, []
    while True:
        while text[at] in " \n\r\t,":
            at += 1
        if text[at] == "]":
            return out
        out.append(text.count("\n", 0, at) + 1)
        _, at = decoder.raw_decode(text, at)


@FEW
@given(
    values=st.lists(VALUES, max_size=6), layout=LAYOUTS, chunk=CHUNKS, ascii=st.booleans(), mark=st.booleans()
)
def test_a_list_is_split_where_a_parser_splits_it(tmp_path_factory, values, layout, chunk, ascii, mark):
    path = tmp_path_factory.mktemp("index") / "a.json"
    text = json.dumps(values, ensure_ascii=ascii, **layout)
    if not ascii:
        text = text.replace("\ud800", "x")  # half a letter has no bytes of its own
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    entries, lines = spans(path, chunk)
    assert entries == json.loads(text)
    assert lines == lines_of_a_list(text)


@FEW
@given(
    values=st.lists(VALUES.filter(lambda v: not isinstance(v, list)), max_size=6),
    chunk=CHUNKS,
    data=st.data(),
)
def test_lines_are_split_where_they_end(tmp_path_factory, values, chunk, data):
    path = tmp_path_factory.mktemp("index") / "a.jsonl"
    blank = st.sampled_from(["", "\n", " \t\n", "\r\n\n"])
    text = "".join(data.draw(blank) + json.dumps(value) + "\n" for value in values) + data.draw(blank)
    path.write_bytes(text.encode())
    entries, lines = spans(path, chunk)
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    assert entries == values == [json.loads(line) for _, line in rows]
    assert lines == [number for number, _ in rows]


@FEW
@given(
    values=st.lists(st.dictionaries(NASTY, VALUES, min_size=1, max_size=3), min_size=1, max_size=4),
    indent=st.sampled_from([1, 4, "\t"]),
    between=st.sampled_from(["\n", "", "\r\n\n "]),
    chunk=CHUNKS,
    mark=st.booleans(),
)
def test_objects_over_several_lines_are_an_entry_each(tmp_path_factory, values, indent, between, chunk, mark):
    path = tmp_path_factory.mktemp("index") / "a.json"
    texts = [json.dumps(value, indent=indent) for value in values]
    path.write_bytes(b"\xef\xbb\xbf" * mark + between.join(texts).encode())
    entries, lines = spans(path, chunk)
    assert entries == values
    assert lines == [1 + between.join([*texts[:at], ""]).count("\n") for at in range(len(texts))]


@pytest.mark.parametrize("first", ['{"a": [', '{"a": {"b": 1}', '{"a": "[', "{"])
def test_a_first_line_that_is_cut_leaves_the_others_readable(first, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(first + '\n{"b": 1}\n{"c": 2}\n')
    rows = TextRows(path)
    assert isinstance(rows.raw(0), Unreadable)
    assert [rows.raw(1), rows.raw(2)] == [{"b": 1}, {"c": 2}]


def test_a_number_longer_than_python_reads_and_a_file_that_is_gone_are_told_when_they_are_used(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": ' + "9" * 5000 + "}\n{}")
    rows = TextRows(path)
    assert "4300 digits" in rows.raw(0).problem and rows.raw(1) == {}
    path.unlink()
    assert rows.raw(1) == Unreadable("cannot be read: No such file or directory")


@FEW
@given(cut=st.integers(0, 200), chunk=CHUNKS)
def test_a_cut_list_is_one_line_or_what_is_whole(tmp_path_factory, cut, chunk):
    path = tmp_path_factory.mktemp("index") / "a.json"
    whole = json.dumps([{"a": 'x "\\', "b": [1, {"c": "]"}]}] * 4, indent=1)
    path.write_text(whole[:cut])
    try:
        json.loads(whole[:cut])
    except json.JSONDecodeError:
        if whole[:cut]:
            with pytest.raises(DataError) as caught:
                index_text(path, chunk)
            assert str(caught.value).startswith(f"{path}:") and "\n" not in str(caught.value)
        else:
            assert len(index_text(path, chunk)) == 0
    else:
        assert len(index_text(path, chunk)) == 4


def test_a_gap_of_blanks_longer_than_a_block_is_passed_at_once(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1," + " \n" * 3_000_000 + "2]")
    began = time.perf_counter()
    assert spans(path, 1 << 20) == ([1, 2], [1, 3_000_001])
    assert time.perf_counter() - began < 5


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """Every index is kept, in a folder of the test's own."""
    monkeypatch.setenv("LLAVAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "KEEP_FROM", 0)
    return tmp_path / "cache" / "index"


def test_a_large_file_is_indexed_once_and_again_when_it_changes(kept, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    assert len(TextRows(path)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(index, "index_text", None)  # would fail if it were called
        rows = TextRows(path)
    assert [rows.raw(0), rows.raw(1)] == [1, 2]
    assert isinstance(rows._spans_N3, np.memmap)
    path.write_text("[1, 2, 3]")
    assert len(TextRows(path)) == 3
    os.utime(path, ns=(1, 1))
    path.write_text("[4, 5, 6]")
    assert [TextRows(path).raw(at) for at in range(3)] == [4, 5, 6]


def test_a_broken_or_forbidden_cache_is_done_without(kept, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    TextRows(path)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert len(TextRows(path)) == 2
    (tmp_path / "file").write_text("no folder can be here")
    monkeypatch.setenv("LLAVAKIT_CACHE", str(tmp_path / "file"))
    assert len(TextRows(path)) == 2


def test_a_file_that_changed_after_it_was_opened_is_told_and_not_misread(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"b": 2}]')
    rows = TextRows(path)
    path.write_text('["a much longer text than before"]')
    assert all(isinstance(rows.raw(at), Unreadable) for at in range(2))


@pytest.mark.slow
def test_two_hundred_thousand_records_open_in_seconds_and_take_24_bytes_each(tmp_path):
    path = tmp_path / "big.json"
    record = {"image": "x.png", "conversations": [{"from": "human", "value": '<image>\n"q" [a]'}] * 2}
    body = json.dumps(record)[1:]
    with path.open("w") as file:
        file.write("[\n" + ",\n".join(f'{{"id": "{number}", {body}' for number in range(200_000)) + "\n]")
    tracemalloc.start()
    began = time.process_time()
    records = read_records(path)
    seconds = time.process_time() - began
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 200_000
    assert seconds < 10  # of the processor; about half a second
    assert held < 200_000 * 24 + 1_000_000
    assert peak < path.stat().st_size
    last = records[199_999]
    assert (last.raw["id"], last.line) == ("199999", 200_001)
