"""Chats that a judge compares with a reference: LLaVA-Bench (COCO, in the wild, Wilder), LLaVA-Med, WildVision."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llavakit.critic.formats import ARENA, FORMATS
from llavakit.data.layouts import Fields, find, find_all, picture_in, read_rows, text_in
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, each
from llavakit.eval.judging import one_by_one
from llavakit.rules import means, verdicts
from llavakit.text.conversation import IMAGE_TOKEN, user

BASELINE = "claude-3-sonnet-20240229"  # of WildVision


class Relative(float):
    """Points of an answer (a tenth of its score), with the score that the reference got beside it."""

    reference: float

    def __new__(cls, model: float, reference: float) -> "Relative":
        made = super().__new__(cls, model / 10)
        made.reference = reference
        return made


def relative(review: str, question: Question) -> float | None:
    """The two scores of a review, from 1 to 10; None if they cannot be read or leave the scale."""
    found = verdicts.two_scores(review)
    if found is None or not all(1 <= score <= 10 for score in found):
        return None
    return Relative(found[1], found[0])


Pairs = Sequence[tuple[float, float]]


def relative_figures(combine: Callable[[Pairs], float]) -> Callable[[Sequence[Question], Points], Figures]:
    """The answers' scores against those of the references, in per cent, of all and of each category.

    What was not read is left out; as a bound of the score, 0 against a 10.
    """

    def figures(questions: Sequence[Question], points: Points) -> Figures:
        rows = [(q.group, _pair(p)) for q, p in zip(questions, points, strict=True) if p is not None]
        found = {"relative": combine([pair for _, pair in rows])}
        for group in dict.fromkeys(group for group, _ in rows):
            if group:
                found[group] = combine([pair for own, pair in rows if own == group])
        return found

    return figures


def _pair(point: float) -> tuple[float, float]:
    return (point.reference if isinstance(point, Relative) else 10.0), 10 * point


def _reference(question: Question) -> str:
    return str(question.reference["answer"])


def _context(question: Question) -> str:
    return str(question.reference["context"])


def _keyed(path: Path, key: str) -> dict[Any, Fields]:
    return {row[key]: row for row in read_rows(path)}


def read_coco(folder: Path) -> list[Question]:
    """90 questions about 30 COCO pictures; the judge is told captions and boxes."""
    answers = _keyed(find(folder, "qa90_gpt4_answer.jsonl"), "question_id")
    contexts = _keyed(find(folder, "caps_boxes_coco2014_val_80.jsonl"), "image")
    found = []
    for row in read_rows(find(folder, "qa90_questions.jsonl")):
        known = _at(contexts, row["image"], row)
        boxes = "\n".join(f"{box['category']}: {box['bbox']}" for box in known["instances"])
        context = "\n".join(known["captions"]) + "\n" + boxes
        picture = folder / "val2014" / f"COCO_val2014_{row['image']}"
        found.append(_asked(row, picture, _at(answers, row["question_id"], row)["text"], context))
    return found


def read_wild(folder: Path) -> list[Question]:
    """60 questions about 24 pictures; the judge is told what a person wrote about the picture."""
    answers = _keyed(find(folder, "answers_gpt4.jsonl"), "question_id")
    contexts = _keyed(find(folder, "context.jsonl"), "image")
    found = []
    for row in read_rows(find(folder, "questions.jsonl")):
        caption = _at(contexts, row["image"], row)["caption"]
        context = "\n".join(caption) if isinstance(caption, list) else str(caption)
        answer = _at(answers, row["question_id"], row)["text"]
        found.append(_asked(row, folder / "images" / row["image"], answer, context))
    return found


def _at(table: dict[Any, Fields], key: Any, row: Fields) -> Fields:
    if key not in table:
        raise row.error(f"nothing for {key!r} in the other files")
    return table[key]


def _asked(row: Fields, picture: Path, answer: Any, context: str) -> Question:
    parts = user(text_in(row, "text"), [picture]).parts
    reference = {"answer": str(answer), "context": context}
    return Question(text_in(row, "question_id"), parts, reference, group=text_in(row, "category"))


def read_wilder(folder: Path) -> list[Question]:
    """Parquet with `Question`, `Answer`, `image`, `Category`; the judge sees the picture."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            parts = user(text_in(row, "Question"), [picture_in(row, "image", path.parent)]).parts
            reference = {"answer": text_in(row, "Answer")}
            found.append(
                Question(f"{path.stem}-{number}", parts, reference, group=str(row.get("Category") or ""))
            )
    return found


def read_med(folder: Path) -> list[Question]:
    """193 questions about 50 figures; the judge is told the caption and where the article speaks of the figure."""
    found = []
    for row in read_rows(find(folder, "llava_med_eval_qa50_qa.jsonl")):
        mentions = "\n".join(str(each["tokens"]) for each in row["in_text_mention"])
        context = f"{row['fig_label']}: {row['fig_caption']}\n{mentions}"
        text = text_in(row, "text").replace(IMAGE_TOKEN, "").strip()
        parts = user(text, [folder / "images" / row["image"]]).parts
        reference = {"answer": text_in(row, "gpt4_answer"), "context": context}
        found.append(Question(text_in(row, "question_id"), parts, reference, group=text_in(row, "type")))
    return found


def read_wildvision(folder: Path) -> list[Question]:
    """Parquet with `instruction`, `image` and the baseline's answer."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            parts = user(text_in(row, "instruction"), [picture_in(row, "image", path.parent)]).parts
            known = row.get("question_id")
            name = f"{path.stem}-{number}" if known is None else str(known)
            found.append(Question(name, parts, {"answer": text_in(row, BASELINE)}))
    return found


def arena_point(review: str, question: Question) -> float | None:
    """0 (the baseline is much better), 1/4, 1/2, 3/4, 1 (the answer is)."""
    said = verdicts.arena(review)
    return None if said is None else (1 + ARENA[said]) / 2


def arena_figures(questions: Sequence[Question], points: Points) -> Figures:
    """The share of questions won, a tie being half of one, and the mean of 100, 50, 0, -50, -100 for verdicts."""
    read = [point for point in points if point is not None]
    won = [float(point > 0.5) + 0.5 * (point == 0.5) for point in read]
    return {"win rate": 100 * means.mean(won), "reward": 100 * means.mean([2 * point - 1 for point in read])}


_ratio = {"official": Rules(each(relative), relative_figures(means.ratio_of_means))}
_told = one_by_one(FORMATS["llava-bench"], reference=_reference, context=_context)
BENCHMARKS = {
    "llava-bench-coco": Benchmark(
        "LLaVA-Bench (COCO)",
        "qa90_questions.jsonl, qa90_gpt4_answer.jsonl, caps_boxes_coco2014_val_80.jsonl, val2014/", read_coco,
        _ratio, max_tokens=1024, judging=_told,
    ),
    "llava-bench-wild": Benchmark(
        "LLaVA-Bench (in the wild)", "questions.jsonl, answers_gpt4.jsonl, context.jsonl, images/", read_wild,
        _ratio, max_tokens=1024, judging=_told,
    ),
    "llava-bench-tools": Benchmark(
        "LLaVA-Bench (Tools)", "questions.jsonl, answers_gpt4.jsonl, context.jsonl, images/", read_wild,
        _ratio, max_tokens=1024, judging=_told,
    ),
    "llava-bench-wilder": Benchmark(
        "LLaVA-Bench (Wilder)", "*.parquet with Question, Answer, image", read_wilder, _ratio, max_tokens=4096,
        judging=one_by_one(FORMATS["wilder"], reference=_reference),
    ),
    "llava-med": Benchmark(
        "LLaVA-Med chat", "llava_med_eval_qa50_qa.jsonl, images/", read_med,
        {"official": Rules(each(relative), relative_figures(means.mean_of_ratios))}, max_tokens=1024, judging=_told,
    ),
    "wildvision": Benchmark(
        "WildVision-Bench", f"*.parquet with instruction, image, {BASELINE}", read_wildvision,
        {"official": Rules(each(arena_point), arena_figures)}, max_tokens=4096,
        judging=one_by_one(FORMATS["wildvision"], reference=_reference),
    ),
}  # fmt: skip
