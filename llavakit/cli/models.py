"""`llavakit models`: the released models of the series."""

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    templates: Annotated[
        bool,
        typer.Option("--templates", help="List the prompt templates instead, with the models they are of."),
    ] = False,
) -> None:
    """List the released models of the series, with their parts and parameter counts."""
    from llavakit.catalog import show_models, show_templates

    if templates:
        show_templates(as_json=as_json)
        return
    show_models(name, as_json=as_json)
