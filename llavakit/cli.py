"""The command line. Mistakes of the user end in one line and exit code 2; Ctrl-C in 130."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, UserError, pick
from llavakit.core.memory import keep_freed_memory
from llavakit.core.progress import say
from llavakit.version import __version__

# PyTorch and transformers take seconds to import; each verb imports what it needs, so --help is instant.

app = typer.Typer(
    name="llavakit",
    help="Train, align, measure and serve the LLaVA series of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Option("--model", "-m", help="Checkpoint or run directory.")]
Template = Annotated[
    str | None,
    typer.Option(help="Prompt template; only for a Hugging Face directory, which does not name its own."),
]


def _version(wanted: bool) -> None:
    if wanted:
        say(f"llavakit {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where data, checkpoints, report and pictures go.")] = Path(
        "runs/demo"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="The long profile: about 30 minutes instead of 6.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where Ctrl-C stopped it.")] = False,
) -> None:
    """Train a small real LLaVA on this machine, measure it, and look at its answers."""
    from llavakit.recipes.demo import run_demo

    run_demo(out, full=full, resume=resume)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `llavakit train list`) or a run.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as path=value, e.g. optim.lr.language=1e-5.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly from the newest checkpoint.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the run's settings and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would train, on what, in how much memory, and stop.")
    ] = False,
) -> None:
    """Train one stage: llavakit train llava15-stage2 data.files=my.json optim.lr.language=1e-5"""
    from llavakit.recipes import RECIPES
    from llavakit.train.loop import train as train_run
    from llavakit.train.run import Run

    if recipe == "list":
        for name, function in RECIPES.items():
            say(f"{name:16} {(function.__doc__ or '').strip()}")
        return
    if recipe.endswith((".yaml", ".yml")):
        run = settings.load(Run, Path(recipe))
    else:
        run = pick(RECIPES, recipe, "recipe")()
    run = settings.override(run, overrides or [])
    if show:
        say(settings.dump(run))
        return
    if dry_run:
        from llavakit.train.dry_run import show_plan

        problems = show_plan(run)
        if problems:
            raise ConfigError(f"this run would stop: {'; '.join(problems)}")
        return
    from llavakit.chat import answer

    train_run(run, resume=resume, answer=answer)
    say(f'saved in {run.out}; try it: llavakit chat --model {run.out} --image PICTURE "What is this?"')


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter directory, or the directory of a LoRA run.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to be written.")],
) -> None:
    """Make an ordinary checkpoint of adapters and the checkpoint they belong to."""
    from llavakit.model.checkpoint import merge as merge_into

    merge_into(adapter, out)
    say(f"merged into {out}")


@app.command()
def chat(
    model: Model,
    question: Annotated[
        str | None, typer.Argument(help="Ask once and exit; without it, a conversation.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="A picture; may be repeated.")
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option("--video", "-v", help="A video file or a folder of frames; may be repeated."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text instead of the template's own.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    seed: int = 0,
    template: Template = None,
) -> None:
    """Talk to a model about pictures, once or in a conversation."""
    from llavakit.chat import load
    from llavakit.engine.sampler import Sampling
    from llavakit.terminal import Terminal

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    loaded = load(model, template_name=template)
    terminal = Terminal(loaded, sampling, images=image or [], videos=video or [], system_text=system)
    if question is not None:
        terminal.ask(question)
    else:
        terminal.talk()


@app.command()
def inspect(
    record: Annotated[
        str, typer.Argument(help="A data file, with the record's line: data.json:12 (default: first).")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Checkpoint whose tokenizer, template and plan are used."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Instead of --model: a tokenizer's directory or hub id.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Template; default: the checkpoint's.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of relative image paths.")] = None,
    turns: Annotated[
        str, typer.Option(help="chained or independent (questions do not see each other).")
    ] = "chained",
) -> None:
    """Show every token of a record: its id, what it counts in the loss, and which image row stands there."""
    from llavakit.inspection import show_record

    show_record(record, model=model, tokenizer=tokenizer, template_name=template, images=images, turns=turns)


@app.command()
def models() -> None:
    """List the released models that recipes start from."""
    from llavakit.model.families import FAMILIES

    for row in FAMILIES.values():
        card = row.card
        image = f"{card.image.kind} {card.image.size} px, {row.num_image_tokens} tokens"
        say(f"{row.name}  ({row.system}; template {card.template}; image {image}; context {row.context})")
        say(f"    {card.tower.path} -> {card.connector.kind} -> {row.language.path}")


def main() -> None:
    """Entry point: turns UserError into one line and an exit code."""
    keep_freed_memory()
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk or a missing permission is not a bug of ours
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{where}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
