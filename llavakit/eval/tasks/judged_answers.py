"""Answers that a judge rates against the truth: MMHal-Bench, MM-Vet, Vibe-Eval, VideoChatGPT's five dimensions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llavakit.critic.formats import FORMATS, Format, scores
from llavakit.data.cases import Case
from llavakit.data.layouts import Fields, find, picture_in, read_object, read_rows, text_in, video_at
from llavakit.eval.benchmark import (
    Aggregate,
    Asked,
    Benchmark,
    Figures,
    Judging,
    Points,
    Question,
    Rules,
    each,
)
from llavakit.eval.judging import mean_figures, one_by_one
from llavakit.rules import verdicts
from llavakit.rules.means import mean
from llavakit.text.conversation import user

KINDS = (
    "attribute", "adversarial object", "comparison", "counting", "spatial relation", "environment", "holistic",
    "other",
)  # fmt: skip  # of MMHal-Bench, by a question's place
HALLUCINATES = 3  # ratings below it


def read_mmhal(folder: Path) -> list[Question]:
    """96 questions; the judge is told what is in the picture and how a person answered."""
    found = []
    for number, row in enumerate(read_rows(find(folder, "response_template.json", "*.json"))):
        picture = folder / "images" / PurePosixPath(text_in(row, "image_src")).name
        reference = {
            "answer": text_in(row, "gt_answer"),
            "context": ", ".join(map(str, row["image_content"])),
        }
        parts = user(text_in(row, "question"), [picture]).parts
        found.append(Question(str(number), parts, reference, group=KINDS[number % len(KINDS)]))
    return found


def ratings(read: Callable[[str], float | None], lowest: float, highest: float, figures: Aggregate) -> Rules:
    """Rules of a rating on a scale; its points go from 0 to 1."""

    def point(review: str, question: Question) -> float | None:
        rating = read(review)
        return None if rating is None else (rating - lowest) / (highest - lowest)

    return Rules(each(point), figures)


def mmhal_figures(questions: Sequence[Question], points: Points) -> Figures:
    """Mean rating, the share of answers that say what is not there, and the mean of each kind of question."""
    figures = mean_figures("score", lambda point: 6 * point)(questions, points)
    rate = 100 * mean([float(6 * point < HALLUCINATES) for point in points if point is not None])
    return {"score": figures.pop("score"), "hallucination rate": rate, **figures}


def read_mmvet(folder: Path) -> list[Question]:
    """mm-vet.json: an object of questions by name, with answers and the capabilities they ask for."""
    whole = read_object(find(folder, "mm-vet.json"))
    found = []
    for name, raw in whole.items():
        row = Fields(raw, whole.path)
        answer = text_in(row, "answer").replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        parts = user(text_in(row, "question"), [folder / "images" / row["imagename"]]).parts
        found.append(Question(name, parts, {"answer": answer, "needs": list(row["capability"])}))
    return found


def mmvet_figures(questions: Sequence[Question], points: Points) -> Figures:
    """Per cent of the points, of all and of the questions read that ask for each capability."""
    rows = [(q.reference["needs"], 100 * p) for q, p in zip(questions, points, strict=True) if p is not None]
    names = sorted({name for needs, _ in rows for name in needs})
    return {"total": mean([value for _, value in rows])} | {
        name: mean([value for needs, value in rows if name in needs]) for name in names
    }


def read_vibe(folder: Path) -> list[Question]:
    """vibe-eval.v1.jsonl with pictures in images/, or Parquet with the pictures in it."""
    path = find(folder, "vibe-eval.v1.jsonl", "*.jsonl", "**/*.parquet")
    found = []
    for row in read_rows(path):
        inside = row.get("image") is not None
        picture = picture_in(row, "image", folder) if inside else folder / "images" / row["media_filename"]
        hard = "hard" if "hard" in text_in(row, "category") else "normal"
        parts = user(text_in(row, "prompt").strip(), [picture]).parts
        found.append(
            Question(text_in(row, "example_id"), parts, {"answer": text_in(row, "reference")}, group=hard)
        )
    return found


def percent(point: float) -> float:
    return 100 * point


@dataclass(frozen=True)
class Dimension:
    """One of VideoChatGPT's: its file, and what the judge looks at."""

    name: str
    file: str
    aim: str


DIMENSIONS = (
    Dimension("correctness", "generic_qa.json", "whether what is said is true, without errors or inventions"),
    Dimension("detail", "generic_qa.json", "how complete and how specific the answer is"),
    Dimension("context", "generic_qa.json", "whether the answer fits what the video is about as a whole"),
    Dimension("temporal", "temporal_qa.json", "whether the answer has the order of events right"),
    Dimension(
        "consistency", "consistency_qa.json", "whether answers to two forms of one question say the same"
    ),
)
_PROMPT = (
    "Rate a predicted answer to a question about a video: {aim}. Other words for the same thing are fine.\n\n"
    "Question: {question}\nCorrect answer: {reference}\nPredicted answer: {first}\n\n"
    "Give a whole number from 0 to 5, where 5 is best, as a Python dictionary and nothing else, like this: "
    "{{'score': 4}}"
)
VIDEO_FORMATS = {
    each.name: Format(
        f"video-{each.name}", 1, _PROMPT, scores(0, 5, verdicts.dictionary_score), "{'score': ",
        {f"{number}}}": float(number) for number in range(6)}, sees=False, needs=("reference",),
        words={"aim": each.aim},
    )
    for each in DIMENSIONS
}  # fmt: skip


def read_videochatgpt(folder: Path) -> list[Question]:
    """Questions of every dimension, those of `consistency` in two forms; videos in Test_Videos/."""
    found = []
    for dimension in DIMENSIONS:
        for number, row in enumerate(read_rows(find(folder, dimension.file))):
            video = video_at(folder / "Test_Videos", text_in(row, "video_name"))
            asked = ("Q1", "Q2") if dimension.name == "consistency" else ("Q",)
            for field in asked:
                parts = user(text_in(row, field), videos=[video]).parts
                unit = f"{dimension.name}-{number}"
                name = unit if len(asked) == 1 else f"{unit}-{field}"
                found.append(
                    Question(name, parts, {"answer": text_in(row, "A")}, group=dimension.name, unit=unit)
                )
    return found


def ask_about_videos(questions: Sequence[Question], answers: Mapping[str, str]) -> Asked:
    """A case for every question; both forms of one are a case together, and have its review."""
    units: dict[str, list[Question]] = {}
    for question in questions:
        units.setdefault(question.unit, []).append(question)
    found: dict[str, tuple[Format, Case]] = {}
    for unit, members in units.items():
        asked = "\n".join(question.conversation.messages[0].text for question in members)
        said = "\n".join(answers[question.id] for question in members)
        case = Case(unit, asked, (), (said,), reference=members[0].reference["answer"])
        found |= {question.id: (VIDEO_FORMATS[question.group], case) for question in members}
    return found


def video_figures(questions: Sequence[Question], points: Points) -> Figures:
    """The mean of the dimensions' means, from 0 to 5, and each of them."""
    figures = mean_figures("all", lambda point: 5 * point)(questions, points)
    kinds = {name: value for name, value in figures.items() if name != "all"}
    return {"mean": mean(list(kinds.values() or figures.values())), **kinds}


def _answer(question: Question) -> str:
    return str(question.reference["answer"])


def _context(question: Question) -> str:
    return str(question.reference["context"])


BENCHMARKS = {
    "mmhal-bench": Benchmark(
        "MMHal-Bench", "response_template.json, images/", read_mmhal,
        {
            "ours": ratings(verdicts.mmhal, 0, 6, mmhal_figures),
            "official": ratings(verdicts.mmhal_official, 0, 6, mmhal_figures),
        },
        max_tokens=1024, judging=one_by_one(FORMATS["mmhal"], reference=_answer, context=_context),
    ),
    "mm-vet": Benchmark(
        "MM-Vet", "mm-vet.json, images/", read_mmvet,
        {"ours": ratings(lambda text: verdicts.score(text, 0, 1), 0, 1, mmvet_figures)}, max_tokens=512,
        judging=one_by_one(FORMATS["mm-vet"], reference=_answer),
    ),
    "vibe-eval": Benchmark(
        "Vibe-Eval", "vibe-eval.v1.jsonl, images/", read_vibe,
        {"ours": ratings(lambda text: verdicts.one_rating(text, 1, 5), 1, 5, mean_figures("score", percent))},
        max_tokens=1024, judging=one_by_one(FORMATS["vibe"], reference=_answer),
    ),
    "videochatgpt": Benchmark(
        "VideoChatGPT", "generic_qa.json, temporal_qa.json, consistency_qa.json, Test_Videos/", read_videochatgpt,
        {"ours": ratings(lambda text: verdicts.dictionary_score(text, 0, 5), 0, 5, video_figures)}, max_tokens=1024,
        judging=Judging(ask_about_videos, tuple(VIDEO_FORMATS.values())),
    ),
}  # fmt: skip
