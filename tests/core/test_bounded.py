"""A function in a process of its own: what it says, and what is said of one that is late, too large or broken."""

import os
import signal

import pytest

from llavakit.core.bounded import Bounded
from llavakit.core.errors import ConfigError

PROGRAM = """
import os, subprocess, time
print("at the start")

def reply_to(question):
    print("is asked", question)
    if question == "sleep":
        time.sleep(60)
    if question == "eat":
        return len(bytearray(1 << 34))
    if question == "die":
        os._exit(3)
    if question == "read":
        return input()
    if question == "object":
        return object()
    return {"pid": os.getpid(), "words": words}[question]
"""


@pytest.fixture(scope="module")
def child():
    with Bounded(PROGRAM, words=("a b", "c"), seconds=0.3, memory=1, needs="the test's program") as process:
        yield process


def test_it_replies_and_is_kept(child):
    first = child.ask("pid").value
    assert child.ask("words").value == ["a b", "c"] and child.ask("pid").value == first != os.getpid()


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("sleep", "took over 0.3 s"),
        ("eat", "MemoryError: "),
        ("die", "its process ended"),
        ("read", "EOFError: EOF when reading a line"),
        ("object", "TypeError: Object of type object is not JSON serializable"),
        ("other", "KeyError: 'other'"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_question_is_answered(child, question, problem):
    found = child.ask(question)
    assert found.value is None and (found.problem or "").startswith(problem)
    assert child.ask("words").value == ["a b", "c"]


def test_a_child_that_was_killed_from_outside_is_started_anew(child):
    before = child.ask("pid").value
    os.kill(before, signal.SIGKILL)
    assert child.ask("pid").problem == "its process ended"
    assert child.ask("pid").value != before


def test_a_program_that_does_not_start_is_one_line():
    with (
        Bounded("import nowhere", seconds=1, needs="this needs nowhere") as process,
        pytest.raises(
            ConfigError, match=r"^this needs nowhere: ModuleNotFoundError: No module named 'nowhere'"
        ),
    ):
        process.ask(1)
