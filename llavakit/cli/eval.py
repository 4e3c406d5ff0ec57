"""`llavakit eval`: benchmarks with a model here or behind a URL, or the answers of a run scored again."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llavakit.cli.options import Template
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say

RESCORE = "rescore"


def eval_(
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="Benchmarks (docs/eval.md), `list`, or `rescore RUN`."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with a folder for each task, or with the files of one.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(help="Instead of --model: the URL of an OpenAI-compatible server.")
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="--remote: the model to ask, where it serves several.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAVAKIT_API_KEY", help="--remote: the server's key.")
    ] = None,
    template: Template = None,
    rules: Annotated[
        Literal["official", "lmms", "vlmevalkit"] | None,
        typer.Option(help="Whose scoring; default: the first that a task has."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where answers and results go; default: runs/eval/MODEL.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer, instead of the task's own.")
    ] = None,
    on_bad: Annotated[
        Literal["stop", "skip"], typer.Option(help="What a question that cannot be asked does.")
    ] = "stop",
) -> None:
    """Measure a model by published benchmarks; answers are kept, and asking goes on where it ended."""
    from llavakit.eval.report import draw_table
    from llavakit.eval.run import evaluate, plan_tasks, rescore
    from llavakit.eval.tasks.table import BENCHMARKS

    if tasks == ["list"]:
        for name, row in BENCHMARKS.items():
            say(f"{name:<14}{row.title:<29}{', '.join(row.rules)}")
        return
    if tasks[0] == RESCORE:
        if len(tasks) != 2 or model is not None or remote is not None:
            raise ConfigError("scoring again takes one directory and no model: llavakit eval rescore RUN")
        say(draw_table(rescore(Path(tasks[1]), data=data, rules=rules)))
        return
    if data is None:
        raise ConfigError("give --data with the folder of the benchmarks' files")
    plans = plan_tasks(tasks, data, limit, rules)  # before a model is read, which may take minutes
    responder, who = _open(model, template, remote, model_name, api_key)
    where = out or Path("runs") / "eval" / Path(str(who["model"])).name
    scores = evaluate(responder, who, plans, where, rules=rules, max_tokens=max_tokens, on_bad=on_bad)
    say(draw_table(scores))
    say(f"answers, results.json and pages of wrong answers: {where}")


def _open(
    model: Path | None, template: str | None, remote: str | None, model_name: str | None, api_key: str | None
) -> tuple[Any, dict[str, str | None]]:
    """Who answers, and the names that its answers are kept under."""
    if remote is not None and model is None and template is None:
        from llavakit.remote import Remote

        asked = Remote(remote, model_name=model_name, api_key=api_key)
        return asked, {"model": asked.model_name, "weights": None}
    if model is not None and remote is None and model_name is None:
        from llavakit.chat import load
        from llavakit.model.adapters import fingerprint
        from llavakit.model.directory import resolve

        folder = resolve(model)
        return load(model, template_name=template), {
            "model": str(model), "weights": fingerprint(folder), "template": template,
        }  # fmt: skip
    raise ConfigError(
        "give --model with a directory, or --remote with a URL (and --model-name); --template is for --model"
    )
