"""`llavakit merge`: adapters and their checkpoint into one checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import Overwrite, Template
from llavakit.core.progress import say


def merge(
    adapter: Annotated[
        Path, typer.Argument(help="An adapter directory (ours or of peft), or the directory of a LoRA run.")
    ],
    out: Annotated[Path, typer.Argument(help="The checkpoint to be written.")],
    template: Template = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an ordinary checkpoint of adapters and the checkpoint they belong to."""
    from llavakit.model.convert.convert import merge as merge_into

    merge_into(adapter, out, template_name=template, overwrite=overwrite)
    say(f"merged into {out}")
