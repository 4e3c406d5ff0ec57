"""`llavakit inspect`: what a record becomes, token by token. The cheapest debugger a vision-language model has."""

from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from llavakit.core.errors import ConfigError, DataError, pick
from llavakit.core.progress import console, say
from llavakit.core.types import IMAGE_ID, segment_positions
from llavakit.data.encode import Encoder, Sample
from llavakit.data.records import Record, Records, read_records
from llavakit.model.card import load_card, resolve
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer
from llavakit.vision.plan import ImageConfig


def show_record(
    where: str,
    *,
    model: Path | None,
    tokenizer: str | None,
    template_name: str | None,
    images: Path | None,
    turns: str,
) -> None:
    """Print the table of one record, given as `file` or `file:line`."""
    encoder = _encoder(model, tokenizer, template_name)
    encode = pick({"chained": encoder.encode, "independent": encoder.encode_turns}, turns, "--turns")
    record = _find(where, images)
    try:
        sample = encode(record.conversation())
    except DataError as error:
        raise error if error.path else record.error(error.what) from None
    console.print(token_table(sample, encoder.tokenizer))
    learned = sum(weight > 0 for weight in sample.weights)
    slots = sum(token == IMAGE_ID for token in sample.ids)
    say(
        f"{record.name}: {sample.num_tokens} tokens, {slots} of images, {learned} learned; "
        f"template {encoder.template.name}"
    )


def token_table(sample: Sample, tokenizer: Tokenizer) -> Table:
    """A row per token; runs of image tokens are one row. Learned tokens are green."""
    table = Table(
        "at", "segment", "position", "id", "token", "weight", "media", box=None, header_style="bold"
    )
    positions = segment_positions(sample.segments)
    owner = [number for number, segment in enumerate(sample.segments) for _ in range(len(segment))]
    media = iter(sample.media)
    for is_image, group in groupby(range(sample.num_tokens), key=lambda at: sample.ids[at] == IMAGE_ID):
        run = list(group)
        while is_image and run:
            current = next(media)
            left = current.plan.num_tokens
            first, last = run[0], run[left - 1]
            columns, rows = current.plan.grid
            what = f"{current.name}: {left} tokens, {columns} x {rows}"
            table.add_row(
                f"{first}-{last}", str(owner[first]), f"{positions[first]}-{positions[last]}",
                str(IMAGE_ID), "<image>", "0", Text(what), style="cyan",
            )  # fmt: skip
            run = run[left:]
        for at in run if not is_image else []:
            weight = sample.weights[at]
            letters = Text(repr(tokenizer.hf.decode([sample.ids[at]]))[1:-1])
            table.add_row(
                str(at), str(owner[at]), str(positions[at]), str(sample.ids[at]), letters, f"{weight:g}", "",
                style="green" if weight > 0 else "dim",
            )  # fmt: skip
    return table


def _encoder(model: Path | None, tokenizer: str | None, template_name: str | None) -> Encoder:
    if (model is None) == (tokenizer is None):
        raise ConfigError("give --model DIR, or --tokenizer DIR together with --template NAME")
    if model is not None:
        card = load_card(model, template_name)
        return Encoder(Tokenizer.load(resolve(model), ours=True), card.prompt(), card.image, card.video)
    if template_name is None:
        raise ConfigError("--tokenizer needs --template NAME")
    return Encoder(Tokenizer.load(str(tokenizer)), template(template_name), ImageConfig())


def _find(where: str, images: Path | None) -> Record:
    path, colon, line = where.rpartition(":")
    if not colon or not line.isdigit():
        return _read(Path(where), images)[0]
    records = _read(Path(path), images)
    record = records.at_line(int(line))
    if record is None:
        raise DataError(f"no record at line {line}; the first begins at line {records[0].line}", path=path)
    return record


def _read(path: Path, images: Path | None) -> Records:
    records = read_records(path, images)
    if not records:
        raise DataError("no record in this file", path=path)
    return records
