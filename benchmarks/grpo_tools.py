"""GRPO on the loop of tool calls, from the demo's model that was taught to call: exact answers before and after.

    python -m benchmarks.grpo_tools --model runs/demo/tools --out runs/grpo-tools --steps 40

Nobody tells the model what to call: an answer that is right scores 1, and 0.2 more where a tool gave it something
and the question needs one. The table, the gain over all questions (the same ones before and after) and its 95 %
interval go to report.json, the curves of the rounds to rounds.png.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from rich.table import Table

from llavakit.agent.rollouts import open_loop
from llavakit.align.opening import open_policy
from llavakit.chat import answer, load
from llavakit.core import config as settings
from llavakit.core.files import write_text
from llavakit.core.progress import console, say
from llavakit.engine.worker import Worker
from llavakit.eval.easy_vqa import EasyVqa, Question
from llavakit.eval.vqa import gain
from llavakit.recipes.own_parts import adopt_start
from llavakit.recipes.policies import grpo_tools
from llavakit.recipes.tool_demo import TOOLS, answer_of, ask_lessons, is_good
from llavakit.recipes.tool_pictures import KINDS, Kind, Shapes, make_lesson
from llavakit.recipes.tool_questions import write_tool_questions
from llavakit.rules.means import mean
from llavakit.tools.skills import open_tools
from llavakit.train.loop import train
from llavakit.train.metrics import draw_panels, read_metrics

SETTINGS = (
    "policy.tools={names: [count_shapes, zoom, colors], form: llava_plus, steps: 2, result_tokens: 56}",
    "policy.rewards={terms: {exact: 1, tool_use: {weight: 0.2, only: {needs_tool: [true]}}}, gate: exact}",
    "policy.max_tokens=96", "policy.algorithm.filter=total", "policy.prompts=8", "policy.answers=6",
    "data.tokens=700", "optim.lr.language=2e-5", "optim.lr.newline=0",
)  # fmt: skip
CURVES = ("reward", "reward/exact", "reward/tool_use", "calls", "calls_used", "drift")


@dataclass(frozen=True)
class Asked:
    """Questions with what was answered; right answers and calls an answer by kind of question."""

    questions: list[Question]
    said: list[str]
    table: dict[str, dict[str, float]]


def measure(model: Path, out: Path, count: int) -> Asked:
    """So many questions of each kind on pictures of the test split, which are the same each time."""
    out.mkdir(parents=True, exist_ok=True)
    dice, shapes = Random(1), Shapes(EasyVqa("test"))
    lessons = {
        kind: [
            make_lesson(kind, shapes, dice, out / f"{kind}-{n}.png".replace(" ", "-"), f"{kind}-{n}")
            for n in range(count)
        ]
        for kind in KINDS
    }
    chat, registry = load(model), open_tools(TOOLS)
    worker = Worker(chat.engine)
    try:
        runs = ask_lessons(chat, worker, registry, lessons, out / "runs")
    finally:
        worker.close()
        registry.close()
    pairs = {kind: list(zip(runs[kind], some, strict=True)) for kind, some in lessons.items()}
    return Asked(
        [
            Question(Path(lesson.id), lesson.question, lesson.answer)
            for some in lessons.values()
            for lesson in some
        ],
        [answer_of(run) for some in pairs.values() for run, _ in some],
        {
            kind: {
                "right": mean([is_good(run, lesson) for run, lesson in some]),
                "calls": mean([float(run.num_calls) for run, _ in some]),
            }
            for kind, some in pairs.items()
        },
    )


def main() -> None:
    """Measure, learn, measure again; the table and report.json."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", type=Path, default=Path("runs/demo/tools"))
    asked.add_argument("--out", type=Path, default=Path("runs/grpo-tools"))
    asked.add_argument("--steps", type=int, default=40)
    asked.add_argument("--questions", type=int, default=400)
    asked.add_argument("--test", type=int, default=20)
    asked.add_argument("--set", nargs="*", default=[])
    given = asked.parse_args()
    kinds: tuple[Kind, ...] = KINDS
    data = given.out / "data" / "questions.json"
    write_tool_questions(data, given.questions, kinds, seed=3)
    changes = [
        f"model.start={given.model}", f"out={given.out / 'run'}", f"data.files={data}",
        f"optim.steps={given.steps}", *SETTINGS, *given.set,
    ]  # fmt: skip
    run = adopt_start(settings.override(grpo_tools(), changes), grpo_tools(), changes)
    before = measure(given.model, given.out / "before", given.test)
    train(run, overwrite=True, answer=answer, policy=partial(open_policy, open_loop=open_loop))
    after = measure(run.out, given.out / "after", given.test)
    rounds = [row for row in read_metrics(run.out / "metrics.jsonl") if "reward" in row]
    gained = gain(before.questions, before.said, after.said)
    report = {"before": before.table, "after": after.table, "gain": vars(gained), "rounds": rounds}
    write_text(given.out / "report.json", json.dumps(report, indent=2) + "\n")
    draw_panels(rounds, CURVES, given.out / "rounds.png")
    shown = Table("", *KINDS, box=None)
    for name, asked_then in (("before", before), ("after", after)):
        row = asked_then.table
        shown.add_row(f"{name}: right", *(f"{100 * row[kind]['right']:.0f} %" for kind in KINDS))
        shown.add_row(f"{name}: calls an answer", *(f"{row[kind]['calls']:.2f}" for kind in KINDS))
    console.print(shown)
    say(f"all {len(before.questions)} questions: {gained.tell()}")
    for name, part in (("first", rounds[:3]), ("last", rounds[-3:])):
        said = ", ".join(
            f"{key} {mean([row[key] for row in part]):.3f}" for key in ("reward", "calls", "drift")
        )
        say(f"{name} three of {len(rounds)} rounds: {said}")


if __name__ == "__main__":
    main()
