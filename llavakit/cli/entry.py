"""The program: its verbs in the order of --help, and how each kind of ending becomes a line and an exit code."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from llavakit.cli import tools
from llavakit.cli.agent import agent
from llavakit.cli.chat import chat
from llavakit.cli.collect import collect
from llavakit.cli.convert import convert
from llavakit.cli.data import check, choose, pairs
from llavakit.cli.data import convert as convert_data
from llavakit.cli.demo import demo
from llavakit.cli.eval import eval_
from llavakit.cli.export import export
from llavakit.cli.inspect import inspect
from llavakit.cli.judge import pairwise, pointwise, prefer, report
from llavakit.cli.judge import rank as rank_answers
from llavakit.cli.measuring import measure
from llavakit.cli.merge import merge
from llavakit.cli.models import models
from llavakit.cli.plan import plan
from llavakit.cli.reward import reward
from llavakit.cli.serve import serve
from llavakit.cli.studio import studio
from llavakit.cli.synth import synth
from llavakit.cli.teaching import lessons
from llavakit.cli.train import train
from llavakit.core.errors import INTERRUPTED, Interrupted, UserError
from llavakit.core.memory import keep_freed_memory
from llavakit.core.progress import printable, say
from llavakit.version import __version__

Verb = Callable[..., None]
VERBS: tuple[Verb, ...] = (
    demo, train, reward, merge, chat, agent, studio, serve, collect, synth, eval_, inspect, models, plan, convert,
    export,
)  # fmt: skip
DATA_VERBS: tuple[Verb, ...] = (check, pairs, choose, convert_data)
TOOLS_VERBS: tuple[Verb, ...] = (tools.list_, tools.card, tools.call, tools.serve, measure, lessons)
JUDGE_VERBS: tuple[Verb, ...] = (pointwise, pairwise, rank_answers, prefer, report)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"llavakit {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    # A server gives back what its requests held. So does a rank what it gathers: shares and gradients that stay lie
    # between such blocks, and the holes would be as large as they are.
    if "RANK" not in os.environ and context.invoked_subcommand != serve.__name__:
        keep_freed_memory()


def make_app() -> typer.Typer:
    """The program with all its verbs."""
    program = typer.Typer(
        name="llavakit",
        help="Train, align, measure and serve the LLaVA series of vision-language models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    program.callback()(_options)
    for verb in VERBS:
        program.command(verb.__name__.removesuffix("_"))(verb)  # `eval_` leaves Python its own
    data = typer.Typer(no_args_is_help=True, help="Look after training data.")
    for verb in DATA_VERBS:
        data.command()(verb)
    program.add_typer(data, name="data")
    judge = typer.Typer(no_args_is_help=True, help="Judge answers, and look at how good a judge is.")
    for verb in JUDGE_VERBS:
        judge.command()(verb)
    program.add_typer(judge, name="judge")
    skills = typer.Typer(no_args_is_help=True, help="Tools that look at pictures: list, call and serve them.")
    for verb in TOOLS_VERBS:
        skills.command(verb.__name__.removesuffix("_"))(verb)
    program.add_typer(skills, name="tools")
    return program


app = make_app()


def main() -> None:
    """Entry point: turns UserError into one line and an exit code.

    Of the ranks that torchrun starts each tells its own errors, but all are stopped by the same signal.
    """
    rank = int(os.environ.get("RANK", "0"))
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of libraries: hundreds of lines in a log
    try:
        app()
    except UserError as error:
        if rank == 0 or not isinstance(error, Interrupted):
            line = f"rank {rank}: error: {error}" if rank else f"error: {error}"
            typer.echo(printable(line), err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk or a missing permission is not a bug of ours
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{where}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
