"""`llavakit export`: a directory that a serving engine takes."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import Overwrite, ShardSize, Template


def export(
    source: Annotated[
        Path, typer.Argument(help="A llavakit, Hugging Face or original LLaVA directory, or a hub id.")
    ],
    target: Annotated[Path, typer.Argument(help="The new directory.")],
    program: Annotated[str, typer.Option("--for", help="The serving engine: vllm.")],
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Give up videos, where the engine cannot express them.")
    ] = False,
    template: Template = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; default: as stored.")
    ] = None,
    shard_size: ShardSize = 2.0,
    overwrite: Overwrite = False,
) -> None:
    """Write a directory that a serving engine takes; says what that engine does otherwise."""
    from llavakit.model.convert.convert import Options
    from llavakit.model.convert.convert import export as export_model

    options = Options(template=template, dtype=dtype, shard_bytes=int(shard_size * 1e9), overwrite=overwrite)
    export_model(source, target, program, options, images_only=images_only)
