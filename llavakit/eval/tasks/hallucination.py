"""What is said to be there and is not: HallusionBench, AMBER (yes or no, and descriptions), CHAIR (captions)."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.data.layouts import SHORT, Fields, find, read_object, read_rows, rows_of, text_in
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy, each
from llavakit.eval.tasks.yes_no import right
from llavakit.rules import yes_no
from llavakit.rules.means import mean
from llavakit.rules.yes_no import YesNo
from llavakit.text.conversation import user

DESCRIBE = "Please describe this image in detail."
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("es", ""), ("s", ""))
DISCRIMINATIVE = {
    "discriminative-attribute-state": "attribute", "discriminative-attribute-number": "attribute",
    "discriminative-attribute-action": "attribute", "discriminative-hallucination": "existence",
    "discriminative-relation": "relation", "relation": "relation",
}  # fmt: skip


def read_hallusion(folder: Path) -> list[Question]:
    """HallusionBench.json and the pictures that it names; some questions have none."""
    path = find(folder, "HallusionBench.json")
    found = []
    for row in read_rows(path):
        place = row.get("filename")
        pictures = [folder / "hallusion_bench" / place] if place else []
        if str(row["gt_answer"]) not in ("0", "1"):
            raise row.error(f"gt_answer {row['gt_answer']!r} is neither 0 nor 1")
        parts = user(text_in(row, "question") + SHORT, pictures).parts
        subject = f"{row['category']}-{row['subcategory']}-{row['set_id']}"
        found.append(
            Question(
                f"{subject}-{row['figure_id']}-{row['question_id']}", parts,
                "yes" if str(row["gt_answer"]) == "1" else "no",
                group=f"{subject}-figure-{row['figure_id']}", unit=f"{subject}-question-{row['question_id']}",
                chance=0.5,
            )
        )  # fmt: skip
    return found


def hallusion_figures(questions: Sequence[Question], points: Points) -> Figures:
    """aAcc: answers; qAcc: questions right about all their figures; fAcc: figures with all questions right."""
    by_question, by_figure = defaultdict(list), defaultdict(list)
    for question, point in zip(questions, points, strict=True):
        by_question[question.unit].append(point or 0.0)
        by_figure[question.group].append(point or 0.0)

    def whole(groups: dict[str, list[float]]) -> float:
        return 100 * mean([prod(scores) for scores in groups.values()])

    answers = 100 * mean([point or 0.0 for point in points])
    return {"aAcc": answers, "qAcc": whole(by_question), "fAcc": whole(by_figure)}


def read_amber(folder: Path) -> list[Question]:
    """The discriminative half of AMBER: queries, and the truth of each by its number."""
    path = find(folder, "query/query_discriminative.json", "query_discriminative.json")
    notes = {row["id"]: row for row in read_rows(find(folder, "annotations.json", "data/annotations.json"))}
    found = []
    for row in read_rows(path):
        if row["id"] not in notes:
            raise row.error(f"query {row['id']} has no annotation")
        note = notes[row["id"]]
        if note["truth"] not in ("yes", "no") or note["type"] not in DISCRIMINATIVE:
            raise note.error("not a truth of yes or no with a discriminative type")
        parts = user(text_in(row, "query"), [folder / "image" / text_in(row, "image")]).parts
        found.append(
            Question(str(row["id"]), parts, note["truth"], group=DISCRIMINATIVE[note["type"]], chance=0.5)
        )
    return found


def whole_word(text: str) -> YesNo | None:
    """AMBER's own: the answer is Yes or No, and nothing else."""
    words: dict[str, YesNo] = {"Yes": "yes", "No": "no"}
    return words.get(text)


def amber_figures(questions: Sequence[Question], points: Points) -> Figures:
    """F1 of saying "no" (the hallucination is what is to be found), and its parts; what was not read is wrong."""
    truth = [question.reference for question in questions]
    other: dict[str, YesNo] = {"yes": "no", "no": "yes"}
    said: list[YesNo | None] = [
        None if point is None else reference if point >= 0.5 else other[reference]
        for reference, point in zip(truth, points, strict=True)
    ]
    of_no = yes_no.detection_figures(
        [other[one] if one else None for one in said], [other[one] for one in truth]
    )
    figures = {f"{name} of no": 100 * of_no[name] for name in ("f1", "precision", "recall")}
    return figures | accuracy(questions, points)


@dataclass(frozen=True)
class Associations:
    """AMBER's words: every thing with those that mean it too (`relation.json`), and words that claim nothing."""

    names: dict[str, str]  # all of them, each to itself
    related: dict[str, set[str]]
    safe: frozenset[str]

    def meant_by(self, word: str, things: Set[str]) -> set[str]:
        """Which of `things` a word names."""
        return {thing for thing in things if word == thing or word in self.related.get(thing, ())}


@dataclass(frozen=True)
class Scene:
    """What AMBER knows of a picture besides what is there: what models often imagine in it."""

    words: Associations
    imagined: frozenset[str]


def read_amber_descriptions(folder: Path) -> list[Question]:
    """The generative half of AMBER: pictures to be described, with what is there and what is often imagined."""
    path = find(folder, "query/query_generative.json", "query_generative.json")
    notes = {row["id"]: row for row in read_rows(find(folder, "annotations.json", "data/annotations.json"))}
    words = read_associations(
        find(folder, "relation.json", "data/relation.json"),
        find(folder, "safe_words.txt", "data/safe_words.txt"),
    )
    found = []
    for row in read_rows(path):
        if row["id"] not in notes:
            raise row.error(f"query {row['id']} has no annotation")
        note = notes[row["id"]]
        if note["type"] != "generative" or not isinstance(note["truth"], list):
            raise note.error("not a list of things that are there, with the type generative")
        parts = user(text_in(row, "query"), [folder / "image" / text_in(row, "image")]).parts
        scene = Scene(words, frozenset(map(str, note["hallu"])))
        found.append(Question(str(row["id"]), parts, (scene, set(map(str, note["truth"])))))
    return found


def read_associations(relations: Path, safe: Path) -> Associations:
    related = {thing: {str(word) for word in words} for thing, words in read_object(relations).items()}
    names = {word: word for thing, words in related.items() for word in (thing, *words)}
    if not names:
        raise DataError("no words in it", path=relations)
    return Associations(names, related, frozenset(safe.read_text(encoding="utf-8").split("\n")))


def invented(answer: str, question: Question) -> list[str]:
    """The things that a description names and that are not there, in order."""
    scene, there = question.reference
    said = [word for word in things(answer, scene.words.names) if word not in scene.words.safe]
    return [word for word in said if not scene.words.meant_by(word, there)]


def amber_description_point(answer: str, question: Question) -> float | None:
    """Whether nothing is named that is not there. Silence names nothing, and is not read."""
    return float(not invented(answer, question)) if answer.strip() else None


def amber_details(questions: Sequence[Question], answers: Sequence[str]) -> Figures:
    """CHAIR: invented things of all named; Cover: things told of those there; Hal: descriptions that invent; Cog:
    things told of those that models often imagine.
    """
    named, wrong, covered, there_all, imagined, imagined_all, untrue = 0, 0, 0, 0, 0, 0, 0
    for question, answer in zip(questions, answers, strict=True):
        scene, there = question.reference
        said, missing = things(answer, scene.words.names), invented(answer, question)
        named, wrong, untrue = named + len(said), wrong + len(missing), untrue + bool(missing)
        covered += len({thing for word in said for thing in scene.words.meant_by(word, there)})
        imagined += len({thing for word in missing for thing in scene.words.meant_by(word, scene.imagined)})
        there_all, imagined_all = there_all + len(there), imagined_all + len(scene.imagined)
    return {
        "CHAIR": 100 * wrong / max(1, named), "Cover": 100 * covered / max(1, there_all),
        "Hal": 100 * untrue / max(1, len(answers)), "Cog": 100 * imagined / max(1, imagined_all),
    }  # fmt: skip


def read_chair(folder: Path) -> list[Question]:
    """COCO's pictures with the things in them: boxes, and what people's captions name.

    `synonyms.txt` is that of the metric's authors: a line for each thing, its names after each other.
    """
    names = read_synonyms(find(folder, "synonyms.txt"))
    boxes = read_object(find(folder, "instances_*.json", "annotations/instances_*.json"))
    said = read_object(find(folder, "captions_*.json", "annotations/captions_*.json"))
    kinds = {row["id"]: text_in(row, "name") for row in rows_of(boxes, "categories")}
    there: dict[object, set[str]] = defaultdict(set)
    for row in rows_of(boxes, "annotations"):
        there[row["image_id"]].add(_kind(row, kinds, names))
    for row in rows_of(said, "annotations"):
        there[row["image_id"]].update(things(text_in(row, "caption"), names))
    place = folder / said.path.stem.removeprefix("captions_")
    return [
        Question(str(row["id"]), user(DESCRIBE, [place / row["file_name"]]).parts, (names, there[row["id"]]))
        for row in rows_of(said, "images")
    ]


def _kind(row: Fields, kinds: dict[object, str], names: dict[str, str]) -> str:
    if row["category_id"] not in kinds:
        raise row.error(f"category {row['category_id']} is not among the categories")
    name = kinds[row["category_id"]]
    return names.get(name, name)


def read_synonyms(path: Path) -> dict[str, str]:
    """Every name to the first of its line."""
    lines = [
        [name.strip().lower() for name in line.split(",")]
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    names = {name: line[0] for line in lines for name in line if name}
    if not names:
        raise DataError("no names in it", path=path)
    return names


def things(caption: str, names: dict[str, str]) -> list[str]:
    """The things that a caption names, in order; two words that are one name come before single ones."""
    words = WORD.findall(caption.lower())
    found, at = [], 0
    while at < len(words):
        for width in (2, 1):
            name = _known(words[at : at + width], names)
            if name is not None:
                found.append(name)
                at += width - 1
                break
        at += 1
    return found


def _known(words: list[str], names: dict[str, str]) -> str | None:
    """The thing of these words, the last of which may be a plural."""
    *before, last = words
    singular = [last[: -len(end)] + new for end, new in PLURALS if last.endswith(end)]
    spelled = (" ".join((*before, word)) for word in (last, *singular))
    return next((names[text] for text in spelled if text in names), None)


def chair_point(answer: str, question: Question) -> float | None:
    """Whether everything that the caption names is there. Silence names nothing, and is not read."""
    names, there = question.reference
    return float(set(things(answer, names)) <= there) if answer.strip() else None


def faithful(questions: Sequence[Question], points: Points) -> Figures:
    return {"faithful": 100 * mean([point or 0.0 for point in points])}


def chair_details(questions: Sequence[Question], answers: Sequence[str]) -> Figures:
    """CHAIRs: captions with a thing that is not there; CHAIRi: such things of all named; recall of those there."""
    named, wrong, captions, there_all, found = 0, 0, 0, 0, 0
    for question, answer in zip(questions, answers, strict=True):
        names, there = question.reference
        said = things(answer, names)
        missing = [thing for thing in said if thing not in there]
        named, wrong, captions = named + len(said), wrong + len(missing), captions + bool(missing)
        there_all, found = there_all + len(there), found + len(there & set(said))
    return {
        "CHAIRs": 100 * captions / max(1, len(answers)), "CHAIRi": 100 * wrong / max(1, named),
        "recall": 100 * found / max(1, there_all),
    }  # fmt: skip


def yes_no_rules(read: Callable[[str], YesNo | None], figures: Callable[..., Figures]) -> Rules:
    return Rules(right(read), figures)


BENCHMARKS = {
    "hallusionbench": Benchmark(
        "HallusionBench", "HallusionBench.json, hallusion_bench/ with its pictures", read_hallusion,
        {"vlmevalkit": yes_no_rules(yes_no.either_word, hallusion_figures)},
    ),
    "amber": Benchmark(
        "AMBER, discriminative", "query_discriminative.json, annotations.json, image/", read_amber,
        {
            "official": yes_no_rules(whole_word, amber_figures),
            "vlmevalkit": yes_no_rules(yes_no.either_word, amber_figures),
        },
    ),
    "amber-descriptions": Benchmark(
        "AMBER, generative", "query_generative.json, annotations.json, relation.json, safe_words.txt, image/",
        read_amber_descriptions, {"ours": Rules(each(amber_description_point), faithful, amber_details)},
        max_tokens=512,
    ),
    "chair": Benchmark(
        "CHAIR on COCO", "synonyms.txt, instances_*.json, captions_*.json, pictures in the folder of its name",
        read_chair, {"ours": Rules(each(chair_point), faithful, chair_details)}, max_tokens=256,
    ),
}  # fmt: skip
