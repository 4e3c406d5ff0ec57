"""`llavakit data`: look after training data."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import Encoding, Images, OtherTemplate, Vocabulary


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
    seed: Annotated[int, typer.Option(min=0, help="The run's seed, which draws what `random` takes.")] = 0,
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
