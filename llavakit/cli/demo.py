"""`llavakit demo`: train a small real LLaVA and look at its answers."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.core.errors import ConfigError


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where data, checkpoints, report and pictures go; default: runs/demo, with --rlhf runs/rlhf."
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The long profile: about 30 minutes instead of 6.")
    ] = False,
    tools: Annotated[
        bool,
        typer.Option(
            "--tools", help="Teach the demo in --out to call tools, into OUT/tools, and measure it."
        ),
    ] = False,
    rlhf: Annotated[
        bool,
        typer.Option("--rlhf", help="A short SFT, preferences, a reward model and PPO: about 15 minutes."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where Ctrl-C stopped it.")] = False,
) -> None:
    """Train a small real LLaVA on this machine, measure it, and look at its answers."""
    from llavakit.recipes.demo import DEFAULT, run_demo

    chosen = {"--full": full, "--tools": tools, "--rlhf": rlhf}
    given = [name for name, wanted in chosen.items() if wanted]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are demos of their own; give one of them")
    if tools:
        from llavakit.recipes.tool_demo import Profile, run_tool_demo

        start = out or DEFAULT
        run_tool_demo(start, start / "tools", Profile(), resume=resume)
    elif rlhf:
        from llavakit.recipes import demo_rlhf

        demo_rlhf.run_rlhf(out or demo_rlhf.DEFAULT, resume=resume)
    else:
        run_demo(out or DEFAULT, full=full, resume=resume)
