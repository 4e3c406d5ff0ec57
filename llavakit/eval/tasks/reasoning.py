"""Hard questions about one or few pictures: MMStar, RealWorldQA, MMMU-Pro, MathVista, MathVerse."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from llavakit.data.layouts import (
    LETTER,
    Fields,
    check_letter,
    find,
    find_all,
    lettered,
    listed,
    picture_in,
    picture_of_base64,
    read_rows,
    text_in,
)
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy, each
from llavakit.eval.tasks.choices import ask, by_options, in_place, mmmu_rules, spelled_list
from llavakit.rules import choices, numbers
from llavakit.rules.mathematics import Mathematics
from llavakit.rules.means import of_groups
from llavakit.text.conversation import ImageSource, user

INLINE = re.compile(r"(?<!\S)([A-D])[:.]\s*(.*?)\s*(?=,?\s+[A-D][:.]|\n|$)")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
DIRECT = "Answer with the option letter from the given choices directly."


def inline_options(text: str) -> dict[str, str]:
    """The options that stand in a question's own text: "A: one, B: two", or a line each."""
    return dict(INLINE.findall(text))


def picture_of(row: Fields, folder: Path) -> ImageSource:
    """A picture as Parquet and JSON have it, or as base64 in a TSV."""
    if row.path.suffix == ".tsv":
        return picture_of_base64(row, text_in(row, "image"))
    return picture_in(row, "image", folder)


def read_mmstar(folder: Path) -> list[Question]:
    """Parquet with the options in the question, or VLMEvalKit's TSV with a column each."""
    path = find(folder, "**/*.parquet", "*.tsv", "*.jsonl")
    found = []
    for row in read_rows(path):
        question = text_in(row, "question")
        own = {letter: str(row[letter]) for letter in "ABCD" if row.get(letter) not in (None, "")}
        options = own or inline_options(question)
        text = f"{question}\n{listed(own)}{LETTER}" if own else question + LETTER
        letter = check_letter(row, str(row["answer"]).strip(), options)
        parts = user(text, [picture_of(row, path.parent)]).parts
        group = str(row.get("l2_category") or row.get("category", ""))
        found.append(ask(row["index"], parts, letter, options, group))
    return found


def mean_of_groups(questions: Sequence[Question], points: Points) -> Figures:
    """The mean over the groups of their accuracies, as lmms-eval has it for MMStar."""
    rows = [(q.group, point or 0.0) for q, point in zip(questions, points, strict=True)]
    return {"mean of categories": 100 * of_groups(rows), **accuracy(questions, points)}


def read_realworldqa(folder: Path) -> list[Question]:
    """Questions as they are: with options in them, or asking for a word or number."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl", "*.json"):
        for number, row in enumerate(read_rows(path)):
            text, answer = text_in(row, "question"), text_in(row, "answer").strip()
            parts = user(text, [picture_in(row, "image", path.parent)]).parts
            options = inline_options(text) if answer in "ABCD" else {}
            name = f"{path.stem}-{number}"
            if options:
                found.append(ask(name, parts, check_letter(row, answer, options), options))
            else:
                found.append(Question(name, parts, answer))
    return found


def same_text(answer: str, reference: Sequence[str] | str) -> float:
    """An open answer of RealWorldQA by lmms-eval: the text, case and a final period aside."""
    return float(answer.lower().strip().rstrip(".") == str(reference).lower())


def read_mmmu_pro(folder: Path) -> list[Question]:
    """The standard set (options in the text) and the vision set (everything in the picture)."""
    found = []
    for path in find_all(folder, "**/test-*.parquet", "**/*.parquet", "**/*.jsonl"):
        for row in read_rows(path):
            options = lettered(spelled_list(row, "options"))
            letter = check_letter(row, row["answer"], options)
            if "question" in row:
                kind = "standard"
                parts = in_place(row, path.parent, f"{row['question']}\n{listed(options)}\n\n{DIRECT}")
            else:
                kind = "vision"
                parts = user(DIRECT, [picture_in(row, "image", path.parent)]).parts
            found.append(ask(f"{kind}-{row['id']}", parts, letter, options, kind))
    return found


def read_mathvista(folder: Path) -> list[Question]:
    """The rows of testmini, with the published query; references are the rows that its rule compares with."""
    path = find(folder, "**/testmini-*.parquet", "testmini.jsonl", "testmini.json")
    found = []
    for row in read_rows(path):
        key = "decoded_image" if "decoded_image" in row else "image"
        parts = user(text_in(row, "query"), [picture_in(row, key, path.parent)]).parts
        kept = {name: row[name] for name in ("question_type", "answer_type", "answer")}
        kept |= {"choices": row.get("choices"), "precision": row.get("precision")}
        options = lettered(spelled_list(row, "choices")) if row["question_type"] == "multi_choice" else {}
        chance = 1 / len(options) if options else 0.0
        found.append(Question(text_in(row, "pid"), parts, kept, options, chance=chance))
    return found


def mathvista_point(answer: str, question: Question) -> float | None:
    """What is read of an answer without a judge, by MathVista's comparison.

    Of a choice: the option's text or its letter. Of a number: the last one. Of other answers: all of it.
    """
    wanted = question.reference
    if question.options:
        texts = [text for text in question.options.values() if text.lower() == answer.strip().lower()]
        letter = choices.vlmevalkit(answer, question.options) if answer.strip() else None
        said = texts[0] if texts else question.options[letter] if letter else None
    elif wanted["answer_type"] in ("integer", "float"):
        found = NUMBER.findall(answer)
        said = found[-1].replace(",", "") if found else None
    else:
        said = answer.strip() or None
    return None if said is None else numbers.mathvista(said, wanted)


def read_mathverse(folder: Path) -> list[Question]:
    """The rows of testmini with the query of direct answers; a problem in five versions."""
    path = find(folder, "**/testmini-*.parquet", "testmini.jsonl", "testmini.json")
    found = []
    for row in read_rows(path):
        pictures = [] if not row["image"] else [picture_in(row, "image", path.parent)]
        text = text_in(row, "query_wo")
        parts = user(text, pictures).parts
        name, version, answer = str(row["sample_index"]), str(row["problem_version"]), text_in(row, "answer")
        if row["question_type"] == "multi-choice":
            options = inline_options(text_in(row, "question")) or dict.fromkeys("ABCD", "")
            found.append(ask(name, parts, check_letter(row, answer, options), options, version))
        else:
            found.append(Question(name, parts, answer, group=version))
    return found


def mathverse_points(questions: Sequence[Question], answers: Sequence[str]) -> Points:
    """Letters as VLMEvalKit reads them; other answers are compared as mathematics, in a process of its own."""
    letters = by_options(choices.vlmevalkit).judge(questions, answers)
    judge: Mathematics | None = None
    points: list[float | None] = []
    for question, answer, letter in zip(questions, answers, letters, strict=True):
        if question.options or not answer.strip():
            points.append(letter)
        elif answer.strip() == question.reference or not re.search(r"[\d\\]", answer):
            points.append(float(answer.strip() == question.reference))
        else:
            judge = judge or Mathematics()
            points.append(judge.compare(answer, question.reference).value)
    return points


def letters(read: Callable[[str, choices.Options], str | None], figures: Callable[..., Figures]) -> Rules:
    return Rules(by_options(read).judge, figures)


BENCHMARKS = {
    "mmstar": Benchmark(
        "MMStar", "*.parquet with index, question, image, answer; or its TSV", read_mmstar,
        {
            "vlmevalkit": letters(choices.vlmevalkit, accuracy),
            "lmms": letters(choices.ranked, mean_of_groups),
        },
    ),
    "realworldqa": Benchmark(
        "RealWorldQA", "*.parquet with image, question, answer", read_realworldqa,
        {"lmms": mmmu_rules(choices.ranked, same_text)},
    ),
    "mmmu-pro": Benchmark(
        "MMMU-Pro, standard and vision", "test-*.parquet in a folder per set", read_mmmu_pro,
        {
            "official": letters(choices.mmmu, accuracy),
            "lmms": letters(choices.mmmu_lmms, accuracy),
        },
    ),
    "mathvista": Benchmark(
        "MathVista testmini", "testmini-*.parquet, or testmini.json as a list", read_mathvista,
        {"ours": Rules(each(mathvista_point))}, max_tokens=64,
    ),
    "mathverse": Benchmark(
        "MathVerse testmini", "testmini-*.parquet, or testmini.json", read_mathverse,
        {"ours": Rules(mathverse_points)}, max_tokens=64,
    ),
}  # fmt: skip
