"""`data pairs`: what is wrong with pairs, with file and line, and whether length tells the answers apart."""

import json

import pytest

from llavakit.core.progress import console
from llavakit.data.pair_report import are_near
from llavakit.model import checkpoint as checkpoints
from tests import tiny


def pair(question: str, chosen: str, rejected: str, **more) -> dict:
    return {"image": "x.png", "prompt": f"<image>\n{question}", "chosen": chosen, "rejected": rejected} | more


GOOD = [pair("What color?", "red", "blue, I think"), pair("What shape?", "a big circle", "no")]
FLAWED = {
    "duplicate": pair("What color?", "red", "blue, I think"),
    "swapped": pair("What color?", "blue, I think", "red"),
    "near": pair("What is it?", "A red circle.", "a red circle"),
    "long": pair("Tell me more.", "word " * 300, "no"),
    "answer": pair("Why?", "same", "same"),
    "missing": pair("Where?", "here", "there", image="gone.png"),
    "placeholders": pair("<image> When?", "now", "never"),
    "record": {"prompt": "What?", "chosen": "this"},
}


@pytest.fixture
def folder(tmp_path):
    tiny.picture(tmp_path / "x.png")
    return tmp_path


def put(folder, *rows):
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("kind", FLAWED)
def test_a_flaw_is_listed_with_file_and_line(folder, run, kind):
    checkpoints.save(tiny.checkpoint(), folder / "model")
    file = put(folder, *GOOD, FLAWED[kind])
    words = ["data", "pairs", file, "--out", folder / "out", "--tokens", 400]
    if kind == "long":
        words += ["--model", folder / "model"]
    code, said, _ = run(*words)
    assert code == 1 and f"{file}:3: {kind}: " in said and "1 of 3 pairs are bad" in said
    [flaw] = [json.loads(line) for line in (folder / "out" / "bad_pairs.jsonl").read_text().splitlines()]
    assert (flaw["record"], flaw["kind"]) == (f"{file}:3", kind)
    if kind in ("duplicate", "swapped"):
        assert flaw["reason"].endswith(f"{file}:1")
    assert run(*words, "--ignore", kind)[0] == 0


@pytest.mark.parametrize("measured", [False, True])
def test_good_pairs_tell_which_answers_are_longer(folder, run, monkeypatch, measured):
    monkeypatch.setattr(console, "width", 80)
    monkeypatch.chdir(folder)
    checkpoints.save(tiny.checkpoint(), folder / "model")
    words = ["--model", folder / "model"] if measured else []
    put(folder, *GOOD)
    code, said, _ = run("data", "pairs", "pairs.jsonl", *words)
    assert code == 0 and "0 bad" in said and "0 of 2 pairs are bad" in said
    assert "chosen longer in 50 %, shorter in 50 %; mean" in said
    assert ("mean +0.0 characters" in " ".join(said.split())) is not measured
    assert ("tokens were not counted; give --model DIR" in said) is not measured
    rows = said[said.index("source") :].splitlines()[:3]
    assert all(len(line) <= 80 for line in rows) and rows[1].split()[:2] == ["pairs.jsonl", "2"]


def test_a_kind_and_a_file_that_are_none_are_one_line(folder, run):
    code, _, err = run("data", "pairs", put(folder, *GOOD), "--ignore", "nera")
    assert code == 2 and "unknown --ignore 'nera'; did you mean 'near'" in err
    code, _, err = run("data", "pairs", folder / "none.json")
    assert code == 2 and "none.json" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("It is red.", "it is RED!", True),
        ("-5", "5", False),
        ("It is red.", "It is blue.", False),
        ("!", "?", False),
        ("a " * 30 + "b", "a " * 30 + "c", True),
        ("a " * 10 + "b", "a " * 10 + "c", False),
    ],
)
def test_near_is_one_word_in_twenty(one, other, near):
    assert are_near(one, other) is are_near(other, one) is near
