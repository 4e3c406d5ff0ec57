"""Test sets whose answers are not public: asked as their twins with answers, handed in where they are scored."""

import re
from collections.abc import Sequence
from pathlib import Path

from llavakit.data.layouts import (
    LETTER,
    SHORT,
    find,
    find_all,
    lettered,
    listed,
    picture_of_base64,
    read_object,
    read_rows,
    read_table,
    rows_of,
    text_in,
)
from llavakit.eval.benchmark import Benchmark, Question, Submission
from llavakit.eval.submission import as_json, as_mapping, workbook
from llavakit.eval.tasks.choices import ask as ask_choice
from llavakit.eval.tasks.choices import in_place, spelled_list
from llavakit.eval.tasks.short_answers import UNANSWERABLE, ask
from llavakit.rules import choices
from llavakit.rules.short_answers import normalise_m4c
from llavakit.text.conversation import user


def read_vqav2_test(folder: Path) -> list[Question]:
    asked = rows_of(
        read_object(
            find(
                folder, "v2_OpenEnded_mscoco_test-dev2015_questions.json",
                "v2_OpenEnded_mscoco_test2015_questions.json",
            )
        ),
        "questions",
    )  # fmt: skip
    return [
        ask(
            row["question_id"], folder / "test2015" / f"COCO_test2015_{int(row['image_id']):012d}.jpg",
            row["question"] + SHORT, None,
        )
        for row in asked
    ]  # fmt: skip


def read_vizwiz_test(folder: Path) -> list[Question]:
    return [
        ask(row["image"], folder / "test" / row["image"], row["question"] + UNANSWERABLE + SHORT, None)
        for row in read_rows(find(folder, "test.json", "Annotations/test.json"))
    ]


def read_docvqa_test(folder: Path) -> list[Question]:
    rows = rows_of(read_object(find(folder, "test_v1.0.json", "test_v1.0*.json")), "data")
    return [ask(row["questionId"], folder / row["image"], row["question"] + SHORT, None) for row in rows]


def read_infovqa_test(folder: Path) -> list[Question]:
    rows = rows_of(
        read_object(find(folder, "infographicsVQA_test_v1.0.json", "infographicsVQA_test*.json")), "data"
    )
    pictures = folder / "infographicsvqa_images"
    return [
        ask(row["questionId"], pictures / row["image_local_name"], row["question"] + SHORT, None)
        for row in rows
    ]


def read_mmbench_test(folder: Path) -> list[Question]:
    """The TSV without answers; its rotations are made by the server."""
    found = []
    for row in read_table(find(folder, "*.tsv")):
        options = lettered([row[letter] for letter in "ABCDE" if row.get(letter) not in (None, "", "nan")])
        start = f"{row['hint']}\n" if row.get("hint") not in (None, "", "nan") else ""
        text = f"{start}{row['question']}\n{listed(options)}{LETTER}"
        parts = user(text, [picture_of_base64(row, row["image"])]).parts
        kept = {key: text for key, text in row.items() if key != "image" and text is not None}
        found.append(Question(text_in(row, "index"), parts, kept, options))
    return found


def mmbench_book(questions: Sequence[Question], answers: Sequence[str]) -> bytes:
    """The columns of the TSV, without pictures, and what was said."""
    return workbook([q.reference | {"prediction": a} for q, a in zip(questions, answers, strict=True)])


def read_mmmu_test(folder: Path) -> list[Question]:
    found = []
    for path in find_all(folder, "**/test-*.parquet", "**/test*.jsonl"):
        for row in read_rows(path):
            name = text_in(row, "id")
            subject = re.sub(r"^test_|_\d+$", "", name)
            if row["question_type"] == "multiple-choice":
                options = lettered(spelled_list(row, "options"))
                parts = in_place(row, path.parent, f"{row['question']}\n{listed(options)}\n{LETTER}")
                found.append(ask_choice(name, parts, "", options, subject))
            else:
                parts = in_place(row, path.parent, f"{row['question']}\n{SHORT}")
                found.append(Question(name, parts, None, group=subject))
    return found


def mmmu_answer(question: Question, answer: str) -> str:
    """The letter, or the whole text where none is read: nothing is drawn at random."""
    return (choices.mmmu_lmms(answer, question.options) if question.options else None) or answer


VQA, EVAL_AI, RRC = "eval.ai/web/challenges/challenge-page/830", "eval.ai", "rrc.cvc.uab.es"
BENCHMARKS = {
    "vqav2-test": Benchmark(
        "VQAv2 test-dev", "v2_OpenEnded_mscoco_test-dev2015_questions.json, test2015/", read_vqav2_test, {},
        submission=Submission(
            "submission.json", VQA,
            as_json(lambda q, answer: {"question_id": int(q.id), "answer": normalise_m4c(answer)}),
        ),
    ),
    "vizwiz-test": Benchmark(
        "VizWiz test", "test.json, test/", read_vizwiz_test, {},
        submission=Submission(
            "submission.json", EVAL_AI, as_json(lambda q, answer: {"image": q.id, "answer": normalise_m4c(answer)})
        ),
    ),
    "docvqa-test": Benchmark(
        "DocVQA test", "test_v1.0.json, documents/", read_docvqa_test, {}, max_tokens=32,
        submission=Submission(
            "submission.json", RRC, as_json(lambda q, answer: {"questionId": int(q.id), "answer": answer})
        ),
    ),
    "infovqa-test": Benchmark(
        "InfoVQA test", "infographicsVQA_test_v1.0.json, infographicsvqa_images/", read_infovqa_test, {},
        max_tokens=32,
        submission=Submission(
            "submission.json", RRC, as_json(lambda q, answer: {"questionId": int(q.id), "answer": answer})
        ),
    ),
    "mmbench-test": Benchmark(
        "MMBench test", "*.tsv without answers", read_mmbench_test, {},
        submission=Submission("submission.xlsx", "mmbench.opencompass.org.cn", mmbench_book),
    ),
    "mmmu-test": Benchmark(
        "MMMU test", "test-*.parquet, in a folder per subject or not", read_mmmu_test, {},
        submission=Submission("submission.json", EVAL_AI, as_mapping(mmmu_answer)),
    ),
}  # fmt: skip
