"""`llavakit synth`: training data made from pictures by a model that is asked."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llavakit.cli.asked import open_judge
from llavakit.cli.judge import read_prices
from llavakit.cli.options import API_KEY, Seed, Template, finite
from llavakit.core.config import make
from llavakit.core.errors import ConfigError, pick
from llavakit.core.progress import say

PREVIEW, LIST, ACCEPTED = "preview", "list", "accepted"
LOOKED_AT = 3  # items of a preview
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="KIND", help="A kind (docs/synth.md), `preview KIND`, `list`, `accepted NAME.votes`."
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option("--images", help="A folder of pictures or videos, or a file of rows that name them."),
]
By = Annotated[
    str | None, typer.Option(help="Who writes: a checkpoint, run directory or hub id, or a URL (URL#MODEL).")
]
Out = Annotated[
    Path | None, typer.Option(help="The new file, NAME.jsonl; what belongs to it lies beside it.")
]
Folder = Annotated[Path | None, typer.Option(help="Where relative paths of a file of --images start.")]
FactFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--facts", help="Captions, boxes and more by picture: rows, or COCO's files; may be repeated."
    ),
]
Unknown = Annotated[
    Literal["stop", "skip"],
    typer.Option("--unknown", help="What facts about pictures that are not there do."),
]
See = Annotated[
    bool, typer.Option("--see", help="Show the writer the picture instead of telling what is known.")
]
Captioner = Annotated[
    str | None, typer.Option(help="Who captions pictures that have no caption, as --by; sees them.")
]
JudgeBy = Annotated[
    str | None, typer.Option("--judge", help="preferences: who rates the answers; default: --by.")
]
Blind = Annotated[
    str | None,
    typer.Option(help="Who is asked every question without the picture; what is answered alike is dropped."),
]
ModelName = Annotated[str | None, typer.Option(help="Of a URL of --by: the model, where it serves several.")]
Key = Annotated[str | None, typer.Option(envvar=API_KEY, help="Of URLs: the server's key.")]
Rows = Annotated[int | None, typer.Option(min=1, help="Rows to accept; default: what all pictures give.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each picture may be used.")]
Turns = Annotated[int, typer.Option(min=1, max=20, help="Questions of a conversation.")]
NumAnswers = Annotated[int, typer.Option("--answers", min=2, max=64, help="preferences: answers to compare.")]
FormatName = Annotated[
    str | None,
    typer.Option("--format", help="critique, preferences: how is judged, as `llavakit judge --format`."),
]
PromptFile = Annotated[Path | None, typer.Option("--prompt", help="A prompt file instead of the kind's own.")]
Shots = Annotated[Path | None, typer.Option(help="Examples: rows of facts with what to write as `reply`.")]
Temperature = Annotated[float, typer.Option(min=0, callback=finite, help="Of the writer; 0 is greedy.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of an answer.")]
Attempts = Annotated[
    int, typer.Option(min=1, help="At an answer that cannot be read, each with another seed.")
]
Schema = Annotated[
    bool, typer.Option("--schema/--no-schema", help="Whether a server is told the shape of its answer.")
]
AtOnce = Annotated[int, typer.Option(min=1, max=1024, help="Of URLs: the most requests under way.")]
Seconds = Annotated[float, typer.Option(min=1, callback=finite, help="Of URLs: what an answer may take.")]
Language = Annotated[str | None, typer.Option(help="What answers must be in, as en; default: any.")]
Similar = Annotated[
    float, typer.Option(min=0.05, max=1, callback=finite, help="Texts that overlap so much are doubles.")
]
Near = Annotated[
    int | None, typer.Option(min=0, max=64, help="Drop pictures whose look differs by so many bits of 256.")
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        help="What will be measured with: files, folders, benchmarks (NAME or NAME=DIR); repeatable."
    ),
]
Ngram = Annotated[int, typer.Option(min=2, help="Words in a row that a question may not share with them.")]
Price = Annotated[
    str | None, typer.Option(help="What a million tokens read and a million said cost, as 2.5,10.")
]
BatchOut = Annotated[
    Path | None, typer.Option(help="Ask nobody: write the requests as an OpenAI batch file, NAME.jsonl.")
]
BatchIn = Annotated[list[Path] | None, typer.Option(help="Results of a batch; may be repeated.")]
Parquet = Annotated[bool, typer.Option("--parquet", help="Write the rows as a table too.")]


def synth(
    words: Words, images: Pictures = None, by: By = None, out: Out = None, folder: Folder = None,
    facts: FactFiles = None, unknown: Unknown = "stop", see: See = False, captioner: Captioner = None,
    judge: JudgeBy = None, blind: Blind = None, template: Template = None,
    api_key: Key = None, rows: Rows = None, rounds: Rounds = 1, seed: Seed = 0, turns: Turns = 3,
    num_answers: NumAnswers = 5, format_name: FormatName = None, prompt: PromptFile = None, shots: Shots = None,
    temperature: Temperature = 0.7, max_tokens: MaxTokens = 1024, attempts: Attempts = 3, schema: Schema = True,
    at_once: AtOnce = 32, seconds: Seconds = 600, language: Language = None, similar: Similar = 0.8,
    near: Near = None, against: Against = None, ngram: Ngram = 8, price: Price = None, batch_out: BatchOut = None,
    batch_in: BatchIn = None, parquet: Parquet = False,
) -> None:  # fmt: skip
    """Make training data from pictures: instructions, captions, critiques, pairs and video data.

    Every answer is kept: the same command goes on after Ctrl-C or a crash. Exit code 1 if there are fewer rows than
    were asked for, or a server did not answer.
    """
    if words[0] in (LIST, ACCEPTED):
        _tell(words)
        return
    is_preview = words[0] == PREVIEW
    kind, *more = words[is_preview:] or [""]
    from llavakit.synth.kinds import KINDS
    from llavakit.synth.order import Order
    from llavakit.synth.settings import SynthConfig

    pick(KINDS, kind, "kind of data")
    if more or images is None or out is None:
        raise ConfigError(
            f"llavakit synth {'preview ' * is_preview}{kind} --images DIR_OR_FILE --by WHO --out NAME.jsonl"
        )
    given = {
        "kind": kind, "rows": None if is_preview else rows, "rounds": rounds, "seed": seed, "turns": turns,
        "sees": see or KINDS[kind].always_sees, "answers": num_answers, "format": format_name,
        "temperature": temperature, "max_tokens": max_tokens, "attempts": attempts, "schema_sent": schema,
        "language": language, "similar": similar, "near": near, "ngram": ngram, "price": read_prices(price),
        "on_unknown": unknown,
    }  # fmt: skip
    config = make(SynthConfig, given, where="llavakit synth")
    files = [Path(name) for name in against or [] if Path(name).exists()]
    order = Order(config, images, out, folder, tuple(facts or ()), prompt, shots, tuple(files), batch_out)
    how = {"at_once": at_once, "seconds": seconds, "start": min(4, at_once)}
    who = {"by": by, "captioner": captioner, "judge": judge, "blind": blind}
    openers = {
        role: partial(_open, where, template, api_key, how)
        for role, where in who.items()
        if where is not None
    }
    sets = [_benchmark(name) for name in against or [] if not Path(name).exists()]
    if is_preview:
        _preview(order, openers, sets, rows or LOOKED_AT)
    else:
        _make(order, openers, sets, batch_in or [], parquet)


def _open(where: str, template: str | None, api_key: str | None, how: dict[str, Any]) -> tuple[Any, Any]:
    """A model, or a server, whose address may end with `#` and the model to ask there."""
    url, mark, name = where.partition("#")
    if mark and url.startswith(("http://", "https://")):
        return open_judge(url, template, name, api_key, **how)
    return open_judge(where, template, None, api_key, **how)


def _tell(words: list[str]) -> None:
    """What asks nobody: the kinds, or what people said of a sample."""
    if words[0] == LIST:
        from llavakit.synth.kinds import KINDS

        for name, kind in KINDS.items():
            say(f"{name:<18}{kind.about}")
        return
    from llavakit.synth.people import read_acceptance, tell_acceptance

    if len(words) != 2:
        raise ConfigError("llavakit synth accepted NAME.votes")
    say(tell_acceptance(read_acceptance(Path(words[1]))))


def _benchmark(name: str) -> Any:
    """The questions of a benchmark as a set that data is held against."""
    from llavakit.eval.tasks.table import BENCHMARKS

    task, _, folder = name.partition("=")
    if task not in BENCHMARKS:
        raise ConfigError(
            f"--against {name!r}: neither a file, a folder, nor a benchmark (llavakit eval list)"
        )
    questions = BENCHMARKS[task].questions(Path(folder or "."))
    return name, [(each.conversation.media, [each.conversation.messages[0].text]) for each in questions]


def _preview(order: Any, openers: Any, sets: Any, count: int) -> None:
    from llavakit.synth.order import open_job
    from llavakit.synth.preview import estimate, look, tell, write_preview

    with open_job(order, openers, sets) as job:
        found = look(job, count)
        for line in tell(found):
            say(line)
        say("")
        say(estimate(job, found))
        say(f"with the pictures: {write_preview(job, found)}")


def _make(order: Any, openers: Any, sets: Any, batch_in: list[Path], parquet: bool) -> None:
    from llavakit.synth.card import card_of, write_card
    from llavakit.synth.figures import FOR_PEOPLE
    from llavakit.synth.order import open_job
    from llavakit.synth.people import sample_of, write_sample
    from llavakit.synth.rows import write_parquet
    from llavakit.synth.run import run_job
    from llavakit.synth.tell import tell_result

    with open_job(order, openers, sets) as job:
        result = run_job(job, batch_in)
        if job.batch is not None and result.tally.missing:
            job.batch.rows.publish(whole=True)
            say(f"{job.batch.rows.count} requests: {order.batch_out}; their results: --batch-in")
            return
        for line in tell_result(job, result):
            say(line)
        if result.published:
            write_card(job, result)
            write_sample(result.sample.rows(FOR_PEOPLE), job.out)
            say(f"rows: {job.out}; card: {card_of(job.out)}, .html")
            say(f"for people: llavakit collect {sample_of(job.out)} --out NAME.votes")
            if parquet:
                say(f"as a table: {write_parquet(job.out)}")
    if result.trouble:
        say(f"stopped: {result.trouble}")
    if result.trouble or result.tally.lost or result.tally.accepted < (order.config.rows or 1):
        raise typer.Exit(1)
