"""`llavakit tools measure`: how well a model calls tools, by cases whose right calls are known."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.asked import open_asked
from llavakit.cli.options import RemoteKeys, RemoteModel, RemoteUrl, Template, finite

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--agent", help="A setting as name=value, form=hermes say; may be repeated (docs/agent.md)."
    ),
]


def measure(
    cases: Annotated[Path, typer.Argument(help="Questions with their right calls, as JSON lines.")],
    out: Annotated[Path, typer.Option(help="Where the runs go; asking goes on where it ended.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")
    ] = None,
    remote: RemoteUrl = None,
    model_name: RemoteModel = None,
    api_key: RemoteKeys = None,
    template: Template = None,
    agent: Settings = None,
    without: Annotated[
        bool, typer.Option("--without", help="Every tool gives an error: what is right without them.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer of the model.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, callback=finite, help="0 is greedy.")] = 0.0,
) -> None:
    """Ask questions whose right calls are known, and count: names, arguments, boxes, needless and made-up calls."""
    from llavakit.agent.cases import FIGURES, ask_cases, read_cases
    from llavakit.agent.forms import FORMS
    from llavakit.agent.lessons import switch_off
    from llavakit.agent.loop import Agent
    from llavakit.agent.opening import AgentConfig, caller, can_hold, shown_as
    from llavakit.agent.responder import nobody
    from llavakit.core import config as settings
    from llavakit.core.progress import say
    from llavakit.engine.sampler import Sampling

    found = read_cases(cases)
    config = settings.override(AgentConfig(), agent or [], where="--agent")
    rules = config.rules()
    responder = open_asked(model, template, remote, model_name, api_key)
    with config.open() as registry:
        cards = registry.cards_for(config.boxes)
        bot = Agent(
            caller(responder, config.form, cards), switch_off(registry) if without else registry,
            FORMS[config.form], policy=rules, ask=nobody, own_system=shown_as(responder)[1],
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens), holds_calls=can_hold(responder),
        )  # fmt: skip
        figures = ask_cases(bot, found, cases.parent, out, config)
    for name, figure in figures.items():
        value = "-" if figure.value is None else f"{100 * figure.value:.1f} %"
        say(f"{name:<20}{value:>8}  of {figure.count}")
    say(f"figures: {out / FIGURES}; runs: {out}")
