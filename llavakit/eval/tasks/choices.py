"""Questions with options: ScienceQA, MMBench, SEED, MMMU, AI2D."""

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from llavakit.data.layouts import (
    LETTER,
    SHORT,
    Fields,
    check_letter,
    find,
    find_all,
    letter_at,
    lettered,
    listed,
    picture_in,
    picture_of_base64,
    read_object,
    read_rows,
    read_table,
    rows_of,
    text_in,
    texts_in,
)
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy, each
from llavakit.rules import choices, numbers
from llavakit.rules.means import mean
from llavakit.text.conversation import Image, ImageSource, Part, Text, user

LETTER_CN = "\n请直接回答选项字母。"  # MMBench in Chinese, as LLaVA-1.5 asks
ROUND = 1_000_000  # MMBench: a rotation has the index of its question and as many of these as it is rotated
PLACE = re.compile(r"<image (\d)>")


def lettering(read: Callable[[str, Question], str | None]) -> Rules:
    """A rule that finds a letter. What is no option is not read."""

    def judge(answer: str, question: Question) -> float | None:
        said = read(answer, question) if answer.strip() else None
        return float(said == question.reference) if said in question.options else None

    return Rules(each(judge))


def by_options(read: Callable[[str, choices.Options], str | None]) -> Rules:
    return lettering(lambda answer, question: read(answer, question.options))


def ask(
    name: object,
    parts: tuple[Part, ...],
    letter: str,
    options: dict[str, str],
    group: str = "",
    unit: str = "",
) -> Question:
    return Question(str(name), parts, letter, options, group, unit, chance=1 / len(options))


def read_scienceqa(folder: Path) -> list[Question]:
    """The test questions with a picture."""
    problems = read_object(find(folder, "problems.json"))
    splits = read_object(find(folder, "pid_splits.json"))
    found = []
    for name in splits["test"]:
        row = Fields(problems[name], problems.path)
        if not row["image"]:
            continue
        options = lettered(texts_in(row, "choices"))
        context = f"Context: {row['hint']}\n" if row["hint"] else ""
        text = f"{context}{row['question']}\n{listed(options)}{LETTER}"
        picture = folder / "images" / "test" / str(name) / row["image"]
        letter = letter_at(row, row["answer"], options)
        found.append(ask(name, user(text, [picture]).parts, letter, options, str(row.get("subject", ""))))
    return found


def read_mmbench(folder: Path, prompt: str = LETTER) -> list[Question]:
    """One TSV with pictures in base64; rotations of the options that it does not hold are made."""
    path = find(folder, "*.tsv")
    rows = list(read_table(path))
    by_index = {row["index"]: row for row in rows}
    pictures: dict[str, bytes] = {}
    found = []
    given = {int(row["index"]) for row in rows}
    for row in rows:
        letters = [letter for letter in "ABCDE" if row.get(letter) not in (None, "", "nan")]
        texts = [row[letter] for letter in letters]
        index, base = int(row["index"]), int(row["index"]) % ROUND
        if not row.get("answer"):
            raise row.error("no answer: a test split, which is scored by MMBench's server")
        right = letters.index(check_letter(row, row["answer"], dict.fromkeys(letters, "")))
        source = row if len(row["image"]) > 64 else by_index.get(row["image"], row)  # or whose picture it is
        if source["index"] not in pictures:
            pictures[source["index"]] = picture_of_base64(source, source["image"])
        picture = pictures[source["index"]]
        complete = any(base + ROUND * k in given for k in range(1, len(texts)))
        for k in range(1 if complete or index >= ROUND else len(texts)):
            options = lettered(texts[k:] + texts[:k])
            hint = row.get("hint")
            start = f"{hint}\n" if hint not in (None, "", "nan") else ""
            text = f"{start}{row['question']}\n{listed(options)}{prompt}"
            letter = list(options)[(right - k) % len(texts)]
            found.append(
                ask(
                    index + ROUND * k, user(text, [picture]).parts, letter, options,
                    row.get("category", ""), str(base),
                )
            )  # fmt: skip
    return found


def circular_figures(questions: Sequence[Question], points: Points) -> Figures:
    """CircularEval: a question is right if it is under every rotation; and the accuracy of the first round."""
    units: dict[str, list[float]] = defaultdict(list)
    first: dict[str, float] = {}
    groups: dict[str, str] = {}
    for question, point in zip(questions, points, strict=True):
        units[question.unit].append(point or 0.0)
        if question.id == question.unit:
            first[question.unit] = point or 0.0
        groups.setdefault(question.unit, question.group)
    right = {unit: prod(scores) for unit, scores in units.items()}
    figures = {"circular": 100 * mean(list(right.values())), "one round": 100 * mean(list(first.values()))}
    for group in dict.fromkeys(groups.values()):
        figures[group] = 100 * mean([score for unit, score in right.items() if groups[unit] == group])
    return figures


def read_seed(folder: Path) -> list[Question]:
    """The questions about pictures; those about videos are left out."""
    whole = read_object(find(folder, "SEED-Bench.json"))
    kinds = {number: name for name, number in whole.get("question_type", {}).items()}
    found = []
    for row in rows_of(whole, "questions"):
        if row.get("data_type", "image") != "image":
            continue
        options = lettered([text_in(row, f"choice_{letter}") for letter in "abcd"])
        text = f"{row['question']}\n{listed(options)}{LETTER}"
        picture = folder / "SEED-Bench-image" / row["data_id"]
        letter = check_letter(row, row["answer"], options)
        group = str(kinds.get(row["question_type_id"], row["question_type_id"]))
        found.append(ask(row["question_id"], user(text, [picture]).parts, letter, options, group))
    return found


def read_mmmu(folder: Path) -> list[Question]:
    """Parquet files as published, a folder per subject or all in one, or the same rows as JSON."""
    files = find_all(
        folder, "**/validation-*.parquet", "**/*.parquet", "**/validation*.json", "**/validation*.jsonl"
    )
    return [read_mmmu_row(row, path.parent) for path in files for row in read_rows(path)]


def read_mmmu_row(row: Fields, folder: Path) -> Question:
    name = text_in(row, "id")
    subject = re.sub(r"^(validation|dev|test)_|_\d+$", "", name)
    if row["question_type"] != "multiple-choice":
        parts = in_place(row, folder, f"{row['question']}\n{SHORT}")
        answer = row["answer"]
        several = isinstance(answer, str) and answer.startswith("[")
        reference = spelled_list(row, "answer") if several else text_in(row, "answer")
        return Question(name, parts, reference, group=subject)
    options = lettered(spelled_list(row, "options"))
    parts = in_place(row, folder, f"{row['question']}\n{listed(options)}\n{LETTER}")
    return ask(name, parts, check_letter(row, row["answer"], options), options, subject)


def spelled_list(row: Fields, key: str) -> list[str]:
    """A list of texts, or a text that spells one as Python does: how MMMU's Parquet has them."""
    if isinstance(row[key], str):
        try:
            row[key] = ast.literal_eval(row[key])
        except (ValueError, SyntaxError):
            raise row.error(f"{key!r} is not a list") from None
    return texts_in(row, key)


def in_place(row: Fields, folder: Path, text: str) -> tuple[Part, ...]:
    """The text with its pictures where <image 1> stands."""
    parts: list[Part] = []
    for at, piece in enumerate(PLACE.split(text)):
        if at % 2:
            source: ImageSource = picture_in(row, f"image_{piece}", folder)
            parts.append(Image(source))
        elif piece:
            parts.append(Text(piece))
    return tuple(parts)


def mmmu_rules(
    read: Callable[[str, choices.Options], str | None], same: Callable[[str, Sequence[str] | str], float]
) -> Rules:
    """A letter for questions with options; the others by what stands in the answer."""
    choice = by_options(read)

    def judge(questions: Sequence[Question], answers: Sequence[str]) -> Points:
        letters = choice.judge(questions, answers)
        return [
            letter if q.options else same(answer, q.reference) if answer.strip() else None
            for q, answer, letter in zip(questions, answers, letters, strict=True)
        ]

    return Rules(judge, accuracy)


def read_ai2d(folder: Path) -> list[Question]:
    """Parquet with `image`, `question`, `options` and the number of the right one."""
    found = []
    for path in find_all(folder, "**/test-*.parquet", "**/*.parquet", "*.json", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            options = lettered(texts_in(row, "options"))
            text = f"{row['question']}\n{listed(options)}{LETTER}"
            parts = user(text, [picture_in(row, "image", path.parent)]).parts
            found.append(ask(f"{path.stem}-{number}", parts, letter_at(row, row["answer"], options), options))
    return found


def only_letter(answer: str) -> str | None:
    """SEED as LLaVA-1.5 scores it: the answer is the letter, and nothing else."""
    return answer if len(answer) == 1 else None


MMBENCH = {
    "vlmevalkit": Rules(by_options(choices.vlmevalkit).judge, circular_figures),
    "lmms": Rules(by_options(choices.mmbench_lmms).judge, circular_figures),
}
BENCHMARKS = {
    "scienceqa": Benchmark(
        "ScienceQA test, with picture", "problems.json, pid_splits.json, images/test/", read_scienceqa,
        {
            "official": lettering(lambda answer, q: choices.science_qa(answer, len(q.options))),
            "lmms": lettering(lambda answer, q: choices.science_qa_lmms(answer, len(q.options))),
        },
    ),
    "mmbench": Benchmark(
        "MMBench dev", "*.tsv with pictures in base64 and answers", read_mmbench, MMBENCH,
    ),
    "mmbench-cn": Benchmark(
        "MMBench-CN dev", "*.tsv with pictures in base64 and answers", lambda at: read_mmbench(at, LETTER_CN),
        MMBENCH,
    ),
    "seed": Benchmark(
        "SEED-Bench, images", "SEED-Bench.json, SEED-Bench-image/", read_seed,
        {
            "official": lettering(lambda answer, _: only_letter(answer)),
            "lmms": lettering(lambda answer, _: choices.first_character(answer)),
        },
    ),
    "mmmu": Benchmark(
        "MMMU val", "validation-*.parquet, in a folder per subject or not", read_mmmu,
        {
            "official": mmmu_rules(choices.mmmu, numbers.mmmu_open),
            "lmms": mmmu_rules(choices.mmmu_lmms, numbers.mmmu_open_lmms),
        },
    ),
    "ai2d": Benchmark(
        "AI2D test", "test-*.parquet with image, question, options, answer", read_ai2d,
        {"vlmevalkit": by_options(choices.vlmevalkit)},
    ),
}  # fmt: skip
