"""Options that several verbs share."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

API_KEY = "LLAVAKIT_API_KEY"  # for every verb: keys with blanks between them


def finite(value: float | None) -> float | None:
    """A callback of options: `nan` is inside every range for the parser, and `inf` above it."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


Seed = Annotated[int, typer.Option(min=0, help="What random draws begin with.")]
RopeFactor = Annotated[
    float | None,
    typer.Option(min=1, callback=finite, help="Let so many times more tokens in (linear RoPE scaling)."),
]
ShardSize = Annotated[float, typer.Option(min=0.0001, callback=finite, help="Largest weight file, in GB.")]
Model = Annotated[Path, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")]
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

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a model that is at the target already.")
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
Unread = Annotated[
    list[str] | None,
    typer.Option(
        help="A field or placeholder that looks like media or a weight and is passed over on purpose, as"
        " data.unread of a run; may be repeated."
    ),
]
DataFiles = Annotated[list[Path], typer.Argument(help="Data files of any kind, or mixture lists (.yaml).")]
Drawn = Annotated[int, typer.Option(min=0, help="The run's seed, which draws what `random` takes.")]
Images = Annotated[Path | None, typer.Option(help="Folder of relative image paths.")]
RemoteUrl = Annotated[
    str | None, typer.Option(help="Instead of --model: the URL of an OpenAI-compatible server.")
]
RemoteModel = Annotated[str | None, typer.Option(help="--remote: the model to ask, where it serves several.")]
RemoteKeys = Annotated[
    list[str] | None,
    typer.Option(envvar=API_KEY, help="--remote: the server's key; of several the first is used."),
]
BoxUnit = Annotated[
    str,
    typer.Option(
        help="What the model's boxes count: 0-1, 0-1000, px, input, or a family of models (qwen3-vl)."
    ),
]
