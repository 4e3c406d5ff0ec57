"""A session: what was answered is on the disk, once; undo gives back every pixel."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from llavakit.core.errors import ConfigError, DataError
from llavakit.studio.commands import KINDS, read_command, write_command
from llavakit.studio.history import Limits
from llavakit.studio.render import flatten
from llavakit.studio.scene import EditError
from llavakit.studio.session import Conflict, Gone, Session
from tests.studio.asked import COMMANDS, SEQUENCES
from tests.studio.pictures import bench, disc, pixels_of, png, scenery

ROOT = Path(__file__).parents[2]
PHOTO = png(scenery())
MANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def session(tmp_path):
    session = Session.create(tmp_path / "one", PHOTO, bench())
    yield session
    session.close()


def reopened(session):
    session.close()
    return Session.open(session._store.folder, bench())


def flat(session):
    return flatten(session.scene)


@MANY
@given(SEQUENCES)
def test_undo_after_anything_gives_back_every_pixel_and_redo_does_it_again(commands):
    session = Session.create(None, PHOTO, bench())
    start = pixels_of(session.scene)
    for command in commands:
        with suppress(EditError):
            session.apply(command)
    _repeat(session, "redo")
    end = pixels_of(session.scene)
    _repeat(session, "undo")
    assert pixels_of(session.scene) == start
    _repeat(session, "redo")
    assert pixels_of(session.scene) == end


def _repeat(session, kind):
    while session.describe()[f"can_{kind}"]:
        session.apply({"do": kind})


@MANY
@given(SEQUENCES)
def test_a_session_that_is_opened_again_is_the_same(tmp_path_factory, commands):
    session = Session.create(tmp_path_factory.mktemp("session") / "one", PHOTO, bench())
    for command in commands:
        with suppress(EditError):
            session.apply(command)
    said, scene = session.describe(), session.scene
    again = reopened(session)
    assert again.describe() == said
    assert pixels_of(again.scene) == pixels_of(scene)
    _repeat(again, "undo")
    assert np.array_equal(flat(again)[..., :3], scenery())
    again.close()


@MANY
@given(COMMANDS)
def test_a_command_is_plain_data(command):
    read = read_command(command)
    assert read_command(json.loads(json.dumps(write_command(read)))) == read


def test_every_command_is_drawn_in_these_tests_or_needs_an_engine_here():
    drawn = {json.loads(json.dumps(c))["do"] for c in _examples()}
    assert set(KINDS) - drawn == {
        "load_mask", "transform", "edit", "generate", "save_version", "restore", "say",
    }  # fmt: skip


@pytest.fixture(scope="module")
def tried():
    """How often each command was done, and how often it could not be, in sequences as drawn here."""
    done, refused = Counter(), Counter()

    @settings(MANY, max_examples=100, derandomize=True, database=None)
    @given(SEQUENCES)
    def look(commands):
        session = Session.create(None, PHOTO, bench())
        for command in commands:
            try:
                session.apply(command)
                done[command["do"]] += 1
            except EditError:
                refused[command["do"]] += 1

    look()
    return done, refused


def test_most_commands_of_these_tests_can_be_done(tried):
    done, refused = tried
    assert sum(done.values()) > 2 * sum(refused.values())
    assert {"remove", "move", "resize", "replace"} <= set(done) and len(done) > 15


def _examples():
    found = []

    @settings(max_examples=400, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(COMMANDS)
    def look(command):
        found.append(command)

    look()
    return found


def test_the_same_id_is_answered_once(session):
    command = {"do": "paint", "path": [[40, 40]], "width": 30}
    first = session.apply(command, id="a")
    assert session.apply(command, id="a") == first and session.rev == 1
    with pytest.raises(EditError, match="another command"):
        session.apply({"do": "invert"}, id="a")
    again = reopened(session)
    assert again.apply(command, id="a").rev == 1 == again.rev


def test_a_command_for_an_older_revision_is_refused_and_changes_nothing(session):
    session.apply({"do": "invert"}, base_rev=0)
    with pytest.raises(Conflict) as caught:
        session.apply({"do": "deselect"}, base_rev=0)
    assert caught.value.rev == 1 == session.rev and session.scene.selection is not None


def test_two_tabs_lose_nothing(session):
    """Each says what it sees, and asks again where that was old: all strokes of both are there."""

    def draw(row):
        for column in range(8):
            command = {"do": "paint", "path": [[20 + 30 * column, row]], "width": 8}
            rev = session.rev
            while True:
                try:
                    session.apply(command, id=f"{row} {column}", base_rev=rev)
                    break
                except Conflict as conflict:
                    rev = conflict.rev

    tabs = [threading.Thread(target=draw, args=(row,)) for row in (50, 100, 150)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert session.rev == 24
    mask = session.scene.selection.mask.read()[..., 0]
    assert all(mask[row, 20 + 30 * column] == 255 for row in (50, 100, 150) for column in range(8))


def test_a_gesture_is_undone_as_one(session):
    session.apply({"do": "select", "box": [50, 50, 90, 90]})
    for pixels in (1, 2, 3):
        session.apply({"do": "grow", "pixels": pixels}, gesture="slider")
    grown = session.describe()["selection"]["box"]
    session.apply({"do": "undo"})
    assert session.describe()["selection"]["box"] == [50, 50, 90, 90]
    session.apply({"do": "redo"})
    assert session.describe()["selection"]["box"] == grown == [44, 44, 96, 96]


def test_undoing_a_removal_brings_the_selection_back(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    session.apply({"do": "remove", "fill": "preview"})
    assert session.scene.selection is None and session.describe()["holes"] == 1
    session.apply({"do": "undo"})
    assert session.describe()["selection"]["box"] == [90, 90, 160, 180]
    assert np.array_equal(flat(session)[..., :3], scenery())


def test_nothing_outside_of_the_grown_mask_changes(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    for fill in ("preview", "final"):
        session.apply({"do": "remove", "fill": fill, "grow": 4})
        changed = (flat(session)[..., :3] != scenery()).any(axis=-1)
        allowed = np.zeros_like(changed)
        allowed[86:184, 86:164] = True
        assert changed.any() and not (changed & ~allowed).any()
        session.apply({"do": "undo"})


def test_the_final_fill_replaces_the_preview_within_one_gesture(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    session.apply({"do": "remove", "fill": "preview"}, gesture="remove")
    preview = flat(session)
    session.apply({"do": "refine"}, gesture="remove")
    assert session.describe()["holes"] == 0 and (flat(session) != preview).any()
    assert (flat(session)[135, 120, :3] == (0, 0, 7)).all()
    session.apply({"do": "undo"})
    assert np.array_equal(flat(session)[..., :3], scenery())
    with pytest.raises(EditError, match="no place waits"):
        session.apply({"do": "refine"})


def test_versions_outlive_undo(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    session.apply({"do": "remove"})
    session.apply({"do": "save_version", "name": "empty"})
    removed = flat(session)
    session.apply({"do": "undo"})
    session.apply({"do": "invert"})
    again = reopened(session)
    again.apply({"do": "restore", "name": "empty"})
    assert np.array_equal(flat(again), removed)
    again.apply({"do": "undo"})
    assert np.array_equal(flat(again)[..., :3], scenery())
    with pytest.raises(EditError, match="no version 'x'"):
        again.apply({"do": "restore", "name": "x"})


def test_the_chat_is_kept_and_is_no_step(session):
    session.apply({"do": "say", "role": "user", "text": "<image> what is red?"})
    session.apply(
        {
            "do": "say",
            "role": "assistant",
            "text": "this",
            "boxes": [[1, 2, 3, 4]],
            "proposal": [{"do": "invert"}],
        }
    )
    assert not session.describe()["can_undo"]
    talk = reopened(session).describe()["talk"]
    assert [(turn["role"], turn["text"], turn["rev"]) for turn in talk] == [
        ("user", "<image> what is red?", 0), ("assistant", "this", 1),
    ]  # fmt: skip
    assert talk[1]["proposal"] == [{"do": "invert"}]


def test_old_steps_are_forgotten_within_the_limits(tmp_path):
    small = Session.create(tmp_path / "steps", PHOTO, bench(), limits=Limits(steps=3))
    for number in range(6):
        small.apply({"do": "paint", "path": [[40 * number, 40]]})
    with pytest.raises(Gone):
        small.tile(1, 0, 0, 0)
    again = reopened(small)
    for _ in range(3):
        again.apply({"do": "undo"})
    with pytest.raises(EditError, match="nothing to undo"):
        again.apply({"do": "undo"})
    heavy = Session.create(None, PHOTO, bench(), limits=Limits(megabytes=1))
    for number in range(40):  # each leaves up to four tiles of a mask behind: 81 kB
        heavy.apply({"do": "paint", "path": [[10, 10 + number], [290, 260]], "width": 9})
    assert 10 < len(heavy._history.scenes()) < 20


def test_what_changed_is_said(session):
    assert session.apply({"do": "invert"}).damage is None
    session.apply({"do": "select", "box": [10, 10, 30, 30]})
    assert session.apply({"do": "move", "dx": 250, "dy": 240}).damage is not None
    layer = session.describe()["layers"][-1]
    answer = session.apply({"do": "move", "dx": -3, "dy": 0, "layer": layer["id"]})
    left, top, right, bottom = answer.damage
    assert left <= 257 and right >= 275 and top > 230 and bottom - top < 40
    assert session.apply({"do": "undo"}).damage == answer.damage


def test_tiles_show_what_a_revision_looked_like(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    session.apply({"do": "remove"})
    assert np.array_equal(session.tile(0, 0, 1, 1)[..., :3], scenery()[256:, 256:])
    assert (session.tile(2, 0, 0, 0)[135, 120, :3] == (0, 0, 7)).all()
    assert session.tile(2, 1, 0, 0).shape == (135, 150, 4)
    assert (session.tile(2, 1, 0, 0)[67, 60, :3] == (0, 0, 7)).all()
    assert session.mask_tile(1, 0, 0, 0)[100, 100] == 255
    assert session.tile(0, 0, 9, 9).size == 0


def test_a_large_hole_is_warned_of(session):
    session.apply({"do": "select", "box": [0, 0, 200, 200]})
    assert "is guessed badly" in session.apply({"do": "remove"}).notes[0]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ({"do": "erase"}, "unknown command 'erase'"),
        ({}, "says what to `do`"),
        ({"do": "grow"}, "grow: pixels: field required"),
        ({"do": "grow", "pixels": 10**9}, "grow: pixels"),
        ({"do": "grow", "pixels": 3}, "nothing is selected"),
        ({"do": "move", "dx": float("nan")}, "move: dx"),
        ({"do": "move", "layer": 7}, "there is no layer 7"),
        ({"do": "remove", "layer": 0}, "only layer"),
        ({"do": "edit", "prompt": "make it night", "engine": "absent"}, "pip install nothing"),
        ({"do": "generate", "caption": "a cat"}, "no engine to generate"),
        ({"do": "transform", "layer": 0, "matrix": [0, 0, 0, 0, 0, 0]}, "too thin"),
        ({"do": "transform", "layer": 0, "matrix": [90000, 0, 0, 0, 90000, 0]}, "too large"),
        ({"do": "load_mask", "rle": {"size": [2, 2], "counts": "13"}}, "the mask is for 2 x 2 pixels"),
        ({"do": "select", "box": [900, 0, 950, 9]}, "holds no pixel"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_work_is_one_line(session, command, line):
    with pytest.raises((EditError, DataError)) as caught:
        session.apply(command)
    assert line in str(caught.value) and "\n" not in str(caught.value) and session.rev == 0


def test_a_session_belongs_to_one_process_and_its_picture(tmp_path, session):
    folder = session._store.folder
    with pytest.raises(ConfigError, match="another process"):
        Session.open(folder, bench())
    session.close()
    (folder / "picture").write_bytes(png(scenery(seed=1)))
    with pytest.raises(DataError, match="not the one that the session began with"):
        Session.open(folder, bench())
    with pytest.raises(ConfigError, match="not a session"):
        Session.open(tmp_path / "gone", bench())
    with pytest.raises(ConfigError, match="exists"):
        Session.create(folder, PHOTO, bench())


WORK = """
import sys, threading
from pathlib import Path
from llavakit.studio.session import Session
from tests.studio.pictures import bench
session = Session.open(Path(sys.argv[1]), bench())
for number in range(10_000):
    x = 20 + number % 13 * 20
    session.apply({"do": "select", "box": [x, 40, x + 15, 90]}, id=f"s{number}")
    print(f"s{number}", flush=True)
    session.apply({"do": "remove", "fill": "preview"}, id=f"r{number}")
    print(f"r{number}", flush=True)
"""


@pytest.mark.parametrize("lines", [3, 8])
def test_a_killed_process_loses_nothing_that_was_answered(session, lines):
    folder = session._store.folder
    session.close()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    said = [process.stdout.readline().strip() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    again = Session.open(folder, bench())
    assert len(said) >= lines and set(said) <= set(again._known.answers)
    assert again.rev - len(said) in (0, 1)  # one more may have been written and not yet said
    assert (flat(again)[60, 25, :3] != scenery()[60, 25]).any()
    _repeat(again, "undo")
    assert np.array_equal(flat(again)[..., :3], scenery())


def test_what_a_killed_process_left_unfinished_is_cut_off(session):
    session.apply({"do": "select", "box": [90, 90, 160, 180]})
    session.apply({"do": "remove"})
    folder, removed = session._store.folder, flat(session)
    session.close()
    for name in ("journal.jsonl", "tiles.bin"):
        with (folder / name).open("ab") as file:
            file.write(b'{"id": "half')
    again = Session.open(folder, bench())
    assert again.rev == 2 and np.array_equal(flat(again), removed)
    again.apply({"do": "undo"})
    again.apply({"do": "move", "dx": 50})
    assert np.array_equal(flat(reopened(again)), flatten(again.scene))
    assert disc().sum() > 1000
