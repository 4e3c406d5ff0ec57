"""From pictures to a file: exact counts whatever a server does, nothing twice or lost, one file of one seed."""

import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time

import pytest

from llavakit import cli
from llavakit.core.journal import continue_journal
from llavakit.engine.responder import Answer
from llavakit.synth.answers import Answers, Stopped
from tests.synth.conftest import Album
from tests.synth.endpoint import MISDEEDS, Script, endpoint

GOOD = [f"good{n}" for n in range(12)]
MIXED = [*GOOD[:6], *(word for word in MISDEEDS if word != "dies"), *GOOD[6:]]


def test_what_a_server_does_is_counted_and_nothing_is_asked_twice(album, asked, run):
    url, script = asked
    album.add(*MIXED)
    code, out, _ = run(*album.words(url), "--price", "2.5,10", "--at-once", 4)
    assert code == 0
    names = {row["id"] for row in album.rows()}
    kept = [
        n
        for n, word in enumerate(MIXED)
        if word.startswith("good") or word in ("broken", "slow", "busy", "flaky")
    ]
    assert [row["id"] for row in album.rows()] == [f"detail-{n:03}.png" for n in kept]
    dropped = album.rows("data.dropped.jsonl")
    assert [row["reason"] for row in dropped] == ["unread", "truncated", "refusal", "leak", "declined"]
    assert len(names) + len(dropped) == len(MIXED)
    # An attempt has a seed of its own; only who was busy or failed is asked the same again.
    assert sorted(script.asked.values())[-3:] == [1, 2, 2]
    assert "1 answers of broken JSON were mended, 6 asked for again" in out
    tokens = [row["synth"]["prompt_tokens"] for row in album.rows()]
    row = album.rows()[0]["synth"]
    assert row["cost"] == pytest.approx((row["prompt_tokens"] * 2.5 + row["answer_tokens"] * 10) / 1e6)
    assert min(tokens) > 100 and row["writers"] == [{"role": "by", "model": "scripted", "weights": None}]

    before, seen = (album.folder / "data.jsonl").read_bytes(), script.seen
    code, out, _ = run(*album.words(url), "--price", "2.5,10", "--at-once", 4)
    assert code == 0 and (album.folder / "data.jsonl").read_bytes() == before
    assert script.seen == seen + 1  # what was declined has no answer
    assert re.search(r"dropped: 1 leak", out)


def test_the_rows_are_what_check_and_training_take(album, asked, run):
    album.add(*GOOD)
    assert run(*album.words(asked[0]), "--parquet")[0] == 0
    for name in ("data.jsonl", "data.parquet"):
        code, out, _ = run("data", "check", album.folder / name, "--out", album.folder / "check")
        assert code == 0 and "12 image" in out and "0 bad" in out
    front = sum(row["conversations"][0]["value"].startswith("<image>\n") for row in album.rows())
    assert 0 < front < 12  # the picture stands before or after the question


def test_exactly_as_many_rows_as_wanted_and_no_request_for_more(album, asked, run):
    url, script = asked
    album.add("garbage", *GOOD)
    code, _, _ = run(*album.words(url), "--rows", 5)
    assert code == 0 and len(album.rows()) == 5
    assert script.seen == 3 + 5  # attempts at garbage, and rows
    code, out, _ = run(*album.words(url), "--rows", 20)
    assert code == 1 and len(album.rows()) == 12 and "12 of 20 rows: no picture is left" in out
    code, _, _ = run(*album.words(url), "--rows", 20, "--rounds", 2)
    assert code == 0 and len({row["id"] for row in album.rows()}) == 20
    assert (
        len({row["conversations"][1]["value"] for row in album.rows()}) == 20
    )  # each use has a seed of its own


def in_process(words: list) -> multiprocessing.Process:
    """The program in a process of its own, a fork of this one: it need not import everything anew."""

    def begin() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs have not
        sys.argv = ["llavakit", *map(str, words)]
        cli.main()

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    return process


def wait_for_answers(album: Album, count: int) -> None:
    file, end = album.folder / "data.answers", time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_in_the_middle_comes_to_the_same_file(tmp_path, run, how):
    words = [word for n in range(20) for word in (f"a{n}", f"b{n}", "slow", f"c{n}", f"d{n}")]
    with endpoint(Script(slow=0.03)) as (url, script):
        whole = Album(tmp_path / "whole").add(*words)
        assert run(*whole.words(url), "--at-once", 4)[0] == 0
        needed = script.seen

        broken = Album(tmp_path / "broken").add(*words)
        script.most = script.seen + 60
        process = in_process([*broken.words(url), "--at-once", 4])
        wait_for_answers(broken, 30)
        os.kill(process.pid, how)
        script.most = None
        process.join()
        assert process.exitcode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
        answers = (broken.folder / "data.answers").read_bytes().count(b"\n") - 1
        assert 0 < answers < len(words)
        if how == signal.SIGINT:
            assert 0 < len(broken.rows()) <= answers  # what is done is there
        run(*broken.words(url), "--at-once", 4)
        assert (broken.folder / "data.jsonl").read_bytes() == (whole.folder / "data.jsonl").read_bytes()
        assert script.seen - needed <= needed + 4  # those under way were asked twice


def test_half_of_a_run_does_not_replace_a_whole_one(album, asked, run):
    url, script = asked
    album.add(*GOOD)
    assert run(*album.words(url))[0] == 0
    answers = album.folder / "data.answers"
    lines = answers.read_bytes().splitlines(keepends=True)
    script.reply = _gone
    for kept, stopped in ((10, False), (3, True)):  # lines that are left of 13; 8 failures in a row end a run
        answers.write_bytes(b"".join(lines[:kept]))
        code, out, _ = run(*album.words(url))
        assert code == 1 and len(album.rows()) == 12 and "stays as it was" in out
        assert ("stopped: " in out) is stopped and "no answer: " in out


def test_a_rate_limit_costs_no_row_and_few_requests(album, run, monkeypatch):
    monkeypatch.setattr("llavakit.wire.random.uniform", lambda low, high: 0.02)  # the first pause
    album.add(*[f"w{n}" for n in range(30)])
    with endpoint(Script(at_once=2)) as (url, script):
        code, out, _ = run(*album.words(url), "--at-once", 32)
    assert code == 0 and len(album.rows()) == 30 and "dropped" not in out.partition("30 rows of 30 items")[2]
    assert script.seen == 30 and 0 < script.busy < 90


def test_nothing_is_sent_once_a_run_ends(tmp_path):
    with continue_journal(tmp_path / "a.answers") as journal:
        answers = Answers(journal)
        assert answers.get("1" * 32, lambda: Answer("a", "stop")) == (Answer("a", "stop"), False)
        answers.stop()
        assert answers.get("1" * 32, None) == (Answer("a", "stop"), True)
        with pytest.raises(Stopped):
            answers.get("2" * 32, lambda: pytest.fail("it was sent"))


async def _gone(_):
    return 502, {"error": {"message": "gone"}}, {}


def test_an_endpoint_that_dies_is_one_line_and_what_is_done_is_kept(album, asked, run):
    album.add(*GOOD[:5], *["dies"] * 30)
    code, out, err = run(*album.words(asked[0]), "--at-once", 2)
    assert code == 1 and err == "" and len(album.rows()) == 5
    assert "stopped: 8 requests in a row had no answer" in out and "502: gone" in out
    assert "no answer: 8 items" in out
    code, _, err = run(*album.words("http://127.0.0.1:9"))
    assert code == 2 and err.count("\n") == 1 and "cannot be reached" in err and len(album.rows()) == 5


def test_a_shape_that_the_writer_cannot_keep_ends_the_run(album, asked, run):
    url, script = asked
    album.add(*GOOD[:2], *["garbage"] * 60)
    code, out, _ = run(*album.words(url), "--at-once", 2)
    assert code == 1 and len(album.rows()) == 2 and script.seen < 2 + 3 * 40
    assert "stopped: 20 items in a row gave no row, the last one: unread" in out and "no such thing" in out


def test_a_full_disk_is_one_line_and_leaves_whole_lines(album, asked, run):
    album.add(*GOOD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        code, _, err = run(*album.words(asked[0]), "--at-once", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and err.count("\n") == 1 and "too large" in err and "rows are kept" in err
    had = album.rows()
    assert 0 < len(had) < 12
    assert run(*album.words(asked[0]))[0] == 0
    assert len(album.rows()) == 12 and album.rows()[: len(had)] == had


def test_the_file_of_another_run_or_program_is_left_alone(album, asked, run):
    url, _ = asked
    album.add(*GOOD[:2])
    assert run(*album.words(url))[0] == 0
    code, _, err = run(*album.words(url), "--seed", 1)
    assert code == 2 and "answers of a run with seed 0, not 1; use another --out" in err
    (album.folder / "mine.jsonl").write_text("{}\n")
    code, _, err = run(*album.words(url, out="mine.jsonl"))
    assert code == 2 and "was not made here" in err and (album.folder / "mine.jsonl").read_text() == "{}\n"


def test_bad_input_is_one_line(album, asked, run):
    url, _ = asked
    album.add(*GOOD[:3])
    album.facts.write_text(
        album.facts.read_text() + json.dumps({"image": "gone.png", "captions": ["x"]}) + "\n"
    )
    code, _, err = run(*album.words(url))
    assert (
        code == 2 and err.count("\n") == 1 and "facts.jsonl:4: 1 of 4 pictures" in err and "'gone.png'" in err
    )
    (album.pictures / "001.png").write_bytes(b"no picture")
    code, _, err = run(*album.words(url), "--unknown", "skip")
    assert code == 0 and [row["id"][-7:] for row in album.rows()] == ["000.png", "002.png"]
    [lost] = album.rows("data.dropped.jsonl")
    assert lost["reason"] == "broken" and "001.png" in lost["found"]
    shots = album.folder / "shots.jsonl"
    shots.write_text('{"captions": ["a"], "reply": "b"}\n')
    for words, told in (
        (["synth", "detale"], "did you mean 'detail'"),
        (["synth", "detail", "--out", "x.jsonl"], "--images DIR_OR_FILE"),
        ([*album.words(url)[:4], "--out", album.folder / "x.jsonl"], "detail needs --by"),
        (album.words(url, out="x.json"), "must end in .jsonl"),
        ([*album.words(url, out="x.jsonl"), "--language", "ex"], "unknown language 'ex'"),
        (
            [*album.words(url, "recap", "y.jsonl"), "--prompt", album.folder / "no"],
            "cannot be read as a prompt",
        ),
        (["synth", "accepted", album.folder / "no.votes"], "cannot be read"),
        ([*album.words(url, out="z.jsonl"), "--judge", url], "--judge is for preferences"),
        ([*album.words(url, "recap", "z.jsonl"), "--captioner", url], "needs no --captioner"),
        ([*album.words(url, "recap", "z.jsonl"), "--shots", shots], "asked without examples"),
        ([*album.words(url, out="z.jsonl"), "--price", "2,-1"], "greater than or equal to 0"),
    ):
        code, _, err = run(*words)
        assert code == 2 and err.count("\n") == 1 and told in err, err
