"""The demo's model learns to call tools, and is measured with them and without (docs/agent.md).

It goes on from `llavakit demo`. Lessons are held on pictures of the training split with the real tools; questions
are asked about pictures of the test split, with tools, with tools that give errors, and about other pictures.
"""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from rich.table import Table

from llavakit.agent.budget import Budget
from llavakit.agent.forms import FORMS
from llavakit.agent.lessons import Lesson, hold, switch_off
from llavakit.agent.loop import Agent
from llavakit.agent.measure import Expected, measure
from llavakit.agent.run import begin
from llavakit.agent.state import State
from llavakit.chat import Chat, load
from llavakit.core.errors import ConfigError, Interrupted
from llavakit.core.files import write_text
from llavakit.core.progress import bar, console, say
from llavakit.data.settings import DataConfig
from llavakit.engine.asked import WorkerResponder
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.eval.controls import derange
from llavakit.eval.easy_vqa import EasyVqa, is_right
from llavakit.model.directory import LATEST
from llavakit.recipes.demo import demo_model
from llavakit.recipes.tool_pictures import GUESS, KINDS, Kind, Shapes, make_lesson, refused
from llavakit.rules.means import mean
from llavakit.tools.registry import Registry
from llavakit.tools.skills import open_tools
from llavakit.train.loop import train
from llavakit.train.metrics import draw_curves, read_metrics
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

TOOLS = ("count_shapes", "zoom", "colors")
FORM = FORMS["llava_plus"]
BUDGET = Budget(steps=3, result_tokens=56, tries=1, same=2)
SAMPLING = Sampling(max_tokens=96)
SHARES: dict[Kind, float] = {
    "count": 0.2, "count one color": 0.2, "zoom": 0.28, "colors": 0.14, "plain": 0.18,
}  # fmt: skip  # of the lessons
AT_ONCE = 24  # questions that are asked side by side
REFUSED = 0.12  # of those with a call: their tool gives an error


@dataclass(frozen=True)
class Profile:
    """A budget, in lessons, steps and questions of each kind."""

    lessons: int = 240
    steps: int = 60
    questions: int = 20


def run_tool_demo(base: Path, out: Path, profile: Profile, *, resume: bool) -> Path:
    """Lessons, training, measuring, report.json in `out`; `llavakit agent` takes `out` as its model."""
    if not (base / LATEST).exists():
        raise ConfigError(
            f"{base} has no demo to go on from: run `llavakit demo` first, or name it with --out"
        )
    registry = open_tools(TOOLS)
    try:
        data = out / "data" / "lessons.json"
        if not (resume and data.exists()):
            write_lessons(data, registry, profile.lessons)
        run = _run(base, out, data, profile)
        try:
            train(run, resume=resume, overwrite=not resume)
        except Interrupted as stopped:
            raise Interrupted(stopped.done, "llavakit demo --tools --resume", stopped.exit_code) from None
        write_text(out / LATEST, f"{run.out.name}\n")
        draw_curves({run.name: read_metrics(run.out / "metrics.jsonl")}, out / "loss.png")
        _report(base, out, registry, profile)
    finally:
        registry.close()
    return out


def write_lessons(path: Path, registry: Registry, count: int) -> None:
    """A data file of `count` lessons (less those that went wrong), with their runs beside it."""
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    dice, shapes, off = Random(0), Shapes(EasyVqa("train")), switch_off(registry)
    rows = []
    with bar("lessons", count) as progress:
        for number in range(count):
            kind = dice.choices(KINDS, [SHARES[kind] for kind in KINDS])[0]
            lesson = make_lesson(kind, shapes, dice, path.parent / f"{number}.png", str(number))
            if lesson.call is not None and dice.random() < REFUSED:
                lesson = refused(lesson)
            tools = off if lesson.fails else registry
            record = hold(lesson, tools, FORM, path.parent / "runs" / str(number), BUDGET)
            rows += [] if record is None else [record]
            progress.advance()
    write_text(path, json.dumps(rows, indent=1))


def _run(base: Path, out: Path, data: Path, profile: Profile) -> Run:
    return Run(
        name="3-tools",
        out=out / "stage3",
        train=("connector", "language"),
        embeddings=False,
        model=demo_model().model_copy(update={"start": base}),
        data=DataConfig(files=(data,), images=data.parent / "runs", tokens=512),
        optim=OptimConfig(
            lr=LearningRates(connector=2e-4, language=2e-4),
            steps=profile.steps,
            betas=(0.9, 0.98),
            warmup=0.05,
            final=0.02,
        ),
    )


def _report(base: Path, out: Path, registry: Registry, profile: Profile) -> None:
    """Ask, count, print the table, write report.json."""
    shutil.rmtree(out / "test", ignore_errors=True)
    (out / "test").mkdir()
    dice, shapes = Random(1), Shapes(EasyVqa("test"))
    lessons = {
        kind: [
            make_lesson(kind, shapes, dice, out / "test" / f"{kind}-{n}.png".replace(" ", "-"), f"{kind}-{n}")
            for n in range(profile.questions)
        ]
        for kind in KINDS
    }
    chat = load(out)
    worker = Worker(chat.engine)
    other = {kind: _exchanged(some) for kind, some in lessons.items()}
    asked = {
        "with tools": ask_lessons(chat, worker, registry, lessons, out / "test" / "with"),
        "tools give errors": ask_lessons(chat, worker, switch_off(registry), lessons, out / "test" / "off"),
        "pictures exchanged": ask_lessons(chat, worker, registry, other, out / "test" / "exchanged"),
    }
    worker.close()
    table: dict[str, dict[str, float]] = {
        name: {kind: mean([is_good(run, lesson) for run, lesson in zip(runs[kind], lessons[kind], strict=True)])
               for kind in KINDS}
        for name, runs in asked.items()
    }  # fmt: skip
    table["before it learned, asked alone"] = _before(base, lessons)
    flat = [
        (run, lesson)
        for kind in KINDS
        for run, lesson in zip(asked["with tools"][kind], lessons[kind], strict=True)
    ]
    figures = measure(
        [run for run, _ in flat],
        [Expected(() if lesson.call is None else (lesson.call,), lesson.answer) for _, lesson in flat],
        is_right,
    )
    report = {
        "right answers": table,
        "calls": {name: vars(figure) for name, figure in figures.items()},
        "questions of each kind": profile.questions,
    }
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    _print(table, {name: figure.value for name, figure in figures.items()})
    say(f"figures: {out / 'report.json'}; runs: {out / 'test'}")
    picture = lessons["count"][0].pictures[0]
    say(f'  llavakit agent --model {out} --form llava_plus --tools {",".join(TOOLS)} --image {picture} '
        f'--limit result_tokens={BUDGET.result_tokens} "{lessons["count"][0].question}"')  # fmt: skip


def ask_lessons(
    chat: Chat, worker: Worker, registry: Registry, lessons: dict[Kind, list[Lesson]], folder: Path
) -> dict[Kind, list[State]]:
    """A run of the model on every question, in a folder each; many go on side by side, as one batch."""

    def one(lesson: Lesson) -> State:
        model = WorkerResponder(chat.engine, worker, chat.encoder)
        agent = Agent(model, registry, FORM, sampling=SAMPLING)
        with begin(
            folder / lesson.id.replace(" ", "-"), lesson.question, pictures=lesson.pictures,
            boxes=lesson.boxes, form=FORM.name, budget=BUDGET,
        ) as run:  # fmt: skip
            for _ in agent.go(run):
                pass
            progress.advance()
            return run.state

    with (
        bar(folder.name, sum(map(len, lessons.values()))) as progress,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        asked = {kind: [pool.submit(one, lesson) for lesson in some] for kind, some in lessons.items()}
        return {kind: [run.result() for run in runs] for kind, runs in asked.items()}


def _exchanged(lessons: Sequence[Lesson]) -> list[Lesson]:
    """Every question about the picture of another one; boxes and answers stay."""
    other = derange(list(dict.fromkeys(lesson.pictures for lesson in lessons)))
    return [replace(lesson, pictures=other[lesson.pictures]) for lesson in lessons]


def _before(base: Path, lessons: dict[Kind, list[Lesson]]) -> dict[str, float]:
    """Right answers of the model that never learned to call, to the same words."""
    agent, shares = Agent(load(base), Registry([]), FORM), dict[str, float]()
    for kind, some in lessons.items():
        talks = []
        with TemporaryDirectory() as folder:
            for number, lesson in enumerate(some):
                where = Path(folder) / str(number)
                with begin(where, lesson.question, pictures=lesson.pictures, boxes=lesson.boxes) as run:
                    talks.append(agent.tell(run))
            answers = agent.responder.batch(talks, sampling=Sampling(max_tokens=16))
        shares[kind] = mean(
            [float(is_right(said, lesson.answer)) for said, lesson in zip(answers, some, strict=True)]
        )
    return shares


def answer_of(run: State) -> str:
    """The answer, without the word that it is a guess."""
    assert run.answered is not None
    return run.answered.plain.removeprefix(GUESS)


def is_good(run: State, lesson: Lesson) -> float:
    """1 where the answer is right."""
    return float(is_right(answer_of(run), lesson.answer))


def _print(table: dict[str, dict[str, float]], figures: dict[str, float | None]) -> None:
    shown = Table("right answers", *KINDS, box=None)
    for name, row in table.items():
        shown.add_row(name, *(f"{100 * row[kind]:.0f} %" for kind in KINDS))
    console.print(shown)
    calls = Table("with tools", "", box=None)
    for name, value in figures.items():
        calls.add_row(name, "-" if value is None else f"{100 * value:.0f} %")
    console.print(calls)
