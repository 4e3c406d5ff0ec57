"""Every benchmark in small, written as its own files are; two or more questions each."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from llavakit.rules.yes_no import COGNITION, PERCEPTION
from tests import tiny

PEOPLE = ["red"] * 6 + ["blue"] * 4
ROWS = 3  # of most


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = tiny.picture(path.with_suffix(".png"), seed)
    return pixels.replace(path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def stored(folder: Path, seed: int) -> dict:
    """A picture in a cell, as `datasets` stores it."""
    return {"bytes": picture(folder / "cell.png", seed).read_bytes(), "path": "a.png"}


def vqa(folder: Path, questions: str, annotations: str) -> None:
    asked = [{"question_id": n, "image_id": n // 2, "question": f"What is {n}?"} for n in range(ROWS)]
    notes = [
        {"question_id": n, "answers": [{"answer": each} for each in PEOPLE], "answer_type": "other"}
        for n in range(ROWS)
    ]
    write(folder / questions, {"questions": asked})
    write(folder / annotations, {"annotations": notes})
    for n in range(2):
        picture(folder / "val2014" / f"COCO_val2014_{n:012d}.jpg", n)


def vqav2(folder: Path) -> None:
    vqa(folder, "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


def okvqa(folder: Path) -> None:
    vqa(folder, "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json")


def textvqa(folder: Path) -> None:
    rows = [
        {"question_id": n, "image_id": f"p{n}", "question": "what is it?", "answers": PEOPLE}
        for n in range(ROWS)
    ]
    write(folder / "TextVQA_0.5.1_val.json", {"data": rows})
    for n in range(ROWS):
        picture(folder / "train_images" / f"p{n}.jpg", n)


def vizwiz(folder: Path) -> None:
    write(
        folder / "val.json",
        [
            {"image": f"{n}.jpg", "question": "What is it?", "answers": [{"answer": each} for each in PEOPLE]}
            for n in range(ROWS)
        ],
    )
    for n in range(ROWS):
        picture(folder / "val" / f"{n}.jpg", n)


def gqa(folder: Path) -> None:
    write(
        folder / "testdev_balanced_questions.json",
        {f"q{n}": {"question": "Is it red?", "imageId": f"n{n}", "answer": "yes"} for n in range(ROWS)},
    )
    for n in range(ROWS):
        picture(folder / "images" / f"n{n}.jpg", n)


def chartqa(folder: Path) -> None:
    for kind in ("human", "augmented"):
        rows = [{"imgname": f"{n}.png", "query": "How many?", "label": str(10 + n)} for n in range(ROWS)]
        write(folder / f"test_{kind}.json", rows)
    for n in range(ROWS):
        picture(folder / "png" / f"{n}.png", n)


def docvqa(folder: Path) -> None:
    rows = [
        {
            "questionId": n,
            "question": "Which date?",
            "image": f"documents/{n}.png",
            "answers": ["1 May", "May 1"],
        }
        for n in range(ROWS)
    ]
    write(folder / "val_v1.0_withQT.json", {"data": rows})
    for n in range(ROWS):
        picture(folder / "documents" / f"{n}.png", n)


def infovqa(folder: Path) -> None:
    rows = [
        {"questionId": n, "question": "Which?", "image_local_name": f"{n}.jpeg", "answers": ["both"]}
        for n in range(ROWS)
    ]
    write(folder / "infographicsVQA_val_v1.0_withQT.json", {"data": rows})
    for n in range(ROWS):
        picture(folder / "infographicsvqa_images" / f"{n}.jpeg", n)


def pope(folder: Path) -> None:
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": n,
                "image": f"{n // 2}.jpg",
                "text": f"Is there a {n}?",
                "label": "yes" if n % 2 else "no",
            }
            for n in range(6)
        ]
        folder.mkdir(exist_ok=True)
        (folder / f"coco_pope_{kind}.json").write_text("\n".join(map(json.dumps, rows)))
    for n in range(3):
        picture(folder / "val2014" / f"{n}.jpg", n)


def mme(folder: Path) -> None:
    for number, category in enumerate((*PERCEPTION, *COGNITION)):
        nested = number % 2  # both layouts of the release
        texts = folder / category / ("questions_answers_YN" if nested else "")
        pictures = folder / category / ("images" if nested else "")
        texts.mkdir(parents=True)
        for n in range(2):
            picture(pictures / f"{n}.jpg", n)
            lines = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
            (texts / f"{n}.txt").write_text(lines)


def scienceqa(folder: Path) -> None:
    write(
        folder / "problems.json",
        {
            str(n): {
                "question": "Which?",
                "choices": ["cat", "dog", "cow"],
                "answer": n % 3,
                "hint": "Look." if n else "",
                "image": "image.png" if n < ROWS else None,
                "subject": "natural science",
            }
            for n in range(ROWS + 1)
        },
    )
    write(folder / "pid_splits.json", {"test": [str(n) for n in range(ROWS + 1)]})
    for n in range(ROWS):
        picture(folder / "images" / "test" / str(n) / "image.png", n)


def mmbench(folder: Path) -> None:
    lines = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage"]
    for n in range(ROWS):
        text = base64.b64encode(picture(folder / "cell.png", n).read_bytes()).decode()
        lines.append(f"{n}\tWhich?\t\tcat\tdog\tcow\t{'' if n else 'pig'}\t{'ABC'[n]}\tanimals\t{text}")
    (folder / "mmbench_dev.tsv").write_text("\n".join(lines) + "\n")


def seed(folder: Path) -> None:
    rows = [
        {
            "question_id": n,
            "question": "Which?",
            "data_id": f"{n}",
            "data_type": "image",
            "question_type_id": 1,
            "answer": "ABCD"[n],
            **{f"choice_{each}": f"a {each}" for each in "abcd"},
        }
        for n in range(ROWS)
    ]
    video = {"question_id": "v", "data_type": "video"}
    write(folder / "SEED-Bench.json", {"questions": [*rows, video], "question_type": {"Scene": 1}})
    for n in range(ROWS):
        picture(folder / "SEED-Bench-image" / f"{n}", n)


def mmmu(folder: Path) -> None:
    for subject in ("Art", "Music"):
        rows = [
            {
                "id": f"validation_{subject}_{n}",
                "question": "See <image 1>. Which?",
                "options": "['cat', 'dog']",
                "answer": "AB"[n],
                "question_type": "multiple-choice",
                "image_1": stored(folder, n),
                "image_2": None,
            }
            for n in range(2)
        ]
        rows.append(
            rows[0]
            | {"id": f"validation_{subject}_2", "options": "[]", "answer": "12.5", "question_type": "open"}
        )
        parquet(folder / subject / "validation-00000-of-00001.parquet", rows)


def ai2d(folder: Path) -> None:
    rows = [
        {"question": "Which?", "options": ["sun", "moon"], "answer": str(n % 2), "image": stored(folder, n)}
        for n in range(ROWS)
    ]
    parquet(folder / "test-00000-of-00001.parquet", rows)


def coco_captions(folder: Path) -> None:
    said = [
        ["a red car on a road", "one red car drives"],
        ["two dogs run over grass"],
        ["the sea at night under stars"],
    ]
    write(
        folder / "captions_val2014.json",
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
            "annotations": [{"image_id": n, "caption": text} for n, each in enumerate(said) for text in each],
        },
    )
    for n in range(3):
        picture(folder / "val2014" / f"{n}.jpg", n)


def refcoco(folder: Path) -> None:
    rows = [
        {"answer": ["left thing", "thing"], "bbox": [4.0, 3.0, 20.0, 15.0], "image": stored(folder, n)}
        for n in range(ROWS)
    ]
    parquet(folder / "val-00000-of-00001.parquet", rows)


WRITE: dict[str, Callable[[Path], None]] = {
    "vqav2": vqav2, "okvqa": okvqa, "textvqa": textvqa, "vizwiz": vizwiz, "gqa": gqa, "chartqa": chartqa,
    "docvqa": docvqa, "infovqa": infovqa, "pope": pope, "mme": mme, "scienceqa": scienceqa, "mmbench": mmbench,
    "mmbench-cn": mmbench, "seed": seed, "mmmu": mmmu, "ai2d": ai2d, "coco-captions": coco_captions,
    "refcoco": refcoco,
}  # fmt: skip


def written(task: str, folder: Path) -> Path:
    """The folder of a benchmark in small."""
    own = folder / task
    own.mkdir(parents=True)
    from tests.eval.more_layouts import MORE  # which is made of what is here

    (WRITE | MORE)[task](own)
    return own
