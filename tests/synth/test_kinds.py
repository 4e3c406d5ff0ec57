"""Every kind of data from its pictures and facts to rows that are read as training reads them."""

import json

import pytest

from llavakit.critic.formats import FORMATS
from llavakit.data.records import read_records
from llavakit.synth.instructions import BRIEF, DETAILED, RECAP
from llavakit.synth.kinds import KINDS
from tests import tiny
from tests.synth.endpoint import prose
from tests.vision.clips import write_clip

FIGURES = [
    {"id": f"f{n}", "captions": [prose(str(n), 10 if n % 2 else 40)], "mentions": ["Fig. 1."], "domain": domain}
    for n, domain in enumerate(["CT", "CT", "CT", "MRI", "CXR", "MRI"])
]  # fmt: skip
QUESTION = {"question": "Which one?", "captions": ["a red shape"]}
ROWS = {
    "medical": FIGURES,
    "medical-captions": FIGURES,
    "document": [{"id": str(n)} for n in range(3)],
    "answers": [{"id": str(n), "questions": ["What color?", "What shape?"]} for n in range(3)],
    "differences": [{"id": str(n), "captions": ["two things"]} for n in range(3)],
    "critique": [
        {"id": "one", **QUESTION, "answer": "the first"},
        {"id": "two", **QUESTION, "answers": ["red", "blue"], "label": 1},
        {"id": "tie", **QUESTION, "answers": ["red", "blue"], "label": "tie"},
    ],
    "preferences": [{"id": str(n), **QUESTION, "reference": "red"} for n in range(6)],
}  # fmt: skip


@pytest.fixture
def made(album, asked, run):
    """Rows of a kind, made by the endpoint: what `data check` says of them too."""

    def make(kind, *options, code=0):
        file = album.folder / "rows.jsonl"
        rows = [
            dict(row)
            for row in ROWS.get(kind, [{"id": str(n), "captions": [f"fact w{n}"]} for n in range(3)])
        ]
        for number, row in enumerate(rows):
            if kind.startswith("video"):
                row["video"] = write_clip(album.folder / "clip.mp4").name
            else:
                names = [f"p{number}.png"] + [f"q{number}.png"] * (kind == "differences")
                for seed, name in enumerate(names):
                    tiny.picture(album.folder / name, 7 * number + seed)
                row["image"] = names if len(names) > 1 else names[0]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["synth", kind, "--images", file, "--out", album.folder / "data.jsonl", *options]
        by = [] if kind == "medical-captions" else ["--by", asked[0]]
        got = run(*words, *by)
        assert got[0] == code, got
        verb = "pairs" if kind == "preferences" else "check"
        checked = run("data", verb, album.folder / "data.jsonl", "--out", album.folder / "check")
        assert checked[0] == 0, checked
        return album.rows()

    return make


def turns(row):
    return [turn["value"] for turn in row["conversations"]]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rows_of_every_kind_are_read(made, kind):
    rows = made(kind)
    assert rows and all(row["synth"]["kind"] == kind for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_writer_is_told_or_shown(made, asked, album):
    _, script = asked
    made("detail")
    told = script.last["messages"][-1]["content"]
    assert isinstance(told, str) and "fact w" in told and "never speak of captions" in told
    for file in album.folder.glob("data.*"):
        file.unlink()
    made("detail", "--see")
    shown = script.last["messages"][-1]["content"]
    assert shown[0]["type"] == "image_url" and "You are shown the picture." in shown[1]["text"]


def test_figures_take_turns_by_domain_and_long_captions_are_asked_for_in_detail(made):
    rows = made("medical-captions")
    assert [row["synth"]["parents"][0] for row in rows] == ["f0", "f3", "f4", "f1", "f5", "f2"]
    for row in rows:
        question, answer = turns(row)
        is_brief = question.replace("<image>", "").strip() in BRIEF
        assert is_brief == (len(answer.split()) < 30) and (
            is_brief or question.strip("<image>\n") in DETAILED
        )
        assert row["synth"]["writers"] == [] and row["synth"]["cost"] is None


def test_recap_asks_its_one_question(made):
    assert {turns(row)[0] for row in made("recap")} == {f"<image>\n{RECAP}"}


def test_answers_to_a_document_stand_in_it(made):
    for row in made("document"):
        _, text, question, answer = turns(row)  # of two questions one had an answer that is not there
        assert answer in text.split() and question.startswith("What is first?\nAnswer the question")


def test_videos_are_described_at_three_levels(made, asked):
    rows = made("video-captions")
    assert len(rows[0]["levels"]["10"]) == 1 and turns(rows[0])[1] == rows[0]["levels"]["30"][0]
    shown = asked[1].last["messages"][-1]["content"]
    assert sum(part["type"] == "image_url" for part in shown) == 2  # a frame for each second of two


def test_options_are_shuffled_and_the_letter_goes_with_them(made):
    rows = made("video-questions")
    for row in rows:
        question, letter = turns(row)[-2:]
        assert f"\n{letter}. two\n" in question


def test_verdicts_are_of_the_label_and_both_places_occur(made):
    one, *pairs = made("critique")
    assert FORMATS["score"].read(turns(one)[1]).value == one["value"] == 70
    for row in pairs:
        asked, said = turns(row)
        first = asked.index("red") < asked.index("blue")
        wanted = {"critique-two": -1.0 if first else 1.0, "critique-tie": 0.0}[row["id"]]
        assert FORMATS["better"].read(said).value == row["value"] == wanted
        assert "verdict is" not in asked  # the hint is not what a judge learns from


def test_pairs_of_any_dialect_are_criticised(album, asked, run):
    album.add("one")
    pair = {"image": "pictures/000.png", "prompt": "<image>\nWhich?", "chosen": "red", "rejected": "blue"}
    (album.folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    words = ["synth", "critique", "--images", album.folder / "pairs.jsonl", "--by", asked[0]]
    assert run(*words, "--out", album.folder / "data.jsonl")[0] == 0
    prompt, verdict = turns(album.rows()[0])
    first = prompt.index("red") < prompt.index("blue")
    assert verdict.endswith("The better response: [1]" if first else "The better response: [2]")


@pytest.mark.parametrize("how", [(), ("--format", "better")])
def test_pairs_are_the_best_and_the_worst_answer(made, how):
    rows = made("preferences", "--answers", 4, *how)
    for row in rows:
        assert "right" in row["output_1"]["value"] and "right" not in row["output_2"]["value"]
        assert row["scores"][0] > row["scores"][1]
        assert row["synth"]["parents"][0] in [each["id"] for each in ROWS["preferences"]]


def test_pictures_without_captions_are_captioned_first(album, asked, run):
    url, script = asked
    album.add("one", "two")
    words = ["synth", "detail", "--images", album.pictures, "--out", album.folder / "data.jsonl", "--by", url]
    code, out, _ = run(*words)
    assert code == 1 and "no caption, and no --captioner" in out and script.seen == 0
    assert not (album.folder / "data.jsonl").exists()
    (album.folder / "data.answers").unlink()
    assert run(*words, "--captioner", f"{url}#eyes")[0] == 0
    origin = album.rows()[0]["synth"]
    writers = [(writer["role"], writer["model"]) for writer in origin["writers"]]
    assert writers == [("by", "scripted"), ("captioner", "eyes")] and len(origin["parents"]) == 3
    record = read_records(album.folder / "data.jsonl")[0]
    assert len(record.conversation().images) == 1


def test_what_is_guessed_without_looking_is_taken_out(album, asked, run):
    url, script = asked
    album.add("one", "two", "three")
    code, out, _ = run(*album.words(url, "conversation"), "--blind", url)
    assert code == 0 and script.seen == 3 * 3
    assert {len(row["conversations"]) for row in album.rows()} == {4}
    script.guesses = True
    code, out, _ = run(*album.words(url, "conversation", "same.jsonl"), "--blind", url)
    assert code == 1 and "dropped: 3 guessed" in out


def test_examples_and_a_prompt_of_the_user(album, asked, run):
    url, script = asked
    album.add("one")
    (album.folder / "shots.jsonl").write_text(
        json.dumps({"captions": ["a cat"], "reply": {"description": "There is a cat."}}) + "\n"
    )
    (album.folder / "mine.md").write_text(
        "## task\nSay it in Latin.\n## facts\n(told)\n## ask\nThese: $facts\n"
    )
    words = [*album.words(url), "--shots", album.folder / "shots.jsonl", "--prompt", album.folder / "mine.md"]
    assert run(*words)[0] == 0
    said = script.last["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[0]["content"].startswith("Say it in Latin.\n\n(told)\n\nThese: a cat")
    assert json.loads(said[1]["content"]) == {"description": "There is a cat."}
    (album.folder / "mine.md").write_text("## task\nOf $nothing.\n## facts\n## ask\n")
    code, _, err = run(*album.words(url, out="b.jsonl"), "--prompt", album.folder / "mine.md")
    assert code == 2 and "'nothing' is no slot of '## task' ($turns)" in err
