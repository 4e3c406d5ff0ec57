"""Questions answered by yes or no: POPE and MME."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.data.layouts import SHORT, find, find_all, read_rows
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, each
from llavakit.rules import yes_no
from llavakit.rules.means import mean
from llavakit.rules.yes_no import YesNo
from llavakit.text.conversation import user

PICTURES = (".jpg", ".jpeg", ".png")


def right(read: Callable[[str], YesNo | None]) -> Callable[[Sequence[Question], Sequence[str]], Points]:
    """Points of a reader of yes and no. Nothing said is not read, whatever its rule makes of silence."""

    def judge(answer: str, question: Question) -> float | None:
        said = read(answer) if answer.strip() else None
        return None if said is None else float(said == question.reference)

    return each(judge)


def read_pope(folder: Path) -> list[Question]:
    found = []
    for group in ("random", "popular", "adversarial"):
        for row in read_rows(find(folder, f"coco_pope_{group}.json", f"coco/coco_pope_{group}.json")):
            parts = user(row["text"] + SHORT, [folder / "val2014" / row["image"]]).parts
            label = str(row["label"]).lower()
            if label not in ("yes", "no"):
                raise row.error(f"label {row['label']!r} is neither yes nor no")
            found.append(Question(f"{group}-{row['question_id']}", parts, label, group=group, chance=0.5))
    return found


def pope_figures(questions: Sequence[Question], points: Points, *, as_lmms: bool = False) -> Figures:
    """F1 of every group and their mean, and accuracy, precision, recall and share of yes over all, in per cent."""
    groups = list(dict.fromkeys(question.group for question in questions))
    f1s = {}
    for group in groups:
        pairs = [pair for pair in zip(questions, points, strict=True) if pair[0].group == group]
        f1s[f"f1 {group}"] = _detection(pairs, as_lmms)["f1"]
    overall = _detection(list(zip(questions, points, strict=True)), as_lmms)
    figures = {"mean f1": mean(list(f1s.values())), **f1s} | {k: v for k, v in overall.items() if k != "f1"}
    return {name: 100 * value for name, value in figures.items()}


def _detection(pairs: Sequence[tuple[Question, float | None]], as_lmms: bool) -> dict[str, float]:
    """A point of one half counts once as right and once as wrong, so everything is counted twice."""
    once = [_said(question, point, point is not None and point >= 0.5) for question, point in pairs]
    again = [_said(question, point, point is not None and point > 0.5) for question, point in pairs]
    truth = [question.reference for question, _ in pairs]
    return yes_no.detection_figures(once + again, truth + truth, as_lmms=as_lmms)


def _said(question: Question, point: float | None, is_right: bool) -> YesNo | None:
    if point is None:
        return None
    return "yes" if (question.reference == "yes") == is_right else "no"


def read_mme(folder: Path) -> list[Question]:
    """A folder per category with texts of lines "question<tab>Yes", beside the pictures or in folders of both."""
    found = []
    for category in (*yes_no.PERCEPTION, *yes_no.COGNITION):
        own = folder / category
        if not own.is_dir():
            raise DataError(f"not there: the category {category}/", path=folder)
        for path in find_all(own, "questions_answers_YN/*.txt", "*.txt"):
            pictures = own / "images" if path.parent != own else own
            picture = next((p for kind in PICTURES if (p := pictures / f"{path.stem}{kind}").exists()), None)
            if picture is None:
                raise DataError(f"no picture {path.stem}.jpg or .png", path=pictures)
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                text, tab, label = line.partition("\t")
                if not tab or label.strip().lower() not in ("yes", "no"):
                    raise DataError("not a question, a tab, and Yes or No", path=path, line=number)
                found.append(
                    Question(
                        f"{category}/{path.stem}-{number}", user(text.strip() + SHORT, [picture]).parts,
                        label.strip().lower(), group=category, unit=f"{category}/{path.stem}", chance=0.5,
                    )
                )  # fmt: skip
    return found


def mme_figures(questions: Sequence[Question], points: Points) -> Figures:
    """Points of perception (2000 at most), cognition (800), and of every category (200)."""
    rows = [(q.group, q.unit, point or 0.0) for q, point in zip(questions, points, strict=True)]
    totals = yes_no.mme_total(rows)
    return {
        "perception": sum(totals.get(name, 0.0) for name in yes_no.PERCEPTION),
        "cognition": sum(totals.get(name, 0.0) for name in yes_no.COGNITION),
        **totals,
    }


def pope_rules(name: str) -> Rules:
    return Rules(right(yes_no.POPE_RULES[name]), lambda q, p: pope_figures(q, p, as_lmms=name == "lmms"))


BENCHMARKS = {
    "pope": Benchmark(
        "POPE", "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, val2014/", read_pope,
        {name: pope_rules(name) for name in yes_no.POPE_RULES},
    ),
    "mme": Benchmark(
        "MME", "existence/ ... code_reasoning/ with texts and pictures", read_mme,
        {name: Rules(right(rule), mme_figures) for name, rule in yes_no.MME_RULES.items()},
    ),
}  # fmt: skip
