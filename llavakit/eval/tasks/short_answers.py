"""Short answers: VQAv2, OK-VQA, TextVQA, VizWiz, GQA, ChartQA, DocVQA, InfoVQA, OCRBench."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llavakit.data.layouts import (
    SHORT,
    Fields,
    find,
    picture_in,
    read_object,
    read_rows,
    rows_of,
    text_in,
    texts_in,
)
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy, each
from llavakit.rules import numbers, short_answers
from llavakit.text.conversation import user

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
FORMULAS = "Handwritten Mathematical Expression Recognition"  # of OCRBench's ten kinds
ONE_WORD = "\nAnswer the question with a single word."


def compared(rule: Callable[[str, Any], float]) -> Rules:
    """A rule that compares with the reference. An empty answer is wrong for it, not unread."""
    return Rules(each(lambda answer, question: rule(answer, question.reference)))


def ask(name: Any, picture: Path, text: str, reference: Any, group: str = "") -> Question:
    """A question about one picture, which comes first."""
    return Question(str(name), user(text, [picture]).parts, reference, group=group)


def said_by(row: Fields) -> list[str]:
    """What the ten people said, as texts or as {"answer": text}."""
    people = row["answers"]
    if isinstance(people, list) and people and isinstance(people[0], dict):
        return [text_in(Fields(one, row.path, row.line), "answer") for one in people]
    return texts_in(row, "answers")


def read_vqa(folder: Path, questions: str, annotations: str) -> list[Question]:
    """The two files of the VQA challenge, and COCO's pictures in val2014/."""
    asked = rows_of(read_object(find(folder, questions)), "questions")
    known = {
        row["question_id"]: row for row in rows_of(read_object(find(folder, annotations)), "annotations")
    }
    found = []
    for row in asked:
        if row["question_id"] not in known:
            raise row.error(f"question {row['question_id']} has no annotation")
        picture = folder / "val2014" / f"COCO_val2014_{int(row['image_id']):012d}.jpg"
        note = known[row["question_id"]]
        group = str(note.get("answer_type", ""))
        found.append(ask(row["question_id"], picture, row["question"] + SHORT, said_by(note), group))
    return found


def read_vqav2(folder: Path) -> list[Question]:
    return read_vqa(
        folder, "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
    )


def read_okvqa(folder: Path) -> list[Question]:
    questions = read_vqa(folder, "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json")
    return [Question(each.id, each.parts, each.reference) for each in questions]


def read_textvqa(folder: Path) -> list[Question]:
    rows = rows_of(read_object(find(folder, "TextVQA_0.5.1_val.json")), "data")
    return [
        ask(
            row["question_id"], folder / "train_images" / f"{row['image_id']}.jpg",
            row["question"].capitalize() + SHORT, said_by(row),
        )
        for row in rows
    ]  # fmt: skip


def read_vizwiz(folder: Path) -> list[Question]:
    return [
        ask(row["image"], folder / "val" / row["image"], row["question"] + UNANSWERABLE + SHORT, said_by(row))
        for row in read_rows(find(folder, "val.json", "Annotations/val.json"))
    ]


def read_gqa(folder: Path) -> list[Question]:
    whole = read_object(find(folder, "testdev_balanced_questions.json"))
    rows = {name: Fields(raw, whole.path) for name, raw in whole.items()}
    return [
        ask(
            name, folder / "images" / f"{row['imageId']}.jpg", row["question"] + SHORT, text_in(row, "answer")
        )
        for name, row in rows.items()
    ]


def same_word(answer: str, reference: str) -> float:
    """GQA as LLaVA-1.5 hands answers in: lower case, without the period at the end."""
    return float(answer.rstrip(".").lower() == reference.lower())


def read_chartqa(folder: Path) -> list[Question]:
    found = []
    for group in ("human", "augmented"):
        path = find(folder, f"test_{group}.json", f"test/test_{group}.json")
        for number, row in enumerate(read_rows(path)):
            picture = path.parent / "png" / row["imgname"]
            found.append(
                ask(f"{group}-{number}", picture, row["query"] + ONE_WORD, text_in(row, "label"), group)
            )
    return found


def read_docvqa(folder: Path) -> list[Question]:
    rows = rows_of(read_object(find(folder, "val_v1.0_withQT.json", "val_v1.0.json")), "data")
    return [
        ask(r["questionId"], folder / r["image"], r["question"] + SHORT, texts_in(r, "answers")) for r in rows
    ]


def read_infovqa(folder: Path) -> list[Question]:
    rows = rows_of(read_object(find(folder, "infographicsVQA_val_v1.0_withQT.json")), "data")
    pictures = folder / "infographicsvqa_images"
    return [
        ask(r["questionId"], pictures / r["image_local_name"], r["question"] + SHORT, texts_in(r, "answers"))
        for r in rows
    ]


def read_ocrbench(folder: Path) -> list[Question]:
    """OCRBench.json with pictures beside it, or Parquet; handwritten formulas have rules of their own."""
    path = find(folder, "OCRBench.json", "**/*.parquet")
    found = []
    for number, row in enumerate(read_rows(path)):
        places = ("dataset_name", "image_path", "answers", "type")  # of the release; the hub has other names
        hub = ("dataset", "image", "answer", "question_type")
        dataset, picture, answers, kind = places if "image_path" in row else hub
        said = row[answers] if isinstance(row[answers], list) else [row[answers]]
        source = picture_in(
            row, picture, folder / "OCRBench_Images" if picture == "image_path" else path.parent
        )
        reference = [text_in(Fields({"answer": one}, path, row.line), "answer") for one in said]
        found.append(
            Question(
                str(row.get("id", number)), user(text_in(row, "question"), [source]).parts, reference,
                group=FORMULAS if row[dataset] == "HME100k" else text_in(row, kind),
            )
        )  # fmt: skip
    return found


def standing_in(rule: Callable[..., float]) -> Rules:
    """OCRBench's rule, and its score: the questions answered rightly, of a thousand."""

    def judge(answer: str, question: Question) -> float | None:
        return rule(answer, question.reference, formula=question.group == FORMULAS)

    def figures(questions: Sequence[Question], points: Points) -> Figures:
        return accuracy(questions, points) | {"score": sum(point or 0.0 for point in points)}

    return Rules(each(judge), figures)


PEOPLE = {
    "official": compared(short_answers.vqa_official),
    "lmms": compared(short_answers.vqa_normalised),
    "vlmevalkit": compared(short_answers.vqa_normalised),
}
READ_TEXT = {
    "official": compared(short_answers.vqa_m4c),
    "lmms": compared(short_answers.vqa_m4c),
    "vlmevalkit": compared(short_answers.vqa_normalised),
}
ANLS = {"lmms": compared(short_answers.anls), "vlmevalkit": compared(short_answers.anls)}
BENCHMARKS = {
    "vqav2": Benchmark(
        "VQAv2 val",
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, val2014/",
        read_vqav2, PEOPLE,
    ),
    "okvqa": Benchmark(
        "OK-VQA val", "OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json, val2014/",
        read_okvqa, PEOPLE,
    ),
    "textvqa": Benchmark("TextVQA val", "TextVQA_0.5.1_val.json, train_images/", read_textvqa, READ_TEXT),
    "vizwiz": Benchmark(
        "VizWiz val", "val.json, val/", read_vizwiz, {name: READ_TEXT[name] for name in ("official", "lmms")}
    ),
    "gqa": Benchmark(
        "GQA testdev", "testdev_balanced_questions.json, images/", read_gqa,
        {"official": compared(same_word), "lmms": compared(short_answers.exact_match)},
    ),
    "chartqa": Benchmark(
        "ChartQA test", "test_human.json, test_augmented.json, png/", read_chartqa,
        {name: compared(rule) for name, rule in numbers.CHART_RULES.items()},
    ),
    "docvqa": Benchmark("DocVQA val", "val_v1.0_withQT.json, documents/", read_docvqa, ANLS, max_tokens=32),
    "infovqa": Benchmark(
        "InfoVQA val", "infographicsVQA_val_v1.0_withQT.json, infographicsvqa_images/", read_infovqa, ANLS,
        max_tokens=32,
    ),
    "ocrbench": Benchmark(
        "OCRBench", "OCRBench.json, OCRBench_Images/; or *.parquet", read_ocrbench,
        {
            "official": standing_in(short_answers.contains),
            "lmms": standing_in(short_answers.contains_folded),
        },
        max_tokens=128,
    ),
}  # fmt: skip
