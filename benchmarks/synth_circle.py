"""A closed circle on real parts: facts -> generated data -> `data check` -> training -> held-out questions.

    python -m benchmarks.synth_circle --demo runs/demo --out runs/circle

Takes a demo (`llavakit demo`): its first stage to train from, its second as a model that answers. The pictures
are easy-vqa's and crops of scikit-image's photos. Three models with the same budget of steps learn from a few
records by people (of easy-vqa); the second also from what a scripted writer made of captions ("a teal triangle",
"a photo of: cat"), the third also from what the demo model answered to questions about pictures without captions.
All three answer easy-vqa's test questions and questions about crops that nobody was shown.

Every stage that has left its files in `--out` is taken as it is.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import PIL.Image

from benchmarks.endpoint import said, served, text_of
from llavakit.chat import load
from llavakit.core.config import load as load_settings
from llavakit.core.files import write_text
from llavakit.core.progress import say
from llavakit.eval.easy_vqa import EasyVqa, Question
from llavakit.eval.vqa import accuracy, answer_questions, guess_blind
from llavakit.recipes.easy_vqa import COLOURS, SHAPES, Phase, write_captions, write_questions
from llavakit.train.loop import train
from llavakit.train.run import Run

# What scikit-image's photos show, in a word.
PHOTOS = {
    "astronaut.png": "woman", "chelsea.png": "cat", "coffee.png": "coffee", "rocket.jpg": "rocket",
    "coins.png": "coins", "camera.png": "photographer", "motorcycle_left.png": "motorcycle", "page.png": "text",
    "moon.png": "moon", "brick.png": "bricks", "grass.png": "grass", "retina.jpg": "eye",
}  # fmt: skip
PHOTO_QUESTION = "What is in the photo?"
CROPS, HELD_CROPS, SIDE = 24, 8, 64
HUMAN, CAPTIONED, ANSWERED = 60, 600, 600  # pictures of each source
STEPS, TEST_PICTURES = 60, 80
CAPTION = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
PHOTO = re.compile(r"a photo of: (\w+)")


async def write(body: dict) -> tuple[int, dict, dict[str, str]]:
    """The scripted writer: knows a picture by its caption, and asks what the caption answers."""
    text = text_of(body)
    dice = random.Random(text + str(body.get("seed")))
    facts = text.rpartition("\n\n")[2]
    if found := CAPTION.fullmatch(facts):
        colour, shape = found.groups()
        other = dice.choice([each for each in COLOURS if each != colour])
        turns = [
            ("What color is the shape?", colour), ("What shape does the image contain?", shape),
            (f"Is there a {colour} shape in the image?", "yes"), (f"Is there a {other} shape in the image?", "no"),
        ]  # fmt: skip
    else:
        word = PHOTO.fullmatch(facts)[1]
        other = dice.choice([each for each in PHOTOS.values() if each != word])
        turns = [
            (PHOTO_QUESTION, word), (f"Does the photo show: {word}?", "yes"),
            (f"Does the photo show: {other}?", "no"),
        ]  # fmt: skip
    told = [{"question": question, "answer": answer} for question, answer in turns]
    return 200, said(json.dumps({"turns": dice.sample(told, len(told))}), text), {}


def cut_photos(out: Path) -> None:
    """Crops of each photo with a caption, in `photos/`; others, in `held/`, are for the test only."""
    spec = find_spec("skimage")
    folder, dice = Path(spec.origin).parent / "data", random.Random(5)
    rows = []
    for name, word in PHOTOS.items():
        photo = PIL.Image.open(folder / name).convert("RGB")
        for number in range(CROPS + HELD_CROPS):
            side = round(min(photo.size) * dice.uniform(0.6, 0.95))
            x, y = dice.randrange(photo.width - side + 1), dice.randrange(photo.height - side + 1)
            file = out / ("photos" if number < CROPS else "held") / f"{word}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE)).save(file)
            if number < CROPS:
                rows.append({"image": str(file.absolute()), "captions": [f"a photo of: {word}"]})
    write_text(out / "photos.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def call(*words: object) -> None:
    """The program, as a person calls it."""
    say(" ".join(["$ llavakit", *map(str, words)]))
    subprocess.run([sys.executable, "-m", "llavakit", *map(str, words)], check=True)


def prepare(data: EasyVqa, out: Path) -> None:
    """What is there before anything is generated: a few records by people, captions, questions without answers."""
    pictures = random.Random(7).sample(sorted(data.questions), HUMAN + CAPTIONED + ANSWERED)
    human, captioned = pictures[:HUMAN], pictures[HUMAN : HUMAN + CAPTIONED]
    few = EasyVqa("train")
    few.questions = {number: data.questions[number] for number in human}
    phase = Phase(records=HUMAN, open=0.6, present=0.4, absent=0.0)
    write_questions(few, out / "human.json", phases=(phase,), per_record=3, seed=0)
    rows = json.loads((out / "human.json").read_text())
    for row in rows:
        row["image"] = str(data.folder / row["image"])
    write_text(out / "human.json", json.dumps(rows))
    known = EasyVqa("train")
    known.questions = {number: data.questions[number] for number in captioned}
    write_captions(known, out / "captions.json")
    asked = [
        {
            "id": str(number), "image": str(data.folder / f"{number}.png"),
            "questions": list(dict.fromkeys(q.text for q in data.questions[number] if q.is_open))[:3],
        }
        for number in pictures[HUMAN + CAPTIONED :]
    ]  # fmt: skip
    write_text(out / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in asked if row["questions"]))


def generate(demo: Path, data: EasyVqa, out: Path) -> None:
    """The three files, each checked."""
    few, told = ["--max-tokens", 200], out / "captions.json"
    with served(write) as url:
        by = ["--by", url, *few]
        call(
            "synth",
            "conversation",
            "--images",
            told,
            "--folder",
            data.folder,
            "--out",
            out / "scripted.jsonl",
            *by,
        )
        call("synth", "conversation", "--images", out / "photos.jsonl", "--out", out / "photo-rows.jsonl",
             "--against", out / "held", *by)  # fmt: skip
    call("synth", "answers", "--images", out / "questions.jsonl", "--by", demo, "--temperature", 0,
         "--max-tokens", 8, "--out", out / "answered.jsonl")  # fmt: skip
    for name in ("scripted", "photo-rows", "answered"):
        call("data", "check", out / f"{name}.jsonl", "--out", out / f"{name}-check")


def learn(name: str, demo: Path, files: list[Path], out: Path) -> Path:
    """The demo's second stage from its first, on these files; the same number of steps for each."""
    target = out / name
    if not (target / "latest").exists():
        run = load_settings(Run, demo / "stage2" / "run.yaml")
        changes = {
            "name": name, "out": target,
            "model": run.model.model_copy(update={"start": demo / "stage1"}),
            "optim": run.optim.model_copy(update={"steps": STEPS}),
            "data": run.data.model_copy(
                update={"files": tuple(files), "images": None, "features": out / "features", "shuffle": True}
            ),
        }  # fmt: skip
        train(run.model_copy(update=changes))
    return target


def measure(name: str, model: Path, out: Path) -> dict[str, float]:
    """Right answers to easy-vqa's test questions, and about crops of photos that nobody was shown."""
    chat, questions = load(model), EasyVqa("test").all(TEST_PICTURES)
    found = accuracy(questions, answer_questions(chat, questions, name))
    crops = [
        Question(file, PHOTO_QUESTION, file.stem.partition("-")[0])
        for file in sorted((out / "held").glob("*.png"))
    ]
    photos = accuracy(crops, answer_questions(chat, crops, f"{name}, photos"))["all"]
    return {"open": found["open"], "yes/no": found["yes_no"], "photos": photos}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/circle"))
    args = parser.parse_args()
    out, data = args.out.absolute(), EasyVqa("train")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "answered.jsonl").exists():
        prepare(data, out)
        cut_photos(out)
        generate(args.demo, data, out)
    human, scripted = out / "human.json", [out / "scripted.jsonl", out / "photo-rows.jsonl"]
    files = {
        "few-records": [human],
        "with-scripted": [human, *scripted],
        "with-answered": [human, out / "answered.jsonl"],
    }
    table = {name: measure(name, learn(name, args.demo, each, out), out) for name, each in files.items()}
    test = EasyVqa("test").all(TEST_PICTURES)
    few = [
        q for row in json.loads(human.read_text()) for q in data.questions[int(row["id"].rpartition("-")[2])]
    ]
    blind = accuracy(test, guess_blind(few, test))
    table["nobody looks"] = {"open": blind["open"], "yes/no": blind["yes_no"], "photos": 1 / len(PHOTOS)}
    for name, row in table.items():
        say(f"{name:<16}" + "".join(f"{column} {100 * value:5.1f} %   " for column, value in row.items()))
    write_text(out / "report.json", json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
