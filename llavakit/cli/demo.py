"""`llavakit demo`: train a small real LLaVA and look at its answers."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where data, checkpoints, report and pictures go.")] = Path(
        "runs/demo"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="The long profile: about 30 minutes instead of 6.")
    ] = False,
    tools: Annotated[
        bool,
        typer.Option(
            "--tools", help="Teach the demo in --out to call tools, into OUT/tools, and measure it."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where Ctrl-C stopped it.")] = False,
) -> None:
    """Train a small real LLaVA on this machine, measure it, and look at its answers."""
    if tools:
        from llavakit.recipes.tool_demo import Profile, run_tool_demo

        run_tool_demo(out, out / "tools", Profile(), resume=resume)
        return
    from llavakit.recipes.demo import run_demo

    run_demo(out, full=full, resume=resume)
