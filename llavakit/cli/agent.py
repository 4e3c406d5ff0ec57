"""`llavakit agent`: ask a model that calls tools, here or behind a URL."""

from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llavakit.cli.asked import open_asked
from llavakit.cli.options import BoxUnit, RemoteKeys, RemoteModel, RemoteUrl, Template, finite
from llavakit.core.errors import INTERRUPTED, ConfigError, Interrupted

RUNS = Path("runs/agent")
WAITS = 1  # exit code of a run that waits for a person

Form = Annotated[
    Literal["hermes", "llava_plus", "json", "openai"] | None,
    typer.Option(help="How the model writes calls (docs/agent.md); default: hermes, of --remote openai."),
]
Tools = Annotated[
    str | None,
    typer.Option(help="Names of tools, commas between them; `none`; default: all (llavakit tools)."),
]
Mcp = Annotated[Path | None, typer.Option(help="A file of MCP servers whose tools may be called.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Rules: what may be called without asking.")
]
Decisions = Annotated[
    Path | None, typer.Option(help="Where decisions that last are kept; default: in your home folder.")
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(help="A place on a picture: left,top,right,bottom in pixels; may be repeated."),
]
Sketch = Annotated[
    Path | None, typer.Option(help="A picture whose painted pixels mark a place on the first one.")
]
Limits = Annotated[
    list[str] | None, typer.Option(help="A bound of the run as name=value (steps=4); may be repeated.")
]
DocumentFolder = Annotated[
    Path | None,
    typer.Option(help="A picture's folder of `llavakit studio`: the editor's commands are tools, on it."),
]
Pictures = Annotated[list[Path] | None, typer.Option("--image", "-i", help="A picture; may be repeated.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; default: a new one in runs/agent.")]


def agent(
    question: Annotated[str | None, typer.Argument(help="What is asked; --resume needs none.")] = None,
    image: Pictures = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")
    ] = None,
    remote: RemoteUrl = None,
    model_name: RemoteModel = None,
    api_key: RemoteKeys = None,
    template: Template = None,
    tools: Tools = None,
    mcp: Mcp = None,
    policy: PolicyFile = None,
    decisions: Decisions = None,
    box: Boxes = None,
    sketch: Sketch = None,
    form: Form = None,
    boxes: BoxUnit = "0-1",
    document: DocumentFolder = None,
    limit: Limits = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer of the model.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, callback=finite, help="0 is greedy.")] = 0.0,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
) -> None:
    """Ask a model that calls tools: llavakit agent --model runs/demo --image x.png "How many shapes?" """
    _check_beginning(question, resume, begun_with=bool(image or box or sketch or limit or out))

    from llavakit.agent.budget import Budget
    from llavakit.agent.loop import Agent
    from llavakit.agent.opening import caller, can_hold, form_of, open_registry, read_policy, shown_as
    from llavakit.agent.run import begin, free_folder, reopen
    from llavakit.agent.screen import Screen, report
    from llavakit.core import config as settings
    from llavakit.engine.sampler import Sampling
    from llavakit.vision.boxes import read_unit
    from llavakit.vision.image import load_image

    if resume is not None and _replayed(resume):
        return
    unit = read_unit(boxes)
    budget = settings.override(Budget(), limit or [])
    rules, kept = read_policy(policy, decisions)
    where = resume or out or free_folder(RUNS, question or "")
    for path in image or []:  # before a model is read, which may take minutes
        load_image(path)
    with ExitStack() as opened:
        edits, canvas = _open_document(document, opened)
        responder = open_asked(model, template, remote, model_name, api_key)
        seen, system = shown_as(responder)
        registry = opened.enter_context(
            open_registry(_names(tools), mcp, log=where / "servers.log", more=edits)
        )
        if resume is not None:
            run = opened.enter_context(reopen(resume, image=seen))
        else:
            run = opened.enter_context(
                begin(
                    where, question or "", pictures=image or canvas, boxes=box or [], sketch=sketch,
                    form=form or ("hermes" if remote is None else "openai"), cards=registry.cards_for(unit),
                    budget=budget, unit=unit, image=seen,
                )
            )  # fmt: skip
        screen, how = Screen(), form_of(run)
        asked = caller(responder, how.name, registry.cards_for(run.desk.unit))
        bot = Agent(
            asked, registry, how, policy=rules, kept=kept, ask=screen.ask, own_system=system,
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens), holds_calls=can_hold(responder),
        )  # fmt: skip
        again = f"llavakit agent --resume {where}, with the model and tools of before"
        try:
            screen.show(chain(list(run.events), bot.go(run)))
        except KeyboardInterrupt:
            raise Interrupted("stopped; what happened is kept", again, INTERRUPTED) from None
        waiting = run.state.waiting
        if waiting is not None:
            raise Interrupted(f"waits for a person to decide about {waiting.id}", again, WAITS)
        report(run)


def _open_document(folder: Path | None, opened: ExitStack) -> tuple[list[Any], list[Any]]:
    """The tools on a document of the editor, and its picture as it is now."""
    if folder is None:
        return [], []
    from llavakit.studio.as_tools import document_tools
    from llavakit.studio.conversing import picture_of
    from llavakit.studio.defaults import default_bench
    from llavakit.studio.looking import SceneView
    from llavakit.studio.session import Session

    session = Session.open(folder, default_bench())
    opened.callback(session.close)
    return list(document_tools(session)), [picture_of(SceneView(session.scene))]


def _check_beginning(question: str | None, resume: Path | None, *, begun_with: bool) -> None:
    """ConfigError where it is not clear whether a run begins or goes on."""
    if (question is None) == (resume is None):
        raise ConfigError("give a question, or --resume with the folder of a run")
    if resume is not None and begun_with:
        raise ConfigError(
            "--resume goes on as the run began: without --image, --box, --sketch, --limit, --out"
        )


def _replayed(folder: Path) -> bool:
    """Show a run that has its answer, which takes no model; whether it has."""
    from llavakit.agent.run import reopen
    from llavakit.agent.screen import Screen, report

    with reopen(folder) as run:
        if run.state.answered is not None:
            Screen().show(run.events)
            report(run)
        return run.state.answered is not None


def _names(tools: str | None) -> list[str] | None:
    """The tools that are named; None: all."""
    if tools is None:
        return None
    return [] if tools == "none" else [name.strip() for name in tools.split(",")]
