"""Benchmarks that a judge scores, in small, as their own files are."""

import json
from collections.abc import Callable
from pathlib import Path

from llavakit.eval.tasks.judged_chats import BASELINE
from tests.eval.layouts import parquet, picture, stored, write

COUNT = 3


def truth(number: int) -> str:
    return f"A red ball of kind {number}."


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def coco(folder: Path) -> None:
    kinds = ("conv", "detail", "complex")
    names = [f"{n:012}.jpg" for n in range(COUNT)]
    lines(
        folder / "qa90_questions.jsonl",
        [
            {"question_id": n, "image": names[n], "text": f"What {n}?", "category": kinds[n]}
            for n in range(COUNT)
        ],
    )
    lines(folder / "qa90_gpt4_answer.jsonl", [{"question_id": n, "text": truth(n)} for n in range(COUNT)])
    known = [
        {"image": name, "captions": ["A ball."], "instances": [{"category": "ball", "bbox": [0, 0, 1, 1]}]}
        for name in names
    ]
    lines(folder / "caps_boxes_coco2014_val_80.jsonl", known)
    for n, name in enumerate(names):
        picture(folder / "val2014" / f"COCO_val2014_{name}", n)


def wild(folder: Path) -> None:
    kinds = ("conv", "detail", "complex")
    asked = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"What {n}?", "category": kinds[n]}
        for n in range(COUNT)
    ]
    lines(folder / "questions.jsonl", asked)
    lines(folder / "answers_gpt4.jsonl", [{"question_id": n, "text": truth(n)} for n in range(COUNT)])
    lines(folder / "context.jsonl", [{"image": f"{n}.jpg", "caption": "A ball."} for n in range(COUNT)])
    for n in range(COUNT):
        picture(folder / "images" / f"{n}.jpg", n)


def wilder(folder: Path) -> None:
    rows = [{"Question": f"What {n}?", "Answer": truth(n), "Category": "chat"} for n in range(COUNT)]
    parquet(folder / "small.parquet", [row | {"image": stored(folder, n)} for n, row in enumerate(rows)])


def med(folder: Path) -> None:
    rows = [
        {
            "question_id": n, "image": f"{n}.jpg", "text": f"What {n}?\n<image>", "gpt4_answer": truth(n),
            "fig_label": "Fig. 1", "fig_caption": "A ball.", "in_text_mention": [{"tokens": "See Fig. 1 ."}],
            "type": ("conversation", "detail_description")[n % 2],
        }
        for n in range(COUNT)
    ]  # fmt: skip
    lines(folder / "llava_med_eval_qa50_qa.jsonl", rows)
    for n in range(COUNT):
        picture(folder / "images" / f"{n}.jpg", n)


def wildvision(folder: Path) -> None:
    rows = [
        {"question_id": f"q{n}", "instruction": f"What {n}?", BASELINE: truth(n), "image": stored(folder, n)}
        for n in range(COUNT)
    ]
    parquet(folder / "test.parquet", rows)


def mmhal(folder: Path) -> None:
    rows = [
        {
            "question": f"What {n}?", "gt_answer": truth(n), "image_content": ["ball", "grass"],
            "image_src": f"https://example.org/a/{n}.jpg", "model_answer": "",
        }
        for n in range(COUNT)
    ]  # fmt: skip
    write(folder / "response_template.json", rows)
    for n in range(COUNT):
        picture(folder / "images" / f"{n}.jpg", n)


def mmvet(folder: Path) -> None:
    needs = (["ocr"], ["rec", "know"], ["rec"])
    write(
        folder / "mm-vet.json",
        {
            f"v1_{n}": {
                "imagename": f"{n}.jpg",
                "question": f"What {n}?",
                "answer": truth(n),
                "capability": needs[n],
            }
            for n in range(COUNT)
        },
    )
    for n in range(COUNT):
        picture(folder / "images" / f"{n}.jpg", n)


def vibe(folder: Path) -> None:
    rows = [
        {
            "example_id": f"e{n}", "category": ("difficulty-normal", "difficulty-hard")[n % 2],
            "prompt": f"What {n}?", "reference": truth(n), "media_filename": f"{n}.jpg",
        }
        for n in range(COUNT)
    ]  # fmt: skip
    lines(folder / "vibe-eval.v1.jsonl", rows)
    for n in range(COUNT):
        picture(folder / "images" / f"{n}.jpg", n)


def videochatgpt(folder: Path) -> None:
    for name, fields in {"generic": ("Q",), "temporal": ("Q",), "consistency": ("Q1", "Q2")}.items():
        rows = [
            {"video_name": f"v{n}", "A": truth(n)} | {field: f"{field} {n}?" for field in fields}
            for n in range(2)
        ]
        write(folder / f"{name}_qa.json", rows)
    (folder / "Test_Videos").mkdir()
    for n in range(2):
        (folder / "Test_Videos" / f"v{n}.mp4").write_bytes(b"video")


def live(folder: Path) -> None:
    rows = [
        {
            "id": n, "question": f"What {n}?", "answer": truth(n), "criteria": "The colour, 10 points.",
            "subtask": ("Basic Understanding", "Contextual Analysis")[n % 2], "images": [stored(folder, n)],
        }
        for n in range(COUNT)
    ]  # fmt: skip
    parquet(folder / "2024-09.parquet", rows)


def video_detail(folder: Path) -> None:
    rows = [{"video_name": f"v{n}", "question": f"What {n}?", "answer": truth(n)} for n in range(COUNT)]
    parquet(folder / "test.parquet", rows)
    (folder / "Test_Videos").mkdir()
    for n in range(COUNT):
        (folder / "Test_Videos" / f"v{n}.mp4").write_bytes(b"video")


def dream(folder: Path) -> None:
    rows = [
        {
            "idx": f"DREAM-1K_{n}", "video_file": f"video/{n}.mp4", "source": ("stock", "youtube")[n % 2],
            "description": truth(n), "events": ["A ball rolls.", "It stops."],
        }
        for n in range(COUNT)
    ]  # fmt: skip
    write(folder / "json" / "metadata.json", rows)
    (folder / "video").mkdir()
    for n in range(COUNT):
        (folder / "video" / f"{n}.mp4").write_bytes(b"video")


def activitynet(folder: Path) -> None:
    write(
        folder / "test_q.json",
        [{"question_id": f"q{n}", "video_name": f"n{n}", "question": f"what {n}"} for n in range(COUNT)],
    )
    write(
        folder / "test_a.json",
        [{"question_id": f"q{n}", "answer": truth(n), "type": n} for n in range(COUNT)],
    )
    (folder / "all_test").mkdir()
    for n in range(COUNT):
        (folder / "all_test" / f"v_n{n}.mp4").write_bytes(b"video")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "llava-bench-coco": coco, "llava-bench-wild": wild, "llava-bench-tools": wild, "llava-bench-wilder": wilder,
    "llava-med": med,
    "wildvision": wildvision, "mmhal-bench": mmhal, "mm-vet": mmvet, "vibe-eval": vibe,
    "videochatgpt": videochatgpt, "livebench": live, "video-detail": video_detail, "dream-1k": dream,
    "activitynet-qa-judged": activitynet,
}  # fmt: skip
