"""`llavakit judge`: answers judged one by one or two by two, and how good a judge is."""

from dataclasses import dataclass
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
    from llavakit.data.cases import of_answers, read_cases

    limits = {"at_once": at_once, "seconds": seconds}
    ask = _Ask(1, format_name, expected, max_tokens, gold, bar, most_failed, price)
    cases = of_answers(read_cases(file), 1, 1, file)
    ask.run(cases, out, judge, template, model_name, api_key, limits)


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
    from llavakit.data.cases import of_answers, read_cases

    limits = {"at_once": at_once, "seconds": seconds}
    ask = _Ask(2, format_name, expected, max_tokens, gold, bar, most_failed, price)
    cases = of_answers(read_cases(file), 2, 2, file)
    ask.run(cases, out, judge, template, model_name, api_key, limits, both=not one_order)


def rank(
    file: Cases,
    judge: JudgeAt,
    out: Out,
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
    """Rank several answers to a question, all shown at once.

    Exit code 1 if too many asks have no ranking: they are counted by why and never become one.
    """
    from llavakit.critic.formats import SEVERAL
    from llavakit.data.cases import of_answers, read_cases

    limits = {"at_once": at_once, "seconds": seconds}
    ask = _Ask(SEVERAL, None, False, max_tokens, gold, bar, most_failed, price)
    cases = of_answers(read_cases(file), 2, SEVERAL, file)
    ask.run(cases, out, judge, template, model_name, api_key, limits, both=False)


def prefer(
    file: Annotated[Path, typer.Argument(help="Cases of two answers or more, or rollouts (docs/judge.md).")],
    judge: JudgeAt,
    out: Annotated[Path, typer.Option(help="Where the pairs go; verdicts are kept beside them.")],
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
    """Make pairs for `llavakit train dpo` out of several answers to a prompt: the best against the worst.

    All answers are compared two by two in both orders. Exit code 1 if too many comparisons have no verdict.
    """
    from llavakit.critic.preferences import read_candidates, write_preferences

    limits = {"at_once": at_once, "seconds": seconds}
    ask = _Ask(2, format_name, expected, max_tokens, gold, bar, most_failed, price)
    groups = read_candidates(file)
    cases = [case for group in groups for case in group.pairs().values()]
    if not cases:
        raise ConfigError(f"{file}: all answers to each prompt are alike, so there is nothing to compare")
    kept = out.with_suffix(".verdicts.jsonl")
    rows = ask.run(cases, kept, judge, template, model_name, api_key, limits)
    made = write_preferences(groups, rows, out)
    say(
        f"{made.pairs} pairs: {out}; {made.alike} prompts whose answers are worth as much, {made.unread} unread"
    )


def report(
    file: Annotated[Path, typer.Argument(help="Verdicts that `pointwise`, `pairwise` or `rank` wrote.")],
) -> None:
    """How far a judge agrees with the labels of the cases, and what place and length do to it."""
    from llavakit.critic.report import draw_report, read_report

    say(draw_report(read_report(file)))


@dataclass(frozen=True)
class _Ask:
    """What the verbs that ask a judge have in common."""

    answers: Literal[1, 2, 26]
    format_name: str | None
    expected: bool
    max_tokens: int
    gold: str | None
    bar: float
    most_failed: float
    price: str | None

    def run(
        self,
        cases: Any,
        out: Path,
        where: str,
        template: str | None,
        model_name: str | None,
        api_key: str | None,
        limits: dict[str, Any],
        *,
        both: bool = True,
    ) -> list[Any]:
        """The verdicts' rows. What can be known before a judge is opened is refused before."""
        from llavakit.critic.formats import choose
        from llavakit.critic.gold import check_gold
        from llavakit.critic.judge import WORDS, Judge
        from llavakit.critic.run import judge_file

        form, prices, golden = (
            choose(self.format_name, self.answers),
            read_prices(self.price),
            self._golden(cases),
        )
        responder, names = open_judge(where, template, model_name, api_key, **limits)
        judge = Judge(
            responder, form, WORDS.model_copy(update={"max_tokens": self.max_tokens}), self.expected
        )
        if golden:
            found = check_gold(judge, golden, self.bar)
            say(f"gold set: agrees with {found:.2f} of {len(golden)} cases (the bar is {self.bar:g})")
        names["judge"] = names.pop("model")
        outcome = judge_file(judge, cases, out, who=names, both=both, most_failed=self.most_failed)
        say(outcome.spent.tell(prices))
        for problem, count in sorted(outcome.problems.items()):
            say(f"no score: {count} {problem}")
        say(f"verdicts: {out}")
        if outcome.failed > self.most_failed:
            share = f"{outcome.failed:.2f} of {outcome.wanted} asks have no score"
            say(f"failed: {share}, more than {self.most_failed:g}")
            raise typer.Exit(1)
        return outcome.rows

    def _golden(self, cases: Any) -> Any:
        from llavakit.critic.gold import drawn_cases
        from llavakit.data.cases import of_answers, read_cases

        least = min(2, self.answers)

        if self.gold is None:  # drawn cases say nothing about prompts that the cases bring
            return [] if all(case.asked for case in cases) else drawn_cases(self.answers)
        if self.gold == "none":
            return []
        path = Path(self.gold)
        return of_answers(read_cases(path), least, self.answers, path)


def read_prices(text: str | None) -> tuple[float, float] | None:
    """What `--price` says; ConfigError for anything but two numbers."""
    if text is None:
        return None
    try:
        read, said = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--price {text!r} is not two numbers, as 2.5,10") from None
    return read, said
