"""`llavakit inspect`: what a record becomes, token by token. `llavakit data`: all records checked, or rewritten."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from llavakit.core.errors import ConfigError, DataError, pick, printable
from llavakit.core.progress import console, say
from llavakit.core.types import IMAGE_ID, segment_positions
from llavakit.data.check import BAD, FLAWS, LENGTHS, Flaw, check_mixture, draw_lengths, report_table
from llavakit.data.convert import KTO, PAIRS_WRITTEN, UNDECIDED, WRITTEN, convert_mixture
from llavakit.data.encode import Encoder, Sample
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.pair_report import BAD_PAIRS, PAIR_FLAWS, check_pairs, pair_table
from llavakit.data.records import Record, Records, read_records
from llavakit.model.directory import load_card, resolve
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
    encoder = load_encoder(model, tokenizer, template_name)
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


def check_data(
    files: list[Path],
    *,
    model: Path | None,
    tokenizer: str | None,
    template_name: str | None,
    images: Path | None,
    out: Path,
    tokens: int,
    workers: int | None,
    ignore: list[str],
    unread: list[str],
    seed: int,
) -> bool:
    """Print and write what is wrong with data files or mixtures; True if nothing is.

    Without a model or a tokenizer, lengths are not known and that is said.
    """
    for kind in ignore:
        pick(FLAWS, kind, "--ignore")
    encoder = _some_encoder(model, tokenizer, template_name)
    mixture = _mixture(files, images, unread, seed)
    report = check_mixture(
        mixture, out, encoder=encoder, tokens=tokens, workers=_threads(workers), ignore=ignore
    )
    console.print(report_table(report))
    _say_flaws(report.first)
    if any(tally.lengths for tally in report.tallies):
        draw_lengths(report, tokens, out / LENGTHS)
        say(f"lengths: {out / LENGTHS}")
    if encoder is None:
        say("lengths were not measured; give --model DIR, or --tokenizer DIR with --template NAME")
    say(f"{report.num_bad} of {len(mixture)} records are bad; all flaws: {out / BAD}")
    return report.num_bad == 0


def check_pair_data(
    files: list[Path],
    *,
    model: Path | None,
    tokenizer: str | None,
    template_name: str | None,
    images: Path | None,
    out: Path,
    tokens: int,
    workers: int | None,
    ignore: list[str],
    unread: list[str],
    seed: int,
    against: Path | None = None,
    reward: Path | None = None,
) -> bool:
    """As `check_data`, of pairs of answers. `against`: what the model was trained from; its reward is told too.

    `reward` is a reward model, of which the same is told.
    """
    if against is not None and model is None:
        raise ConfigError("--against START needs --model DIR, the model that was trained from it")
    for kind in ignore:
        pick(PAIR_FLAWS, kind, "--ignore")
    encoder = _some_encoder(model, tokenizer, template_name)
    mixture = _mixture(files, images, unread, seed)
    report = check_pairs(
        mixture, out, encoder=encoder, tokens=tokens, workers=_threads(workers), ignore=ignore
    )
    console.print(pair_table(report))
    _say_flaws(report.first)
    if encoder is None:
        say("tokens were not counted; give --model DIR, or --tokenizer DIR with --template NAME")
    say(f"{report.num_bad} of {len(mixture)} pairs are bad; all flaws: {out / BAD_PAIRS}")
    if reward is not None:
        from llavakit.align.margins import compare_blind, tell_blind  # they bring PyTorch, as below
        from llavakit.align.reward_model import open_reward_model

        tell_blind(compare_blind(mixture, open_reward_model(reward)))
    if model is not None and against is not None:
        from llavakit.align.implicit_reward import (
            ImplicitReward,  # it brings PyTorch, which check does not need
        )
        from llavakit.align.margins import compare_blind, tell_blind

        tell_blind(compare_blind(mixture, ImplicitReward(model, against, tokens=tokens)))
    return report.num_bad == 0


def _say_flaws(first: Sequence[tuple[str, Flaw]]) -> None:
    """The first flaws that were found, a line each."""
    for name, flaw in first:
        say(f"{name}: {flaw.kind}: {flaw.reason}")


def convert_data(
    files: list[Path], *, to: str, out: Path, images: Path | None, unread: list[str], seed: int
) -> bool:
    """Write all records in another dialect and print what became of them; True if all were written.

    Pairs of which no answer is better are told and are no flaw: people may say so. DataError if nothing was.
    """
    pick(dict.fromkeys((*WRITTEN, *PAIRS_WRITTEN, KTO)), to, "--to")
    mixture = _mixture(files, images, unread, seed)
    bad = out.with_name(f"{out.name}.bad.jsonl")
    found = convert_mixture(mixture, to, out, bad)
    _say_flaws(found.first)
    if found.failed:
        raise DataError(f"none of {len(mixture)} records could be written as {to}; all of them: {bad}")
    read = ", ".join(f"{count} {name}" for name, count in sorted(found.dialects.items()))
    say(f"{found.written} of {len(mixture)} records written as {to} (read as {read or 'none'}): {out}")
    if found.flaws:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.flaws.items()))
        say(f"{len(mixture) - found.written} were not ({kinds}); all of them: {bad}")
    return found.flaws.keys() <= {UNDECIDED}


def _mixture(files: list[Path], images: Path | None, unread: list[str], seed: int) -> Mixture:
    mixture = Mixture(list_sources(files, images), seed=seed, unread=unread)
    if not len(mixture):
        raise DataError(f"no record in {', '.join(str(file) for file in files)}")
    return mixture


def token_table(sample: Sample, tokenizer: Tokenizer) -> Table:
    """A row per token; runs of image tokens are one row. Learned tokens are green."""
    table = Table(box=None, header_style="bold")
    for name in ("at", "segment", "position", "id", "weight"):
        table.add_column(name, no_wrap=True)
    table.add_column("token", overflow="fold")
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
            what = f"<image> {left} tokens, {columns} x {rows}: {printable(current.name)}"
            table.add_row(
                f"{first}-{last}", str(owner[first]), f"{positions[first]}-{positions[last]}",
                str(IMAGE_ID), "0", Text(what), style="cyan",
            )  # fmt: skip
            run = run[left:]
        for at in run if not is_image else []:
            weight = sample.weights[at]
            letters = Text(repr(tokenizer.hf.decode([sample.ids[at]]))[1:-1])
            table.add_row(
                str(at), str(owner[at]), str(positions[at]), str(sample.ids[at]), f"{weight:g}", letters,
                style="green" if weight > 0 else "dim",
            )  # fmt: skip
    return table


def load_encoder(model: Path | None, tokenizer: str | None, template_name: str | None) -> Encoder:
    """The encoder of a checkpoint, or of a tokenizer with a template and the plain image rule."""
    if (model is None) == (tokenizer is None):
        raise ConfigError("give --model DIR, or --tokenizer DIR together with --template NAME")
    if model is not None:
        card = load_card(model, template_name)
        return Encoder(
            Tokenizer.load(resolve(model, weights=False), ours=True), card.prompt(), card.image, card.video
        )
    if template_name is None:
        raise ConfigError("--tokenizer needs --template NAME; all: llavakit models --templates")
    return Encoder(Tokenizer.load(str(tokenizer)), template(template_name), ImageConfig())


def _some_encoder(model: Path | None, tokenizer: str | None, template_name: str | None) -> Encoder | None:
    """As `load_encoder`; None where nothing is named."""
    if model is None and tokenizer is None and template_name is None:
        return None
    return load_encoder(model, tokenizer, template_name)


def _threads(workers: int | None) -> int:
    return (os.cpu_count() or 1) if workers is None else workers


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
