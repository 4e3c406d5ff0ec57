"""`llavakit tools`: list the skill repository, call one of its tools, or serve it to other programs."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from llavakit.cli.options import finite
from llavakit.core.errors import ConfigError

NUMBERS = re.compile(r"\[[\s\d.,-]+\]")
Name = Annotated[str, typer.Argument(help="Name of a tool, as `llavakit tools list` tells it.")]
Unit = Annotated[
    str,
    typer.Option(help="What the numbers of boxes count: 0-1, 0-1000, px, or a family of models (qwen3-vl)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="TOOL.SETTING=VALUE: the model or folder of a tool, such as ground.model=DIR."
    ),
]


def list_() -> None:
    """One line for each tool: its name, what it does, and its weights with their licence.

    Those with weights of the hub, and other names for some, come last; they are there where they are named.
    """
    from llavakit.core.progress import say
    from llavakit.tools.skills import cards_of_all

    cards = cards_of_all()
    width = max(len(card.name) for card in cards)
    for card in cards:
        weights = "" if card.weights is None else f" [{card.weights.name}, {card.weights.licence}]"
        say(f"{card.name:{width}}  {card.description.splitlines()[0]}{weights}")


def card(name: Name) -> None:
    """Everything that a caller is told about a tool, as JSON: arguments, limits, weights and their licence."""
    import json
    from dataclasses import asdict

    from llavakit.core.errors import pick
    from llavakit.core.progress import say
    from llavakit.tools.skills import cards_of_all

    said = asdict(pick({found.name: found for found in cards_of_all()}, name, "tool"))
    said.pop("server")
    say(json.dumps(said, indent=2, ensure_ascii=False))


def call(
    name: Name,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments as name=value, as in YAML: box=[0,0,0.5,0.5]."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", help="A picture, img_1 in the call; may be repeated."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="A mask that a call saved, txt_1 in the call; may be repeated."),
    ] = None,
    unit: Unit = "0-1",
    set_: Set = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and masks that are made.")] = Path(),
    seconds: Annotated[
        float,
        typer.Option(min=0.1, callback=finite, help="The most it may take; the tool's own limit holds."),
    ] = 120.0,
) -> None:
    """Call one tool: llavakit tools call zoom --image x.png box=[0.2,0.2,0.5,0.5]

    Prints what it gives as JSON. Exit code 1 if the tool refuses or fails.
    """
    import json

    from llavakit.core.progress import say
    from llavakit.tools.by_hand import Given, run_by_hand

    given = Given(arguments or [], image or [], mask or [], _unit(unit), set_ or ())
    value, files = run_by_hand(name, given, out, seconds)
    if files:
        value["files"] = [str(file) for file in files]
    text = json.dumps(value, indent=1, ensure_ascii=False)
    say(NUMBERS.sub(_on_one_line, text))


def serve(
    tools: Annotated[
        str | None, typer.Option(help="Names of tools, commas between them; default: all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Let callers open pictures below this folder by their paths.")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="HOST:PORT for streamable HTTP at /mcp; default: standard input and output."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAVAKIT_TOOLS_KEY", help="--http: the key that clients must have.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures that are brought and made; default: a temporary one."),
    ] = None,
    unit: Unit = "0-1",
    set_: Set = None,
    hours: Annotated[
        float, typer.Option(min=0.01, callback=finite, help="How long a picture can be named after it came.")
    ] = 24.0,
) -> None:
    """Serve the tools to any MCP client: llavakit tools serve, or llavakit tools serve --http 127.0.0.1:8900"""
    from llavakit.tools.by_hand import read_settings
    from llavakit.tools.skills import open_tools

    try:
        from llavakit.serve.tool_run import serve_tools
    except ImportError as error:
        raise ConfigError(f"llavakit tools serve needs {error.name}: pip install 'llavakit[tools]'") from None

    names = None if tools is None else [name.strip() for name in tools.split(",")]
    kept: dict[str, Any] = {"store": store, "seconds": hours * 3600}
    opened = open_tools(names, read_settings(set_ or ()))
    serve_tools(opened, folder, http, api_key, unit=_unit(unit), **kept)


def _unit(name: str) -> Any:
    """The unit; there is no model here whose pixels could be meant."""
    from llavakit.vision.boxes import read_unit

    unit = read_unit(name)
    if unit == "input":
        raise ConfigError(f"--unit {name}: pixels of a model's input need a model; llavakit agent has one")
    return unit


def _on_one_line(numbers: re.Match[str]) -> str:
    """A box as people write one."""
    return f"[{' '.join(numbers[0][1:-1].split())}]"
