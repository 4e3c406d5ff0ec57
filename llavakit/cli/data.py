"""`llavakit data`: look after training data."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llavakit.cli.options import DataFiles, Drawn, Encoding, Images, OtherTemplate, Unread, Vocabulary, finite
from llavakit.core.progress import say

Budget = Annotated[int, typer.Option(min=1, help="Budget of a packed row: data.tokens of the run.")]
Threads = Annotated[
    int | None, typer.Option(min=0, help="Threads that read and decode; default: one per core.")
]
Ignored = Annotated[
    list[str] | None,
    typer.Option(help="A kind of flaw that is none here, e.g. duplicate; may be repeated."),
]


def check(
    files: DataFiles,
    model: Encoding = None,
    tokenizer: Vocabulary = None,
    template: OtherTemplate = None,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="Where the list of bad records and the histogram go.")] = Path(
        "data_check"
    ),
    tokens: Budget = 4096,
    workers: Threads = None,
    ignore: Ignored = None,
    unread: Unread = None,
    seed: Drawn = 0,
) -> None:
    """Read everything once: missing and corrupt media, wrong placeholders, empty answers, long samples, double ids,
    and fields that look like media or weights and are not read.

    Exit code 0 if nothing is wrong, 1 if a record is, 2 if the data could not be read at all.
    """
    from llavakit.data.mixture import list_sources

    list_sources(
        files, images
    )  # a file that is not there is told at once: what reads them takes seconds to import
    from llavakit.inspection import check_data

    good = check_data(
        files, model=model, tokenizer=tokenizer, template_name=template, images=images, out=out, tokens=tokens,
        workers=workers, ignore=ignore or [], unread=unread or [], seed=seed,
    )  # fmt: skip
    if not good:
        raise typer.Exit(1)


def pairs(
    files: DataFiles,
    model: Encoding = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="What --model was trained from: also say how far its learned reward tells the answers apart, with"
            " their pictures and with those of other pairs."
        ),
    ] = None,
    reward: Annotated[Path | None, typer.Option(help="A reward model, of which the same is told.")] = None,
    tokenizer: Vocabulary = None,
    template: OtherTemplate = None,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="Where the list of bad pairs goes.")] = Path("data_check"),
    tokens: Budget = 4096,
    workers: Threads = None,
    ignore: Ignored = None,
    unread: Unread = None,
    seed: Drawn = 0,
) -> None:
    """Read all pairs of answers once: as check does, and doubles, contradictions, answers that hardly differ, pairs
    that are too long, and how often the chosen answer is the longer one.

    Exit code 0 if nothing is wrong, 1 if a pair is, 2 if the data could not be read at all.
    """
    from llavakit.data.mixture import list_sources

    list_sources(files, images)  # as in check
    from llavakit.inspection import check_pair_data

    good = check_pair_data(
        files, model=model, tokenizer=tokenizer, template_name=template, images=images, out=out, tokens=tokens,
        workers=workers, ignore=ignore or [], unread=unread or [], seed=seed,
        against=against, reward=reward,
    )  # fmt: skip
    if not good:
        raise typer.Exit(1)


def convert(
    files: DataFiles,
    to: Annotated[
        str,
        typer.Option(
            help="How it is written: llava, messages, sharegpt or trl; pairs: rlhf, trl-pairs, label-studio or"
            " argilla; pairs or judged answers: kto."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new file, of JSON lines; it must not be there yet.")],
    images: Images = None,
    unread: Unread = None,
    seed: Drawn = 0,
) -> None:
    """Write the conversations of any data in another dialect, record by record.

    A record that cannot be read, or that the other dialect cannot say, is listed beside the new file
    (OUT.bad.jsonl) and not written. Exit code 0 if all were written but pairs of which no answer is better, 1 if
    another one was not, 2 if none could be read.
    """
    from llavakit.inspection import convert_data

    if not convert_data(files, to=to, out=out, images=images, unread=unread or [], seed=seed):
        raise typer.Exit(1)


def choose(
    files: Annotated[
        list[Path], typer.Argument(help="Rollouts of runs with `policy`: RUN/rollouts/round*.jsonl.")
    ],
    out: Annotated[Path, typer.Option(help="The new file, of JSON lines; it must not be there yet.")],
    learn: Annotated[
        Literal["pairs", "best"],
        typer.Option(help="The best answer of a prompt against the worst, or the best alone."),
    ] = "pairs",
    gap: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Pairs: by how much more than this the best is above."),
    ] = 0.0,
    at_least: Annotated[
        float | None,
        typer.Option(min=-1e6, callback=finite, help="What the best answer must have to be taken."),
    ] = None,
) -> None:
    """Write what a model's own answers teach as data: pairs for `train dpo`, or the best answers alone for
    `train finetune` (rejection sampling).
    """
    from llavakit.align.choosing import write_chosen

    made = write_chosen(files, out, learn, gap=gap, at_least=at_least)
    cut = f"; {made.cut} answers that were cut at their limit are left out" if made.cut else ""
    say(
        f"{made.written} {'pairs' if learn == 'pairs' else 'answers'} from {made.prompts} prompts: {out}{cut}"
    )
