"""`llavakit eval`: benchmarks with a model here or behind a URL, or the answers of a run scored again."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llavakit.cli.asked import Who, open_judge, open_model, open_remote
from llavakit.cli.options import RemoteModel, RemoteUrl, Template, Weights, finite
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say

TABLE = "scores.png"
RESCORE, COMPARE, CLICKS = "rescore", "compare", "clicks"
# The options of what asks no benchmark.
USED: dict[str, tuple[str, ...]] = {
    RESCORE: ("data", "rules", "out", "judge", "judge_name", "judge_key", "judge_bar"),
    COMPARE: ("data", "rules", "out"),
    CLICKS: ("data", "out", "limit", "model"),
    "list": (),
}
# Who judges chats.
Judge = Annotated[
    str | None, typer.Option(help="Who scores chats: a checkpoint, run directory or hub id, or a URL.")
]
JudgeName = Annotated[
    str | None, typer.Option(help="--judge URL: the model to ask, where it serves several.")
]
JudgeKey = Annotated[
    str | None, typer.Option(envvar="LLAVAKIT_JUDGE_KEY", help="--judge URL: the server's key.")
]
JudgeBar = Annotated[
    float,
    typer.Option(
        min=0, max=1, callback=finite, help="The judge's least agreement with drawn cases; 0: no such test."
    ),
]
AgentSettings = Annotated[
    list[str] | None,
    typer.Option(help="Ask it with tools: a setting as name=value; may be repeated (docs/agent.md)."),
]


def eval_(
    context: typer.Context,
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...",
            help="Benchmarks (docs/eval.md), `list`, `rescore RUN`, `compare A B`, `clicks`.",
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with a folder for each task, or with the files of one.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")
    ] = None,
    remote: RemoteUrl = None,
    model_name: RemoteModel = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAVAKIT_API_KEY", help="--remote: the server's key.")
    ] = None,
    template: Template = None,
    weights: Weights = "as_is",
    rules: Annotated[
        Literal["official", "lmms", "vlmevalkit", "ours"] | None,
        typer.Option(help="Whose scoring; default: the first that a task has."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where answers and results go; default: runs/eval/MODEL.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer, instead of the task's own.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, callback=finite, help="Of the answers; 0 is greedy.")
    ] = 0.0,
    repeats: Annotated[int, typer.Option(min=1, help="Ask everything so often, with other seeds.")] = 1,
    on_bad: Annotated[
        Literal["stop", "skip"], typer.Option(help="What a question that cannot be asked does.")
    ] = "stop",
    judge: Judge = None,
    judge_name: JudgeName = None,
    judge_key: JudgeKey = None,
    judge_bar: JudgeBar = 0.6,
    agent: AgentSettings = None,
) -> None:
    """Measure a model by published benchmarks; answers are kept, and asking goes on where it ended."""
    if tasks[0] in USED:
        _refuse_unused(context, tasks[0])
    if tasks[0] in (RESCORE, COMPARE):
        if tasks[0] == RESCORE:
            _rescore(tasks[1:], data, rules, out, _reviewer(judge, judge_name, judge_key, judge_bar))
        else:
            _compare(tasks[1:], data, rules, out)
        return
    if tasks == ["list"]:
        _list()
        return
    if tasks == [CLICKS]:
        _clicks(data, out, limit, model)
        return
    from llavakit.eval.plan import plan_tasks

    plans = plan_tasks(tasks, data, limit, rules)  # before a model is read, which may take minutes
    if judge is not None and not any(plan.benchmark.judging for plan in plans):
        raise ConfigError(f"--judge: rules and no judge score {', '.join(tasks)}; leave it out")
    from llavakit.eval.run import evaluate

    with ExitStack() as opened:
        model_and_name = _open(model, template, weights, remote, model_name, api_key)
        responder, who = _with_tools(agent, opened, *model_and_name)
        where = out or Path("runs") / "eval" / Path(str(who["model"])).name
        scores = evaluate(
            responder, who, plans, where, rules=rules, max_tokens=max_tokens, temperature=temperature,
            repeats=repeats, on_bad=on_bad, reviewer=_reviewer(judge, judge_name, judge_key, judge_bar),
        )  # fmt: skip
    _show(where, scores)
    if judge is None and any(plan.benchmark.judging for plan in plans):
        say(f"chats are not scored yet: llavakit eval rescore {where} --judge DIR_OR_URL")


def _refuse_unused(context: typer.Context, task: str) -> None:
    """ConfigError for options of the command line that mean nothing where no model is asked benchmarks."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    unused = [f"--{name.replace('_', '-')}" for name in given if name not in ("tasks", *USED[task])]
    if unused:
        raise ConfigError(f"eval {task} has no use for {', '.join(unused)}; leave it out")


def _list() -> None:
    from llavakit.eval.tasks.table import BENCHMARKS, JUDGED

    rows = BENCHMARKS | JUDGED
    names = max(map(len, rows)) + 2
    for name, row in rows.items():
        server = row.submission.server if row.submission else ""
        rules = ", ".join(row.rules) or f"scored by {server}"
        say(f"{name:<{names}}{row.title:<32}{rules}{' (needs --judge)' if row.judging else ''}")


def _clicks(data: Path | None, out: Path | None, limit: int | None, model: Path | None) -> None:
    """The click protocol for the editor's own segmenter, or for SAM-2 with `--model`."""
    from llavakit.studio.click_data import read_things
    from llavakit.studio.clicks import figures, measure_clicks, write_rounds
    from llavakit.studio.defaults import default_bench

    if data is None:
        raise ConfigError("clicks needs --data: a folder of pictures with masks (docs/studio.md)")
    segmenter = default_bench(sam2=None if model is None else str(model)).segmenter()
    rounds = []
    for each in measure_clicks(segmenter, read_things(data), limit=limit):
        rounds.append(each)
        shown = " ".join(f"{iou:.2f}" for iou in each.iou[:8])
        say(f"{each.name:<28}NoC@85 {each.clicks_to(0.85):>2}   IoU by click: {shown} ...")
    path = (out or Path("runs") / "eval" / CLICKS) / "clicks.json"
    write_rounds(rounds, path)
    say("  ".join(f"{name} {value:.3g}" for name, value in figures(rounds).items()))
    say(f"every click: {path}")


def _show(where: Path, scores: Sequence[Any]) -> None:
    """The table in the terminal, and as a picture."""
    from llavakit.core.files import read_json
    from llavakit.eval.report import draw_scores, draw_table
    from llavakit.eval.run import INDEX, RESULTS, handed_in

    if scores:
        say(draw_table(scores))
        draw_scores(where.name, read_json(where / RESULTS), where / TABLE)
        say(f"answers, {RESULTS}, {INDEX} and {TABLE}: {where}")
    for file, server in handed_in(where):
        say(f"{file}: to hand in at {server}")


def _rescore(runs: list[str], data: Path | None, rules: str | None, out: Path | None, reviewer: Any) -> None:
    from llavakit.eval.run import rescore

    if len(runs) != 1 or out is not None:
        raise ConfigError("scoring again takes one directory, and writes there: llavakit eval rescore RUN")
    run = Path(runs[0])
    _show(run, rescore(run, data=data, rules=rules, reviewer=reviewer))


def _compare(runs: list[str], data: Path | None, rules: str | None, out: Path | None) -> None:
    from llavakit.eval.report import draw_differences
    from llavakit.eval.run import compare_runs

    if len(runs) != 2:
        raise ConfigError("two directories are compared: llavakit eval compare A B")
    first, second = map(Path, runs)
    where = out or second / f"against-{first.name}"
    say(f"A: {first}, B: {second}")
    say(draw_differences(compare_runs(first, second, where, data=data, rules=rules)))
    say(f"pages of the answers that changed, comparison.json: {where}")


def _reviewer(judge: str | None, name: str | None, key: str | None, bar: float) -> Any:
    """Who judges, if anybody is named."""
    if judge is None:
        return None
    from llavakit.eval.reviews import Reviewer

    responder, who = open_judge(judge, None, name, key)
    return Reviewer(responder, {"judge": who["model"], "weights": who["weights"]}, bar)


def _open(
    model: Path | None,
    template: str | None,
    weights: Weights,
    remote: str | None,
    model_name: str | None,
    api_key: str | None,
) -> tuple[Any, Who]:
    """Who answers, and the names that its answers are kept under."""
    if remote is not None and model is None and template is None:
        return open_remote(remote, model_name, api_key)
    if model is not None and remote is None and model_name is None:
        return open_model(model, template, weights)
    raise ConfigError(
        "give --model with a directory, or --remote with a URL (and --model-name); --template is for --model"
    )


def _with_tools(given: list[str] | None, opened: ExitStack, responder: Any, who: Who) -> tuple[Any, Who]:
    """The same model with tools, if there are settings of an agent; they are part of who answers."""
    if not given:
        return responder, who
    from llavakit.agent.opening import AgentConfig
    from llavakit.agent.responder import AgentResponder
    from llavakit.core import config as settings

    config = settings.override(AgentConfig(), given, where="--agent")
    registry = opened.enter_context(config.open())
    return AgentResponder(responder, registry, config), who | {"agent": " ".join(given)}
