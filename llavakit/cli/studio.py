"""`llavakit studio`: edit a picture and talk about it, in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import BoxUnit, RemoteKeys, RemoteModel, RemoteUrl, Template
from llavakit.core.config import make
from llavakit.core.errors import ConfigError

Engines = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WEIGHTS",
        help="Weights of an engine, a directory or hub id: sam2, sam3, clipseg, inpaint, edit, layout; "
        "lama=URL, seem=URL.",
    ),
]

FramedBy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="A page that may show this one inside of it, as https://huggingface.co; may be repeated.",
    ),
]
Propose = Annotated[
    bool,
    typer.Option(
        "--propose", help="Tell the model how to propose edits; for models that can call functions."
    ),
]


def studio(
    picture: Annotated[
        Path | None, typer.Argument(help="A picture to begin with; others are opened on the page.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Who answers in the chat: a checkpoint, run directory or hub id."),
    ] = None,
    template: Template = None,
    remote: RemoteUrl = None,
    model_name: RemoteModel = None,
    api_key: RemoteKeys = None,
    propose: Propose = False,
    boxes: BoxUnit = "0-1",
    pictures: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="How many states of the picture the model is shown, with what was said then."
        ),
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    engine: Engines = None,
    folder: Annotated[
        Path, typer.Option(help="Where pictures and all that was done to them are kept.")
    ] = Path("runs/studio"),
    framed_by: FramedBy = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8020,
) -> None:
    """Edit a picture together with a model, in the browser: select, remove, move, ask, undo."""
    if model is not None and remote is not None:
        raise ConfigError("--model and --remote exclude each other: one of them answers in the chat")
    if remote is None and model_name is not None:
        raise ConfigError("--model-name is for --remote")
    if model is None and template is not None:
        raise ConfigError("--template is for --model")
    weights = dict(_named(each) for each in engine or ())
    try:
        from llavakit.serve.listener import listen
        from llavakit.studio.http.serving import serve_studio
    except ImportError as error:
        raise ConfigError(
            f"llavakit studio needs {error.name}: pip install 'llavakit[serve,studio]'"
        ) from None
    from llavakit.engine.responder import Responder
    from llavakit.studio.defaults import default_bench
    from llavakit.studio.http.settings import StudioConfig
    from llavakit.vision.boxes import read_unit

    chosen = {
        "folder": folder,
        "max_tokens": max_tokens,
        "may_propose": propose,
        "pictures_in_talk": pictures,
        "boxes": read_unit(boxes),
        "framed_by": framed_by or (),
    }
    settings = make(StudioConfig, chosen, where="command line")
    bench = default_bench(**weights)
    responder: Responder | None = None
    with listen(host, port) as listener:  # before a model is read, which may take minutes
        if remote is not None:
            from llavakit.remote import Remote

            responder = Remote(remote, model_name=model_name, api_key=api_key[0] if api_key else None)
        elif model is not None:
            from llavakit.chat import load

            responder = load(model, template_name=template)
        serve_studio(listener, settings, bench, responder, str(model or remote or ""), picture)


def _named(said: str) -> tuple[str, str]:
    name, sign, weights = said.partition("=")
    if not (name and sign and weights):
        raise ConfigError(f"--engine {said!r}: write NAME=WEIGHTS, as in sam2=facebook/sam2.1-hiera-small")
    return name, weights
