"""`llavakit inspect`: every token of one record."""

from typing import Annotated

import typer

from llavakit.cli.options import Encoding, Images, OtherTemplate, Vocabulary


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
