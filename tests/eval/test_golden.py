"""Scores of published evaluation code, rule set by rule set.

`LLAVAKIT_GOLDEN_EVAL` names another file of the same shape.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import rewrite
from llavakit.rules import (
    boxes,
    captions,
    choices,
    mathematics,
    means,
    numbers,
    short_answers,
    treebank,
    verdicts,
    yes_no,
)

FILE = os.environ.get("LLAVAKIT_GOLDEN_EVAL") or Path(__file__).parents[1] / "golden" / "eval.json"
CASES = json.loads(Path(FILE).read_text())["cases"]
# How the file writes what cannot be read, or what a harness does instead; and anything that begins "unparsed".
UNREAD = ("RANDOM", "tie/unparsed", "Z (judge or wrong)", "Unknown", "other")
Run = Callable[[Any, Any, str], Any]  # the case's input, its reference, the rule set -> what ours gives


def pope(answers: list[str], truth: list[str], rules: str) -> dict[str, float]:
    said = [yes_no.POPE_RULES[rules](answer) for answer in answers]
    return yes_no.detection_figures(said, truth, as_lmms=rules == "lmms")


def science_qa(answer: str, question: dict, rules: str) -> float:
    said = choices.SCIENCE_QA_RULES[rules](answer, question["choices"])
    return float(said == chr(ord("A") + question["answer_index"]))


def mme(answer: str, _: Any, rules: str) -> str | None:
    said = yes_no.MME_RULES[rules](answer)
    return said.capitalize() if said and rules == "vlmevalkit" else said


def mme_total(rows: list[dict], _: Any, rules: str) -> float:
    points = yes_no.mme_total((row["category"], row["question_id"], row["score"]) for row in rows)
    return sum(points.values())


def circular(answers: list[str], truth: list[str], rules: str) -> float:
    """The file gives the right letter of each rotation; the right option of its question is red."""
    said = [
        choices.MMBENCH_RULES[rules](answer, options_with_red_at(letter))
        for answer, letter in zip(answers, truth, strict=True)
    ]
    return choices.circular(said, truth)


def options_with_red_at(letter: str) -> dict[str, str]:
    others = iter(("green", "blue", "yellow"))
    return {each: "red" if each == letter else next(others) for each in "ABCD"}


def mathvista(answer: str, question: dict, _: str) -> dict:
    return {
        "score": numbers.mathvista(answer, question), "normalised": numbers.mathvista_normal(answer, question),
    }  # fmt: skip


def interleave_total(rows: list[dict], _: Any, rules: str) -> float:
    flat = [(row["dataset"], score) for row in rows for score in row["scores"]]
    return means.of_groups(flat) if rules == "datasets" else means.mean([score for _, score in flat])


def reward_bench_total(rows: list[dict], _: Any, rules: str) -> float:
    flat = [(row["category"], row["score"]) for row in rows]
    return means.of_groups(flat) if rules == "lmms_macro" else means.mean([score for _, score in flat])


def cider(said: list[str], truth: list[list[str]], _: str) -> dict:
    each = captions.cider(said, truth)
    return {"mean": means.mean(each), "each": each}


def caption_corpus(said: dict[str, list[str]], truth: dict[str, list[str]], rules: str) -> dict:
    treat = treebank.tokenize if rules == "pycocoevalcap_tokenised" else str
    return captions.caption_figures(
        [treat(caption) for [caption] in said.values()],
        [[treat(caption) for caption in each] for each in truth.values()],
    )


def pairs(rows: list[list[float]], _: Any, rules: str) -> float:
    return round(means.LLAVA_BENCH_RULES[rules]([tuple(row) for row in rows]), 1)


def as_list(found: tuple | None) -> list | None:
    return None if found is None else list(found)


MATHEMATICS = mathematics.Mathematics()  # one process for all cases
RUNS: dict[str, Run] = {
    "VQAv2/OK-VQA/TextVQA/VizWiz accuracy": lambda a, r, rules: short_answers.VQA_RULES[rules](a, r),
    "POPE": pope,
    "ScienceQA": science_qa,
    "MME answer parse": mme,
    "MME perception total": mme_total,
    "MMMU multiple choice parse": lambda a, r, rules: choices.MMMU_RULES[rules](a, r),
    "MMMU open": lambda a, r, rules: numbers.MMMU_OPEN_RULES[rules](a, r),
    "ChartQA relaxed accuracy": lambda a, r, rules: numbers.CHART_RULES[rules](a, r),
    "DocVQA/InfoVQA ANLS": lambda a, r, rules: short_answers.ANLS_RULES[rules](a, r),
    "GQA exact match (lmms-eval: ignore_case, ignore_punctuation)": lambda a, r, _: short_answers.exact_match(
        a, r
    ),
    "SEED": lambda a, r, _: float(choices.first_character(a) == r.strip().upper()),
    "MMBench CircularEval": circular,
    "MathVista normalise + compare": mathvista,
    "RefCOCO REC": lambda a, r, _: boxes.box_figures(a, r),
    "LLaVA-Interleave multi-choice": lambda a, r, _: float(choices.interleave(a) == choices.interleave(r)),
    "LLaVA-Interleave category score": interleave_total,
    "LLaVA-Bench relative score": pairs,
    "LLaVA-Bench relative score with one failed judge call": pairs,
    "MMHal-Bench rating parse": lambda a, _, rules: verdicts.MMHAL_RULES[rules](a),
    "judge binary parse": lambda a, _, rules: verdicts.BINARY_RULES[rules](a),
    "judge score parse": lambda a, r, rules: verdicts.SCORE_RULES[rules](a, *r["range"]),
    "judge comparative parse": lambda a, _, rules: as_list(verdicts.COMPARATIVE_RULES[rules](a)),
    "VL-RewardBench verdict parse": lambda a, _, rules: verdicts.BETTER_RULES[rules](a),
    "VL-RewardBench aggregate": reward_bench_total,
    "Multimodal RewardBench verdict parse": lambda a, _, rules: verdicts.LABEL_RULES[rules](a),
    "LLaVA-Critic-R1 reward": lambda a, r, _: verdicts.critic_r1(a, r),
    "CIDEr (pycocoevalcap 1.2; it is CIDEr-D)": cider,
    "ActivityNet-QA / MSVD judge parse": lambda a, _, rules: as_list(verdicts.PREDICTION_RULES[rules](a)),
    "Video detail description judge parse": lambda a, _, rules: verdicts.DETAIL_RULES[rules](a),
    "PTB tokenisation of captions": lambda a, _, rules: treebank.tokenize(a),
    "COCO captioning, three images": caption_corpus,
    "math answer equality (reward term and scorer)": lambda a, r, _: MATHEMATICS.compare(a, r).value,
}
# Whose `score` in the file is one of several figures that ours gives beside it.
WITH_MORE = {"MathVista normalise + compare"}


@pytest.mark.parametrize(
    ("case", "rules"),
    [pytest.param(case, rules, id=f"{case['id']}-{rules}") for case in CASES for rules in case["results"]],
)
def test_scores_are_those_of_published_code(case, rules):
    wanted = case["results"][rules]
    found = RUNS[case["bench"]](case["input"], case["reference"], rules)
    if case["bench"] in WITH_MORE:
        wanted = {name: value for name, value in wanted.items() if name != "where"}
    else:
        wanted = None if is_unread(wanted["score"]) else wanted["score"]
    assert found == (wanted if isinstance(wanted, str | None) else approximate(wanted))


def is_unread(score: Any) -> bool:
    return isinstance(score, str) and (score in UNREAD or score.startswith("unparsed"))


def approximate(wanted: Any) -> Any:
    """The file keeps six decimals."""
    if isinstance(wanted, dict):
        return {name: approximate(value) for name, value in wanted.items()}
    return wanted if isinstance(wanted, str | None) else pytest.approx(wanted, abs=2e-6)


PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
BEGIN, END = "<!-- table: written by python -m tests.eval.test_golden -->", "<!-- end of table -->"


def cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not text:
        return ""
    return "`" + (text if len(text) <= 60 else text[:57] + "...").replace("|", "/").replace("\n", "\\n") + "`"


def disagreements() -> str:
    """The cases of the repository's own file that two programs score differently, as a Markdown table."""
    rows = ["| benchmark | answer | reference | scores |", "|---|---|---|---|"]
    own = json.loads((Path(__file__).parents[1] / "golden" / "eval.json").read_text())["cases"]
    for case in own:
        scores = {name: result["score"] for name, result in case["results"].items()}
        if len({json.dumps(score) for score in scores.values()}) > 1:
            told = ", ".join(f"{name} {cell(score)}" for name, score in scores.items())
            rows.append(f"| {case['bench']} | {cell(case['input'])} | {cell(case['reference'])} | {told} |")
    return "\n".join(rows)


def test_the_page_shows_where_rule_sets_disagree():
    """Written again by `python -m tests.eval.test_golden`."""
    shown = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert shown.strip() == disagreements()


if __name__ == "__main__":
    rewrite(PAGE, BEGIN, END, disagreements())
