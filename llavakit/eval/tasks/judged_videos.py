"""Descriptions and answers that a judge reads whole: LiveBench, detailed videos, DREAM-1K, ActivityNet-QA."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llavakit.critic.formats import UNREAD, Format, Reading, named, scores
from llavakit.data.layouts import find, find_all, pictures_in, read_rows, text_in, texts_in, video_at
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, each
from llavakit.eval.judging import mean_figures, one_by_one
from llavakit.eval.tasks.judged_answers import percent, ratings
from llavakit.eval.tasks.videos import read_activitynet
from llavakit.rules import verdicts
from llavakit.rules.means import mean
from llavakit.text.conversation import user

DESCRIBE = (
    "Describe the video in detail: who and what is in it, what they do, one after the other, and where."
)
_PAIR = "Question: {question}\nCorrect answer: {reference}\nPredicted answer: {first}\n\n"
LIVE = Format(
    "live", 1,
    "How good is an answer about what the images show? The true answer and what counts are given.\n\n"
    "[Question]\n{question}\n\n[True answer]\n{reference}\n\n[What counts]\n{context}\n\n[Answer]\n{first}\n\n"
    "Explain first, then end with: Rating: a whole number from 0 to 10",
    scores(0, 10, verdicts.one_rating), "Rating: ", {f"{n}": float(n) for n in range(11)},
    needs=("reference", "context"),
)  # fmt: skip
DETAIL = Format(
    "video-description", 1,
    "Rate a predicted description of a video against a correct one: what it says must be there, and what matters "
    "must be said.\n\n" + _PAIR + "Give a whole number from 0 to 5, where 5 is best, as a Python dictionary and "
    "nothing else, like this: {{'score': 4}}",
    scores(0, 5, verdicts.dictionary_score), "{'score': ", {f"{n}}}": float(n) for n in range(6)}, sees=False,
    needs=("reference",),
)  # fmt: skip
EVENTS = Format(
    "video-events", 1,
    "Count events of a video: things that somebody or something does.\n\nCorrect description: {reference}\n"
    "Its events:\n{context}\n\nPredicted description: {first}\n\nSay how many events the predicted description "
    "has, how many of them the correct description supports, and how many of the listed events the predicted "
    "description has. Answer with a Python dictionary and nothing else, like this: "
    "{{'said': 5, 'supported': 4, 'found': 3}}",
    lambda text: UNREAD if (found := counted(text)) is None else Reading(_share(found[1], found[0])),
    "{'said': ", {}, sees=False, needs=("reference", "context"),
)  # fmt: skip
MATCH = Format(
    "video-answer", 1,
    "Does a predicted answer to a question about a video mean the same as the correct one? Other words for one "
    "thing are fine.\n\n" + _PAIR + "Give 'yes' or 'no', and a whole number from 0 to 5 for how well they match, "
    "as a Python dictionary and nothing else, like this: {{'pred': 'yes', 'score': 4}}",
    named(lambda text: _same(verdicts.prediction(text)), {"yes": 1.0, "no": 0.0}), "{'pred': '",
    {"yes'": 1.0, "no'": 0.0}, sees=False, needs=("reference",),
)  # fmt: skip


def _same(said: tuple[str, int] | None) -> str | None:
    return None if said is None else said[0]


def read_live(folder: Path) -> list[Question]:
    """Parquet of one month with `images`, `question`, `answer`, `criteria`, `subtask`."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            reference = {"answer": text_in(row, "answer"), "context": text_in(row, "criteria")}
            parts = user(text_in(row, "question"), pictures_in(row, "images", path.parent)).parts
            known = row.get("id")
            name = f"{path.stem}-{number}" if known is None else str(known)
            found.append(Question(name, parts, reference, group=str(row.get("subtask") or "")))
    return found


def read_details(folder: Path) -> list[Question]:
    """Parquet or JSON with `video_name`, `question`, `answer`; videos in Test_Videos/."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.json", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            video = video_at(folder / "Test_Videos", text_in(row, "video_name"))
            parts = user(text_in(row, "question"), videos=[video]).parts
            found.append(Question(f"{path.stem}-{number}", parts, {"answer": text_in(row, "answer")}))
    return found


def read_dream(folder: Path) -> list[Question]:
    """json/metadata.json: `video_file`, `description` and its `events`, by `source`."""
    found = []
    for row in read_rows(find(folder, "json/metadata.json", "metadata.json")):
        events = texts_in(row, "events")
        context = "\n".join(f"- {event}" for event in events)
        reference = {"answer": text_in(row, "description"), "events": events, "context": context}
        parts = user(DESCRIBE, videos=[video_at(folder, text_in(row, "video_file"))]).parts
        found.append(Question(str(row["idx"]), parts, reference, group=str(row.get("source") or "")))
    return found


def counted(review: str) -> tuple[int, int, int] | None:
    """Events that are said, of them supported, and of the reference's found; None if that cannot be."""
    found = verdicts.dictionary_numbers(review, ("said", "supported", "found"))
    if found is None or not 0 <= found[1] <= found[0] or found[2] < 0:
        return None
    return found[0], found[1], found[2]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def f1(precision: float, recall: float) -> float:
    return _share(2 * precision * recall, precision + recall)


class Described(float):
    """Points of a description (F1 of its events), with precision and recall beside it."""

    precision: float
    recall: float

    def __new__(cls, precision: float, recall: float) -> "Described":
        made = super().__new__(cls, f1(precision, recall))
        made.precision, made.recall = precision, recall
        return made


def event_point(review: str, question: Question) -> float | None:
    """None also where more events are found than there are."""
    found, events = counted(review), len(question.reference["events"])
    if found is None or found[2] > events:
        return None
    return Described(_share(found[1], found[0]), _share(found[2], events))


def event_figures(questions: Sequence[Question], points: Points) -> Figures:
    """F1 of the means of precision and recall over videos, in per cent, of all and of each source."""

    def means_of(group: str | None) -> tuple[float, float]:
        rows = [
            p for q, p in zip(questions, points, strict=True) if p is not None and group in (None, q.group)
        ]
        both = [(p.precision, p.recall) if isinstance(p, Described) else (p, p) for p in rows]
        return mean([one for one, _ in both]), mean([other for _, other in both])

    precision, recall = means_of(None)
    figures = {"F1": 100 * f1(precision, recall), "precision": 100 * precision, "recall": 100 * recall}
    groups = list(dict.fromkeys(q.group for q, p in zip(questions, points, strict=True) if p is not None))
    return figures | ({g: 100 * f1(*means_of(g)) for g in groups} if len(groups) > 1 else {})


class Matched(float):
    """1 for an answer that means the same, else 0, with the judge's 0 to 5 beside it."""

    score: int

    def __new__(cls, same: bool, score: int) -> "Matched":
        made = super().__new__(cls, same)
        made.score = score
        return made


def match(read: Callable[[str], tuple[str, int] | None]) -> Rules:
    """Rules of a judge's yes or no."""

    def point(review: str, question: Question) -> float | None:
        said = read(review)
        return None if said is None else Matched(said[0] == "yes", said[1])

    def figures(questions: Sequence[Question], points: Points) -> Figures:
        known = [point for point in points if point is not None]
        graded = [float(point.score) for point in known if isinstance(point, Matched)]
        return {"accuracy": 100 * mean(known), "score": mean(graded)}

    return Rules(each(point), figures)


def _of(key: str) -> Callable[[Question], str]:
    return lambda question: str(question.reference[key])


BENCHMARKS = {
    "livebench": Benchmark(
        "LiveBench (LMMs-Lab)", "*.parquet with images, question, answer, criteria, subtask", read_live,
        {"ours": ratings(lambda text: verdicts.one_rating(text, 0, 10), 0, 10, mean_figures("total", percent))},
        max_tokens=1024, judging=one_by_one(LIVE, reference=_of("answer"), context=_of("context")),
    ),
    "video-detail": Benchmark(
        "Video detail description", "*.parquet with video_name, question, answer; Test_Videos/", read_details,
        {
            "ours": ratings(verdicts.detail, 0, 5, mean_figures("score", lambda point: 5 * point)),
            "lmms": ratings(verdicts.detail_lmms, 0, 5, mean_figures("score", lambda point: 5 * point)),
        },
        max_tokens=1024, judging=one_by_one(DETAIL, reference=_of("answer")),
    ),
    "dream-1k": Benchmark(
        "DREAM-1K", "json/metadata.json and the videos that it names", read_dream,
        {"ours": Rules(each(event_point), event_figures)}, max_tokens=1024,
        judging=one_by_one(EVENTS, reference=_of("answer"), context=_of("context")),
    ),
    "activitynet-qa-judged": Benchmark(
        "ActivityNet-QA, by a judge", "test_q.json, test_a.json, all_test/", read_activitynet,
        {"ours": match(verdicts.prediction), "lmms": match(verdicts.prediction_lmms)},
        judging=one_by_one(MATCH, reference=lambda question: str(question.reference)),
    ),
}  # fmt: skip
