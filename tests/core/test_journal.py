"""A file that only grows, whatever ends the process that writes it."""

import signal
import subprocess
import sys
import time

import pytest

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.journal import open_journal, read_journal

CHILD = """
import sys
from pathlib import Path
from llavakit.core.journal import open_journal
with open_journal(Path(sys.argv[1])) as (_, journal):
    for number in range(10**6):
        journal.add([{"n": number}])
"""


def test_rows_of_a_process_that_was_killed_are_whole_and_it_goes_on(tmp_path):
    path = tmp_path / "a" / "b.jsonl"
    with subprocess.Popen([sys.executable, "-c", CHILD, path]) as child:
        end = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < end and child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"n": ')  # a line that was being written
    count = len(read_journal(path))
    with open_journal(path) as (rows, journal):
        assert rows == [{"n": n} for n in range(count)]
        journal.add([{"n": count}])
    assert read_journal(path) == [{"n": n} for n in range(count + 1)]


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1}]',  # a data file, written without a line break at its end
        '[\n {"id": 1},\n {"id": 2}\n]',
        "id\tquestion\n1\tWhat?",
        '{\n "a": 1\n}',
        "a note",
    ],
)
def test_a_file_of_somebody_else_is_refused_and_stays_as_it_is(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.json"), open_journal(path):
        pass
    assert path.read_text() == text


def test_a_whole_row_without_its_line_break_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in ('{"n": 0}', '{"n": 0}\n{"n": 1}'):
        path.write_text(text)
        with open_journal(path) as (rows, _):
            assert [row["n"] for row in rows] == list(range(len(rows))) and len(rows) == text.count("n")


@pytest.mark.parametrize("place", [".", "file/a.jsonl"])
def test_a_place_where_no_file_can_be_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: "), open_journal(tmp_path / place):
        pass


def test_two_writers_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    first, second = open_journal(path), open_journal(path)
    with first, pytest.raises(ConfigError, match="another process is adding to it"), second:
        pass
    path.write_text("{}\n[1]\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: not a line that was written here"):
        read_journal(path)
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        read_journal(tmp_path / "gone.jsonl")
