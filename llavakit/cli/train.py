"""`llavakit train`: one stage, by a recipe's name or a run.yaml."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, pick
from llavakit.core.progress import say


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `llavakit train list`) or a run.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as path=value, e.g. optim.lr.language=1e-5.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly from the newest checkpoint, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the run that is in out, and start anew.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the run's settings and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would train, on what, in how much memory, and stop.")
    ] = False,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="With --dry-run or --show: on so many GPUs (torchrun says it else)."),
    ] = None,
) -> None:
    """Train one stage: llavakit train llava15-stage2 data.files=my.json optim.lr.language=1e-5"""
    from llavakit.recipes import RECIPES, show_recipes
    from llavakit.recipes.fit_ranks import adopt_ranks
    from llavakit.train.run import Run

    if recipe == "list":
        show_recipes()
        return
    if ranks is not None and not (show or dry_run):
        raise ConfigError("--ranks is for --dry-run and --show; torchrun starts ranks")
    given = overrides or []
    if recipe.endswith((".yaml", ".yml")):
        run = settings.override(settings.load(Run, Path(recipe)), given)
    else:
        published = pick(RECIPES, recipe, "recipe")()
        run = settings.override(published, given)
        if run.model.start != published.model.start:
            from llavakit.recipes.own_parts import adopt_start

            run = adopt_start(run, published, given)
        run = adopt_ranks(run, RECIPES[recipe], given, ranks, resume=resume, tell=not show)
    if show:
        say(settings.dump(run))
        return
    if dry_run:
        from llavakit.train.dry_run import show_plan

        problems = show_plan(run, ranks)
        if problems:
            raise ConfigError(f"this run would stop: {'; '.join(problems)}")
        return
    from llavakit.agent.rollouts import open_loop
    from llavakit.align.opening import open_policy
    from llavakit.chat import answer
    from llavakit.cli.asked import open_responder
    from llavakit.critic.reward import CriticScores
    from llavakit.train.loop import train as train_run

    train_run(
        run,
        resume=resume,
        overwrite=overwrite,
        answer=answer,
        policy=partial(
            open_policy,
            open_responder=open_responder,
            open_critic=partial(CriticScores, open_responder=open_responder),
            open_loop=open_loop,
        ),
    )
    if os.environ.get("RANK", "0") != "0":
        return  # the first rank tells it
    if run.reward is not None:
        say(f"saved in {run.out}; try it: llavakit reward PAIRS --model {run.out} --out scores.jsonl")
        return
    say(f'saved in {run.out}; try it: llavakit chat --model {run.out} --image PICTURE "What is this?"')
