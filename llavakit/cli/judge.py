"""`llavakit judge`: answers judged one by one or two by two, and how good a judge is."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llavakit.cli.asked import open_judge
from llavakit.cli.options import API_KEY, Template, finite
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say

Cases = Annotated[Path, typer.Argument(help="Cases as JSON lines, JSON or Parquet (docs/judge.md).")]
JudgeAt = Annotated[
    str, typer.Option("--judge", help="Who judges: a checkpoint, run directory or hub id, or a URL.")
]
Out = Annotated[Path, typer.Option(help="Where the verdicts go, a line each; a run goes on from there.")]
FormatName = Annotated[
    str | None,
    typer.Option("--format", help="How it is asked and answers; default: the first of docs/judge.md."),
]
ModelName = Annotated[
    str | None, typer.Option(help="Of a URL: the model to ask, where the server has several.")
]
Key = Annotated[str | None, typer.Option(envvar=API_KEY, help="Of a URL: the server's key.")]
Expected = Annotated[
    bool,
    typer.Option("--expected", help="Weigh all verdicts by the judge's probabilities; generate nothing."),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of a verdict with its reasons.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Of a URL: requests under way.")]
Seconds = Annotated[float, typer.Option(min=1, callback=finite, help="Of a URL: what an answer may take.")]
Gold = Annotated[
    str | None,
    typer.Option(help="Labelled cases judged first; default: twelve drawn ones; `none`: no such test."),
]
Bar = Annotated[
    float,
    typer.Option(min=0, max=1, help="The least agreement with the gold set; below it nothing is judged."),
]
MostFailed = Annotated[
    float,
    typer.Option(min=0, max=1, help="The largest share of asks without a score; above it the run fails."),
]
Price = Annotated[
    str | None, typer.Option(help="What a million tokens read and a million said cost, as 2.5,10.")
]


def pointwise(
    file: Cases,
    judge: JudgeAt,
    out: Out,
    format_name: FormatName = None,
    expected: Expected = False,
    template: Template = None,
    model_name: ModelName = None,
    api_key: Key = None,
    max_tokens: MaxTokens = 1024,
    at_once: AtOnce = 16,
    seconds: Seconds = 600,
    gold: Gold = None,
    bar: Bar = 0.6,
    most_failed: MostFailed = 0.05,
    price: Price = None,
) -> None:
    """Give every answer of a file a score.

    Exit code 1 if too many have none: unread, outside the scale, errors, time-outs and broken pictures are counted
    apart and never become scores.
    """
    who = {"where": judge, "template": template, "model_name": model_name, "api_key": api_key}
    _judge(
        file, out, 1, who | {"at_once": at_once, "seconds": seconds}, format_name, expected, max_tokens,
        gold=gold, bar=bar, both=False, most_failed=most_failed, price=price,
    )  # fmt: skip


def pairwise(
    file: Cases,
    judge: JudgeAt,
    out: Out,
    format_name: FormatName = None,
    expected: Expected = False,
    one_order: Annotated[
        bool, typer.Option("--one-order", help="Show the answers in the order of the file only.")
    ] = False,
    template: Template = None,
    model_name: ModelName = None,
    api_key: Key = None,
    max_tokens: MaxTokens = 1024,
    at_once: AtOnce = 16,
    seconds: Seconds = 600,
    gold: Gold = None,
    bar: Bar = 0.6,
    most_failed: MostFailed = 0.05,
    price: Price = None,
) -> None:
    """Say which of two answers is better, in both orders.

    Exit code 1 if too many asks have no verdict: they are counted by why and never become one.
    """
    who = {"where": judge, "template": template, "model_name": model_name, "api_key": api_key}
    _judge(
        file, out, 2, who | {"at_once": at_once, "seconds": seconds}, format_name, expected, max_tokens,
        gold=gold, bar=bar, both=not one_order, most_failed=most_failed, price=price,
    )  # fmt: skip


def report(
    file: Annotated[Path, typer.Argument(help="Verdicts that `pointwise` or `pairwise` wrote.")],
) -> None:
    """How far a judge agrees with the labels of the cases, and what place and length do to it."""
    from llavakit.critic.report import draw_report, read_report

    say(draw_report(read_report(file)))


def _judge(
    file: Path,
    out: Path,
    answers: Literal[1, 2],
    who: dict[str, Any],
    format_name: str | None,
    expected: bool,
    max_tokens: int,
    *,
    gold: str | None,
    bar: float,
    both: bool,
    most_failed: float,
    price: str | None,
) -> None:
    from llavakit.critic.formats import choose
    from llavakit.critic.gold import check_gold, drawn_cases
    from llavakit.critic.judge import WORDS, Judge
    from llavakit.critic.run import judge_file
    from llavakit.data.cases import of_answers, read_cases

    form, prices = choose(format_name, answers), _prices(price)
    cases = of_answers(read_cases(file), answers, answers, file)
    if gold is None:  # drawn cases say nothing about prompts that the cases bring
        golden = [] if all(case.asked for case in cases) else drawn_cases(answers)
    else:
        golden = [] if gold == "none" else [*of_answers(read_cases(Path(gold)), answers, answers, Path(gold))]
    responder, names = open_judge(**who)
    judge = Judge(responder, form, WORDS.model_copy(update={"max_tokens": max_tokens}), expected)
    if golden:
        found = check_gold(judge, golden, bar)
        say(f"gold set: agrees with {found:.2f} of {len(golden)} cases (the bar is {bar:g})")
    names["judge"] = names.pop("model")
    outcome = judge_file(judge, cases, out, who=names, both=both, most_failed=most_failed)
    say(outcome.spent.tell(prices))
    for problem, count in sorted(outcome.problems.items()):
        say(f"no score: {count} {problem}")
    say(f"verdicts: {out}")
    if outcome.failed > most_failed:
        say(f"failed: {outcome.failed:.2f} of {outcome.wanted} asks have no score, more than {most_failed:g}")
        raise typer.Exit(1)


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        read, said = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--price {text!r} is not two numbers, as 2.5,10") from None
    return read, said
