"""`llavakit convert`: a model directory in another layout."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import Overwrite, ShardSize, Template


def convert(
    source: Annotated[
        Path, typer.Argument(help="An original LLaVA, Hugging Face or llavakit directory, or a hub id.")
    ],
    target: Annotated[Path, typer.Argument(help="The new directory.")],
    to: Annotated[str, typer.Option("--to", help="hf, original or llavakit.")],
    template: Template = None,
    base: Annotated[
        Path | None,
        typer.Option(help="The language model under a LoRA adapter or a stage-1 mm_projector.bin."),
    ] = None,
    tower: Annotated[
        str | None, typer.Option(help="Vision tower (directory or hub id) instead of the config's.")
    ] = None,
    delta_base: Annotated[
        Path | None, typer.Option(help="LLaMA weights to which released v0 delta weights are added.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; default: as stored.")
    ] = None,
    shard_size: ShardSize = 2.0,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="--to original: keep so many rows of the embedding tables.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a model directory into another layout, without holding the model in memory."""
    from llavakit.model.assemble import Sources
    from llavakit.model.convert.convert import Options
    from llavakit.model.convert.convert import convert as convert_model

    sources = Sources(base=base, tower=tower, delta_base=delta_base)
    options = Options(
        template=template,
        dtype=dtype,
        shard_bytes=int(shard_size * 1e9),
        vocabulary=vocabulary,
        sources=sources,
        overwrite=overwrite,
    )
    convert_model(source, target, to, options)
