"""Previews, batch files and cards: the same requests, whoever sends them, and what is told about them."""

import asyncio
import json

from tests.synth.endpoint import MISDEEDS

WORDS = [f"good{n}" for n in range(8)]


def test_a_batch_comes_to_the_file_of_a_run(album, asked, run):
    url, script = asked
    album.add(*WORDS)
    words = ["synth", "detail", "--images", album.pictures, "--by", url, "--captioner", url]
    assert run(*words, "--out", album.folder / "live.jsonl")[0] == 0
    live, seen = (album.folder / "live.jsonl").read_bytes(), script.seen
    words += ["--out", album.folder / "data.jsonl"]
    batch_in = []
    for step in range(2):  # captions first, then what is written from them
        requests, results = (album.folder / f"{name}{step}.jsonl" for name in ("out", "in"))
        code, out, _ = run(*words, *batch_in, "--batch-out", requests)
        assert code == 0 and f"{len(WORDS)} requests" in out and not (album.folder / "data.jsonl").exists()
        lines = []
        for line in reversed(requests.read_text().splitlines()):
            request = json.loads(line)
            assert request["url"] == "/v1/chat/completions" and request["body"]["model"] == "scripted"
            _, body, _ = asyncio.run(script.reply(request["body"]))
            lines.append({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}})
        lines.append({"custom_id": "other", "response": {"status_code": 500, "body": {}}})
        results.write_text("".join(json.dumps(line) + "\n" for line in lines))
        batch_in = ["--batch-in", results]
    asked_by_hand = script.seen - seen
    code, out, _ = run(*words, *batch_in)
    assert code == 0 and f"{len(WORDS)} answers taken in, 1 requests of the batch failed" in out
    assert (album.folder / "data.jsonl").read_bytes() == live and script.seen == seen + asked_by_hand
    (album.folder / "bad.jsonl").write_text('{"a": 1}\n')
    code, _, err = run(*words, "--batch-in", album.folder / "bad.jsonl")
    assert code == 2 and "bad.jsonl:1: not a result of a batch" in err


def test_a_preview_shows_what_is_asked_and_its_cost_and_is_not_paid_again(album, asked, run):
    url, script = asked
    album.add(*WORDS, "refuses")
    words = album.words(url)
    code, out, _ = run("synth", "preview", *words[1:], "--price", "1000,1000", "--rows", 3)
    assert code == 0 and script.seen == 3 and not (album.folder / "data.jsonl").exists()
    assert "Describe one picture in full" in out and "fact good2" in out and "fact good3" not in out
    assert "3 of 3 gave a row; about 9 items in all" in out and ", cost 1." in out
    page = (album.folder / "data.preview.html").read_text()
    assert page.count("<article") == 3 and page.count('src="data:image/jpeg') == 3
    assert run(*words)[0] == 0
    assert script.seen == len(WORDS) + 1


def test_the_card_tells_what_was_made_and_what_was_not(album, asked, run):
    album.add(*WORDS, *MISDEEDS[:5], "<script>alert(1)</script>")
    assert run(*album.words(asked[0]), "--price", "2,8")[0] == 0
    card = (album.folder / "data.card.md").read_text()
    for told in (
        "10 rows of the kind `detail`", "by: `scripted`", "Temperature 0.7", "a million tokens", "| leak | 1 |",
        "| refusal | 1 |", "Compared with none", "Describe one picture in full", "that could be mended: 1",
    ):  # fmt: skip
        assert told in card, told
    page = (album.folder / "data.card.html").read_text()
    assert page.count('src="data:image/jpeg') == 10 and "<script>alert" not in page


def test_rows_are_held_against_evaluation_sets(album, asked, run):
    album.add(*WORDS)
    exam = [{"image": f"pictures/00{n}.png", "question": "Is it?"} for n in (1, 3)]
    (album.folder / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam))
    code, out, _ = run(
        *album.words(asked[0]), "--against", album.folder / "exam.jsonl", "--against", "easy-vqa"
    )
    assert code == 0 and [row["id"][-7:-4] for row in album.rows()] == [
        "000",
        "002",
        "004",
        "005",
        "006",
        "007",
    ]
    assert "dropped: 2 held picture, as 001.png" in out
    assert "easy-vqa: 1002 pictures" in (album.folder / "data.card.md").read_text().replace(
        f"{album.folder}/exam.jsonl, ", ""
    )
    code, _, err = run(*album.words(asked[0], out="b.jsonl"), "--against", "nothing")
    assert code == 2 and "neither a file, a folder, nor a benchmark" in err


def test_pictures_that_look_alike_are_dropped_if_asked_for(album, asked, run):
    album.add(*WORDS[:2])
    (album.pictures / "copy.png").write_bytes((album.pictures / "000.png").read_bytes())
    album.facts.write_text(
        album.facts.read_text() + json.dumps({"image": "copy.png", "captions": ["fact copy"]}) + "\n"
    )
    assert run(*album.words(asked[0]))[0] == 0 and len(album.rows()) == 3
    code, out, _ = run(*album.words(asked[0]), "--near", 4)
    assert code == 0 and len(album.rows()) == 2 and "1 similar picture, as copy.png" in out


def test_a_writer_that_repeats_itself_gives_one_row(album, asked, run):
    url, script = asked
    album.add(*WORDS)
    script.fixed = "a dog in the park that runs after its ball while two people look on and laugh " * 3
    code, out, _ = run(*album.words(url))
    assert code == 0 and len(album.rows()) == 1 and "7 similar text" in out
