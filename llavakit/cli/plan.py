"""`llavakit plan`: how a model would see a picture."""

from typing import Annotated

import typer


def plan(
    model: Annotated[
        str,
        typer.Argument(help="A model's name (see `llavakit models`), a checkpoint's directory or a hub id."),
    ],
    picture: Annotated[
        str, typer.Argument(help="WIDTHxHEIGHT in pixels, an image, a video, or a folder of frames.")
    ],
    frames: Annotated[int | None, typer.Option(min=1, help="A video of this many frames.")] = None,
    images: Annotated[int, typer.Option(min=1, help="This many such images in one sample.")] = 1,
    rule: Annotated[
        str | None, typer.Option(help="Read the list of layouts as `llava` or as `transformers` does.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a model would see a picture: tiles, padding, tokens. Example: llavakit plan llava16-7b 640x480"""
    from llavakit.preview import preview, show_plan

    show_plan(preview(model, picture, frames=frames, images=images, rule=rule), as_json=as_json)
