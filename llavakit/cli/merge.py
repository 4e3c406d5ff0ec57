"""`llavakit merge`: adapters and their checkpoint into one checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import Overwrite
from llavakit.core.progress import say


def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter directory, or the directory of a LoRA run.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to be written.")],
    overwrite: Overwrite = False,
) -> None:
    """Make an ordinary checkpoint of adapters and the checkpoint they belong to."""
    from llavakit.model.convert.convert import merge as merge_into

    merge_into(adapter, out, overwrite=overwrite)
    say(f"merged into {out}")
