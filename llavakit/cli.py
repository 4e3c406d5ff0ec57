"""The command line. Mistakes of the user end in one line and exit code 2; Ctrl-C in 130."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, UserError, pick
from llavakit.core.memory import keep_freed_memory
from llavakit.core.progress import say
from llavakit.version import __version__

# PyTorch and transformers take seconds to import; each verb imports what it needs, so --help is instant.

INTERRUPTED = 130  # exit code: 128 and the number of SIGINT

app = typer.Typer(
    name="llavakit",
    help="Train, align, measure and serve the LLaVA series of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data = typer.Typer(no_args_is_help=True, help="Look after training data.")
app.add_typer(data, name="data")

Model = Annotated[Path, typer.Option("--model", "-m", help="Checkpoint or run directory.")]
Template = Annotated[
    str | None,
    typer.Option(
        help="Prompt template, for a Hugging Face or original directory, which does not name its own."
    ),
]

Weights = Annotated[
    Literal["as_is", "bf16", "int8", "int4"], typer.Option(help="The decoder's number format.")
]

Kernels = Annotated[
    Literal["auto", "torch", "native"],
    typer.Option(help="Who multiplies: PyTorch, our C kernels, or ours where they can run (docs/engine.md)."),
]

# What `inspect` and `data check` encode records with.
Encoding = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="Checkpoint whose tokenizer, template and plan are used."),
]
Vocabulary = Annotated[
    str | None, typer.Option(help="Instead of --model: a tokenizer's directory or hub id.")
]
OtherTemplate = Annotated[str | None, typer.Option(help="Template; default: the checkpoint's.")]
Images = Annotated[Path | None, typer.Option(help="Folder of relative image paths.")]


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
        bool, typer.Option("--resume", help="Go on exactly from the newest checkpoint, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the run that is in out, and start anew.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the run's settings and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would train, on what, in how much memory, and stop.")
    ] = False,
) -> None:
    """Train one stage: llavakit train llava15-stage2 data.files=my.json optim.lr.language=1e-5"""
    from llavakit.recipes import RECIPES, describe
    from llavakit.train.loop import train as train_run
    from llavakit.train.run import Run

    if recipe == "list":
        for name in RECIPES:
            say(f"{name:26} {describe(name)}")
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

    train_run(run, resume=resume, overwrite=overwrite, answer=answer)
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
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory.")] = None,
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
    rope_factor: Annotated[
        float | None, typer.Option(min=1, help="Let so many times more tokens in (linear RoPE scaling).")
    ] = None,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
    template: Template = None,
    remote: Annotated[
        str | None, typer.Option(help="Instead of --model: the URL of an OpenAI-compatible server.")
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="--remote: the model to ask, where it serves several.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAVAKIT_API_KEY", help="--remote: the server's key.")
    ] = None,
) -> None:
    """Talk to a model about pictures, once or in a conversation."""
    from llavakit.engine.sampler import Sampling
    from llavakit.terminal import Responder, Terminal

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    answering: Responder
    ours = template is not None or rope_factor is not None or (weights, kernels) != ("as_is", "auto")
    if remote is not None and model is None and not ours:
        from llavakit.remote import Remote

        answering = Remote(remote, model_name=model_name, api_key=api_key)
    elif remote is None and model is not None and model_name is None:
        from llavakit.chat import load

        answering = load(
            model, template_name=template, rope_factor=rope_factor, weights=weights, kernels=kernels
        )
    else:
        raise ConfigError(
            "give --model with a directory, or --remote with a URL (and --model-name); "
            "--template, --rope-factor, --weights and --kernels are for --model"
        )
    terminal = Terminal(answering, sampling, images=image or [], videos=video or [], system_text=system)
    if question is not None:
        terminal.ask(question)
    else:
        terminal.talk()


@app.command()
def serve(
    model: Model,
    limits: Annotated[
        list[str] | None,
        typer.Argument(
            help="Limits as name=value, e.g. max_images=8 request_seconds=60 (see docs/serve.md)."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(help="What requests call the model; default: the directory's name.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="LLAVAKIT_API_KEY", help="A key that clients must have one of; may be repeated."),
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="Let requests name files below this folder (file://).")
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Fetch pictures over http:// too, not https:// alone.")
    ] = False,
    log_content: Annotated[
        bool, typer.Option("--log-content", help="Write prompts and answers into the log.")
    ] = False,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
    max_sequences: Annotated[int, typer.Option(min=1, help="Answers that are made side by side.")] = 64,
    step_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a step; fewer keep streams even while long prompts come in.")
    ] = 2048,
    kv_gb: Annotated[
        float | None, typer.Option(min=0, help="Memory for keys and values, in GB (docs/engine.md).")
    ] = None,
    rope_factor: Annotated[
        float | None, typer.Option(min=1, help="Let so many times more tokens in (linear RoPE scaling).")
    ] = None,
    template: Template = None,
) -> None:
    """Answer over HTTP as OpenAI's chat completions do: llavakit serve --model runs/demo --port 8000"""
    from llavakit.chat import load

    try:
        from llavakit.serve.server import listen
        from llavakit.serve.server import serve as serve_model
        from llavakit.serve.service import Service
        from llavakit.serve.settings import ServeConfig
    except ImportError as error:
        raise ConfigError(f"llavakit serve needs {error.name}: pip install 'llavakit[serve]'") from None

    chosen = {
        "model_name": model_name or model.resolve().name,
        "api_keys": api_key or (),
        "media_root": media_root,
        "allow_http": allow_http,
        "log_content": log_content,
    }
    config = settings.override(settings.make(ServeConfig, chosen, where="command line"), limits or [])
    with listen(host, port) as listener:  # first: a port in use is known before a large model is read
        loaded = load(
            model, template_name=template, rope_factor=rope_factor, weights=weights, kernels=kernels,
            max_sequences=max_sequences, step_tokens=step_tokens,
            kv_bytes=None if kv_gb is None else int(kv_gb * 1e9),
        )  # fmt: skip
        serve_model(Service(loaded.engine, loaded.encoder, config), listener)


@app.command()
def inspect(
    record: Annotated[
        str, typer.Argument(help="A data file, with the record's line: data.json:12 (default: first).")
    ],
    model: Encoding = None,
    tokenizer: Vocabulary = None,
    template: OtherTemplate = None,
    images: Images = None,
    turns: Annotated[
        str, typer.Option(help="chained or independent (questions do not see each other).")
    ] = "chained",
) -> None:
    """Show every token of a record: its id, what it counts in the loss, and which image row stands there."""
    from llavakit.inspection import show_record

    show_record(record, model=model, tokenizer=tokenizer, template_name=template, images=images, turns=turns)


@data.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Data files of any kind, or mixture lists (.yaml).")],
    model: Encoding = None,
    tokenizer: Vocabulary = None,
    template: OtherTemplate = None,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="Where the list of bad records and the histogram go.")] = Path(
        "data_check"
    ),
    tokens: Annotated[
        int, typer.Option(min=1, help="Budget of a packed row: data.tokens of the run.")
    ] = 4096,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Threads that read and decode; default: one per core.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="A kind of flaw that is none here, e.g. duplicate; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The run's seed, which draws what `random` takes.")] = 0,
) -> None:
    """Read everything once: missing and corrupt media, wrong placeholders, empty answers, long samples, double ids.

    Exit code 0 if nothing is wrong, 1 if a record is, 2 if the data could not be read at all.
    """
    from llavakit.inspection import check_data

    good = check_data(
        files, model=model, tokenizer=tokenizer, template_name=template, images=images, out=out, tokens=tokens,
        workers=workers, ignore=ignore or [], seed=seed,
    )  # fmt: skip
    if not good:
        raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show one model in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the released models of the series, with their parts and parameter counts."""
    from llavakit.catalog import show_models

    show_models(name, as_json=as_json)


@app.command()
def plan(
    family: Annotated[str, typer.Argument(help="A model's name (see `llavakit models`).")],
    picture: Annotated[str, typer.Argument(help="WIDTHxHEIGHT in pixels, an image file or a video file.")],
    frames: Annotated[int | None, typer.Option(help="A video of this many frames.")] = None,
    images: Annotated[int, typer.Option(help="This many such images in one sample.")] = 1,
    rule: Annotated[
        str | None, typer.Option(help="Read the list of layouts as `llava` or as `transformers` does.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how a model would see a picture: tiles, padding, tokens. Example: llavakit plan llava16-7b 640x480"""
    from llavakit.preview import preview, show_plan

    show_plan(preview(family, picture, frames=frames, images=images, rule=rule), as_json=as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="An original LLaVA, Hugging Face or llavakit directory.")],
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
    shard_size: Annotated[float, typer.Option(min=0.0001, help="Largest weight file, in GB.")] = 2.0,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="--to original: keep so many rows of the embedding tables.")
    ] = None,
) -> None:
    """Turn a model directory into another layout, without holding the model in memory."""
    from llavakit.model.convert.assemble import Sources
    from llavakit.model.convert.convert import Options
    from llavakit.model.convert.convert import convert as convert_model

    sources = Sources(base=base, tower=tower, delta_base=delta_base)
    options = Options(
        template=template,
        dtype=dtype,
        shard_bytes=int(shard_size * 1e9),
        vocabulary=vocabulary,
        sources=sources,
    )
    convert_model(source, target, to, options)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A llavakit, Hugging Face or original LLaVA directory.")],
    target: Annotated[Path, typer.Argument(help="The new directory.")],
    program: Annotated[str, typer.Option("--for", help="The serving engine: vllm.")],
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Give up videos, where the engine cannot express them.")
    ] = False,
    template: Template = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; default: as stored.")
    ] = None,
    shard_size: Annotated[float, typer.Option(min=0.0001, help="Largest weight file, in GB.")] = 2.0,
) -> None:
    """Write a directory that a serving engine takes; says what that engine does otherwise."""
    from llavakit.model.convert.convert import Options
    from llavakit.model.convert.convert import export as export_model

    options = Options(template=template, dtype=dtype, shard_bytes=int(shard_size * 1e9))
    export_model(source, target, program, options, images_only=images_only)


def main() -> None:
    """Entry point: turns UserError into one line and an exit code.

    Of the ranks that torchrun starts each tells its own errors, but all are stopped by the same Ctrl-C.
    """
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" not in os.environ:  # ranks build models in turn, and give back what they no longer hold
        keep_freed_memory()
    try:
        app()
    except UserError as error:
        if rank == 0 or error.exit_code != INTERRUPTED:
            typer.echo(f"rank {rank}: error: {error}" if rank else f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk or a missing permission is not a bug of ours
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{where}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
