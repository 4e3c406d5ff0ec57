"""Medical pictures: VQA-RAD, SLAKE, PathVQA; closed questions by accuracy, open ones by recall, each named so."""

from collections.abc import Sequence
from pathlib import Path

from llavakit.data.layouts import Fields, find, picture_in, read_rows, text_in
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules
from llavakit.rules.means import mean
from llavakit.rules.short_answers import normalise
from llavakit.text.conversation import ImageSource, user


def read_medical(folder: Path, *patterns: str, pictures: str, keys: tuple[str, str]) -> list[Question]:
    """The release's JSON (a question a row, the picture's name under one of `keys`), or Parquet of the hub."""
    path = find(folder, *patterns)
    found = []
    for number, row in enumerate(read_rows(path)):
        if row.get("q_lang", "en") != "en":
            continue
        answer = text_in(row, "answer")
        group = kind_of(row, answer)
        parts = user(text_in(row, "question"), [_picture(row, folder, path, pictures, keys)]).parts
        name = str(row.get("qid", number))
        found.append(
            Question(name, parts, answer, group=group, chance=0.5 * (answer.strip().lower() in ("yes", "no")))
        )
    return found


def kind_of(row: Fields, answer: str) -> str:
    """As the file says; where it does not, yes and no are closed."""
    said = str(row.get("answer_type", "")).strip().lower()
    if said in ("open", "closed"):
        return said
    return "closed" if answer.strip().lower() in ("yes", "no") else "open"


def _picture(row: Fields, folder: Path, path: Path, pictures: str, keys: tuple[str, str]) -> ImageSource:
    key = next((key for key in keys if key in row), "image")
    if key == "image":
        return picture_in(row, "image", path.parent)
    return folder / pictures / text_in(row, key)


def medical_points(questions: Sequence[Question], answers: Sequence[str]) -> Points:
    """Closed: the reference's words stand in the answer. Open: the share of the reference's words that do.

    This is LLaVA-Med's evaluation; a classifier's accuracy is another thing.
    """
    points: list[float | None] = []
    for question, answer in zip(questions, answers, strict=True):
        said, wanted = normalise(answer).split(), normalise(question.reference).split()
        share = mean([float(word in said) for word in wanted])
        closed = question.group == "closed"
        points.append(None if closed and not said else float(share == 1) if closed else share)
    return points


def medical_figures(questions: Sequence[Question], points: Points) -> Figures:
    """Closed accuracy and open recall; a set without one kind has the figure of the other."""
    names = {"closed": "closed accuracy", "open": "open recall"}
    return {
        name: 100 * mean([p or 0.0 for q, p in zip(questions, points, strict=True) if q.group == kind])
        for kind, name in names.items()
        if any(question.group == kind for question in questions)
    }


RULES = {"ours": Rules(medical_points, medical_figures)}
BENCHMARKS = {
    "vqa-rad": Benchmark(
        "VQA-RAD", "VQA_RAD*.json with image_name, question, answer, answer_type; VQA_RAD Image Folder/",
        lambda at: read_medical(
            at, "VQA_RAD*.json", "**/test-*.parquet", pictures="VQA_RAD Image Folder", keys=("image_name", "image")
        ),
        RULES, max_tokens=64,
    ),
    "slake": Benchmark(
        "SLAKE, English", "test.json with img_name, question, answer, answer_type; imgs/",
        lambda at: read_medical(at, "test.json", "**/test-*.parquet", pictures="imgs", keys=("img_name", "image")),
        RULES, max_tokens=64,
    ),
    "pathvqa": Benchmark(
        "PathVQA", "test-*.parquet with image, question, answer",
        lambda at: read_medical(at, "**/test-*.parquet", "test.jsonl", pictures="", keys=("image", "image")),
        RULES, max_tokens=64,
    ),
}  # fmt: skip
