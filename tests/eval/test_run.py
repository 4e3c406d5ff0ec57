"""A run from the command line: asked, kept, gone on with, scored again; and what users get wrong is one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llavakit.chat import load
from llavakit.core.errors import ConfigError, DataError, Interrupted, UserError
from llavakit.engine.responder import Answer
from llavakit.eval.answers import open_answers, picture_digests
from llavakit.eval.benchmark import Question
from llavakit.eval.plan import plan_tasks
from llavakit.eval.run import ANSWERS, PAGE, RESULTS, evaluate, rescore
from llavakit.model import checkpoint
from llavakit.remote import Remote
from llavakit.text.conversation import user
from tests import tiny
from tests.eval.layouts import written
from tests.eval.responders import Scripted, always
from tests.serve.live import ScriptedWorker, served

WHO = {"model": "scripted", "weights": None}


def red(*_) -> Answer:
    return Answer("red", "stop")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


def start(data, responder, out, *tasks, limit=None, **how):
    return evaluate(responder, WHO, plan_tasks(tasks, data, limit, how.get("rules")), out, **how)


def test_the_tiny_model_is_measured_from_the_command_line(run, model, tmp_path):
    for task in ("vqav2", "pope"):
        written(task, tmp_path / "data")
    words = (
        "eval",
        "vqav2",
        "pope",
        "--data",
        tmp_path / "data",
        "--model",
        model,
        "--out",
        tmp_path / "run",
    )
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines() if line.startswith(("task", "vqav2 ", "pope ")))
    results = json.loads((tmp_path / "run" / RESULTS).read_text())
    assert {name: list(each) for name, each in results.items()} == {
        "vqav2": ["official"],
        "pope": ["official"],
    }
    score = results["vqav2"]["official"]
    assert score["answered"] == 3 and score["truncated"] == 3  # it does not know to stop
    header = json.loads((tmp_path / "run" / "vqav2" / ANSWERS).read_text().splitlines()[0])
    assert len(header["weights"]) == 64 and header["sampling"] == {"max_tokens": 16}
    first = [(tmp_path / "run" / task / ANSWERS).read_bytes() for task in ("vqav2", "pope")]
    assert run(*words)[0] == 0  # again: everything is answered
    assert [(tmp_path / "run" / task / ANSWERS).read_bytes() for task in ("vqav2", "pope")] == first
    code, out, err = run("eval", "rescore", tmp_path / "run", "--rules", "lmms")
    assert (code, err) == (0, "") and "lmms" in out
    assert list(json.loads((tmp_path / "run" / RESULTS).read_text())["pope"]) == ["official", "lmms"]
    page = (tmp_path / "run" / "pope" / PAGE).read_text()
    assert page.count("<article") == 18 and page.count("data:image/jpeg") == 18


def test_a_server_is_measured_and_its_reason_to_end_is_kept(run, tmp_path):
    written("gqa", tmp_path)
    with served(ScriptedWorker("Yes.", finish="length")) as (url, _):
        assert [a.finish for a in Remote(url).answers([])] == []
        code, _, err = run("eval", "gqa", "--data", tmp_path, "--remote", url, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    score = json.loads((tmp_path / "run" / RESULTS).read_text())["gqa"]["official"]
    assert score["figures"] == {"accuracy": 100.0} and score["truncated"] == 3


def test_questions_about_one_picture_are_neighbours(tmp_path):
    folder = written("vqav2", tmp_path)
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    asked = json.loads(path.read_text())["questions"]
    path.write_text(json.dumps({"questions": [asked[0], asked[2], asked[1]]}))  # pictures 0, 1, 0
    responder = Scripted(red)
    start(tmp_path, responder, tmp_path / "run", "vqav2")
    assert [text[:9] for text in responder.asked] == ["What is 0", "What is 1", "What is 2"]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("llavakit.eval.ask.CHUNK", 4)
    written("pope", tmp_path)
    first, second = Scripted(red, dies_after=8), Scripted(red)
    with pytest.raises(Interrupted, match="pope: 8 of 18 answered") as stopped:
        start(tmp_path, first, tmp_path / "run", "pope")
    assert stopped.value.exit_code == 130
    [partial] = rescore(tmp_path / "run")
    assert (partial.answered, partial.questions) == (8, 18)
    [score] = start(tmp_path, second, tmp_path / "run", "pope")
    assert len(second.asked) == 10 and score.answered == 18
    [whole] = start(tmp_path, Scripted(red), tmp_path / "other", "pope")
    assert score == whole


CHILD = """
import sys, time
from pathlib import Path
from llavakit.eval import ask
from llavakit.eval.answers import open_answers
from llavakit.eval.plan import plan_tasks
from llavakit.eval.run import evaluate
from tests.eval.responders import Scripted
from tests.eval.test_run import WHO, red
ask.CHUNK = 2
def slow(*_):
    time.sleep(0.05)
    return red()
data, out = map(Path, sys.argv[1:])
evaluate(Scripted(slow), WHO, plan_tasks(["pope"], data, None, None), out)
"""


def test_after_kill_9_it_goes_on(tmp_path):
    written("pope", tmp_path)
    path = tmp_path / "run" / "pope" / ANSWERS
    with subprocess.Popen([sys.executable, "-c", CHILD, tmp_path, tmp_path / "run"], env=os.environ) as child:
        end = time.monotonic() + 120
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            assert time.monotonic() < end and child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"id": "random-5", "promp')  # a line that was being written
    before = path.read_bytes().count(b"\n") - 1
    responder = Scripted(red)
    [score] = start(tmp_path, responder, tmp_path / "run", "pope")
    assert 3 <= before < 18 and len(responder.asked) == 18 - before
    assert score.answered == 18 and b"promp{" not in path.read_bytes()


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    first, second = open_answers(path, {"task": "x"}), open_answers(path, {"task": "x"})
    with first, pytest.raises(ConfigError, match="another process is adding to it"), second:
        pass


def test_answers_of_a_model_in_another_guise_are_never_taken_up(tmp_path):
    """Four bits, tools: what the other run says of who answers and this one does not, too."""
    path = tmp_path / "a.jsonl"
    with open_answers(path, {"task": "x", "format": "int4"}):
        pass
    with pytest.raises(ConfigError, match="have format 'int4', not None"), open_answers(path, {"task": "x"}):
        pass


def test_changed_questions_pictures_models_and_lost_questions_are_refused_by_name(tmp_path):
    folder = written("vizwiz", tmp_path)
    rows = json.loads((folder / "val.json").read_text())

    def again(message):
        with pytest.raises(UserError, match=message):
            start(tmp_path, Scripted(red), tmp_path / "run", "vizwiz")

    start(tmp_path, Scripted(red), tmp_path / "run", "vizwiz")
    (folder / "val.json").write_text(json.dumps([rows[0] | {"question": "Other?"}, *rows[1:]]))
    again(r"question '0\.jpg' was asked in other words; use another --out")
    with pytest.raises(DataError, match="in other words"):
        rescore(tmp_path / "run")
    (folder / "val.json").write_text(json.dumps(rows[1:]))
    again(r"question '0\.jpg' is not in the data")
    (folder / "val.json").write_text(json.dumps(rows))
    kept = (folder / "val" / "1.jpg").read_bytes()
    (folder / "val" / "1.jpg").write_bytes((folder / "val" / "2.jpg").read_bytes())
    again(r"question '1\.jpg' was asked about another picture")
    (folder / "val" / "1.jpg").write_bytes(kept)
    with pytest.raises(ConfigError, match="answers have model 'scripted', not 'other'"):
        evaluate(
            Scripted(red), {"model": "other"}, plan_tasks(["vizwiz"], tmp_path, None, None), tmp_path / "run"
        )


def test_a_broken_picture_stops_or_is_skipped_and_counted_and_tried_again(tmp_path):
    folder = written("vizwiz", tmp_path)
    good = (folder / "val" / "1.jpg").read_bytes()
    (folder / "val" / "1.jpg").write_bytes(good[:60])
    with pytest.raises(DataError, match=r"question '1\.jpg': .*--on-bad skip"):
        start(tmp_path, Scripted(red), tmp_path / "run", "vizwiz")
    [score] = start(tmp_path, Scripted(red), tmp_path / "run", "vizwiz", on_bad="skip")
    assert (score.answered, score.skipped, score.figures) == (2, 1, {"accuracy": 100.0})
    (folder / "val" / "1.jpg").write_bytes(good)
    responder = Scripted(red)
    [score] = start(tmp_path, responder, tmp_path / "run", "vizwiz")
    assert (score.answered, score.skipped, len(responder.asked)) == (3, 0, 1)


def test_lines_in_another_order_and_asking_one_by_one_give_the_same(tmp_path, model, monkeypatch):
    written("pope", tmp_path)
    chat = load(model)
    [score] = start(tmp_path, chat, tmp_path / "run", "pope")
    monkeypatch.setattr("llavakit.eval.ask.CHUNK", 1)
    assert start(tmp_path, chat, tmp_path / "single", "pope") == [score]
    path = tmp_path / "run" / "pope" / ANSWERS
    header, *lines = path.read_text().splitlines(keepends=True)
    single = (tmp_path / "single" / "pope" / ANSWERS).read_text().splitlines(keepends=True)
    assert [header, *lines] == single
    path.write_text(header + "".join(reversed(lines)))
    assert rescore(tmp_path / "run") == [score]


def test_a_limit_keeps_together_what_counts_together(tmp_path):
    for task in ("mme", "mmbench"):
        written(task, tmp_path)
    mme, mmbench = start(tmp_path, Scripted(red), tmp_path / "run", "mme", "mmbench", limit=1)
    assert (mme.answered, mmbench.answered) == (2, 4)  # a picture; a question in four rotations


def test_a_limit_can_be_raised_later(tmp_path):
    written("gqa", tmp_path)
    [few] = start(tmp_path, Scripted(red), tmp_path / "run", "gqa", limit=2)
    responder = Scripted(red)
    [all_] = start(tmp_path, responder, tmp_path / "run", "gqa")
    assert (few.answered, all_.answered, len(responder.asked)) == (2, 3, 1)


def test_answers_are_scored_where_their_data_have_moved_and_without_pictures(tmp_path):
    folder = written("gqa", tmp_path)
    [score] = start(tmp_path, Scripted(red), tmp_path / "run", "gqa")
    for path in (folder / "images").iterdir():
        path.unlink()
    folder.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="not there"):
        rescore(tmp_path / "run")
    assert rescore(tmp_path / "run", data=tmp_path / "moved") == [score]


MISTAKES = {
    "unknown task": (["vqa2"], "unknown benchmark 'vqa2'; did you mean 'vqav2'"),
    "unknown rules": (["gqa", "--rules", "vlmevalkit"], "unknown rule set of GQA testdev 'vlmevalkit'"),
    "no files": (["gqa"], "not there: testdev_balanced_questions.json"),
    "no run": (["rescore", "gone"], "gone is not the directory of an evaluation"),
    "asking": (
        ["rescore", "gone", "--limit", 2, "--repeats", 3],
        "eval rescore has no use for --limit, --repeats; leave it out",
    ),
    "comparing": (
        ["compare", "a", "b", "--temperature", 0, "--judge", "x"],
        "no use for --temperature, --judge",
    ),
    "listing": (["list", "--limit", 2], "eval list has no use for --limit, --data"),
    "no chat": (["vizwiz", "--judge", "gone"], "--judge: rules and no judge score vizwiz; leave it out"),
    "no model": (["vizwiz"], "give --model with a directory, or --remote with a URL"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(run, tmp_path, mistake):
    written("vizwiz", tmp_path)
    words, told = MISTAKES[mistake]
    code, _, err = run("eval", *words, "--data", tmp_path)
    assert code == 2 and told in err and len(err.splitlines()) == 1


def test_a_thought_that_was_cut_is_unread_and_counted(tmp_path):
    written("pope", tmp_path)
    [score] = start(tmp_path, always("<think>It is yes or no", "length"), tmp_path / "run", "pope")
    assert (score.unparsed, score.truncated, score.answered) == (18, 18, 18)


def test_a_task_that_fails_leaves_the_results_of_those_before_and_the_same_command_goes_on(tmp_path):
    written("gqa", tmp_path)
    folder = written("vizwiz", tmp_path)
    good = (folder / "val" / "1.jpg").read_bytes()
    (folder / "val" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"question '1\.jpg': image not found: .*val/1\.jpg"):
        start(tmp_path, always("yes"), tmp_path / "run", "gqa", "vizwiz")
    results = json.loads((tmp_path / "run" / RESULTS).read_text())
    assert list(results) == ["gqa"] and results["gqa"]["official"]["figures"] == {"accuracy": 100.0}
    (folder / "val" / "1.jpg").write_bytes(good)
    responder = always("yes")
    start(tmp_path, responder, tmp_path / "run", "gqa", "vizwiz")
    assert len(responder.asked) == 3 and len(json.loads((tmp_path / "run" / RESULTS).read_text())) == 2


def test_every_benchmark_is_listed(run):
    code, out, _ = run("eval", "list")
    assert code == 0 and "mmbench" in out and "vlmevalkit" in out


def test_a_file_that_many_questions_show_is_read_once(tmp_path):
    picture = tiny.picture(tmp_path / "a.png")
    one, two = (Question(name, user("What?", [picture]).parts, "red") for name in ("1", "2"))
    known = {}
    names = picture_digests(one, known)
    picture.unlink()
    assert picture_digests(two, known) == names and len(names) == 1
    with pytest.raises(DataError, match=r"a\.png"):
        picture_digests(two, {})
