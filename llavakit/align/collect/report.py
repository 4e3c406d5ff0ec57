"""What a collection came to: votes, agreement, who does how on gold items, and whether the place matters."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table
from rich.text import Text

from llavakit.data.dialects.judged import settle
from llavakit.data.votes import Choice, Vote, Votes
from llavakit.rules.flips import sign_test
from llavakit.rules.krippendorff import Metric, krippendorff_alpha

NOMINAL: dict[Choice | None, int] = {1: 1, 2: 2, "tie": 3, "both_bad": 4}
ORDINAL: dict[Choice | None, int] = {1: 1, "tie": 2, 2: 3}  # the scale from one answer to the other
QUESTIONS: dict[str, Callable[[Vote], Choice | None]] = {
    "verdict": lambda vote: vote.verdict,
    "less hallucinated": lambda vote: vote.hallucination,
    "more helpful": lambda vote: vote.helpfulness,
}
CHOICES: tuple[Choice, ...] = ("tie", "both_bad", "skip")
HURRIED = 2.0  # seconds: nobody has read two answers by then


@dataclass(frozen=True)
class Share:
    """`part` of `whole`; written as 3 of 4 (75 %)."""

    part: int
    whole: int

    def __str__(self) -> str:
        return f"{self.part} of {self.whole} ({100 * self.part / self.whole:.0f} %)" if self.whole else "-"


@dataclass(frozen=True)
class Person:
    """An annotator's votes in figures."""

    name: str
    votes: int
    gold: Share  # right answers to gold items
    left: Share  # of the votes for one answer, those for the one on the left
    hurried: int  # votes within HURRIED seconds
    seconds: float  # median


def alpha(votes: Votes, question: Callable[[Vote], Choice | None], metric: Metric) -> float | None:
    """Krippendorff's alpha of a question over the pairs that are no gold items."""
    scale = NOMINAL if metric == "nominal" else ORDINAL
    units = [
        [scale[value] for vote in said.values() if vote.gold is None and (value := question(vote)) in scale]
        for said in votes.of.values()
    ]
    return krippendorff_alpha(units, metric)


def describe(name: str, votes: Sequence[Vote]) -> Person:
    """What there is to say of some votes; of all of them, or of one annotator's."""
    gold = [vote for vote in votes if vote.gold is not None]
    won = [vote for vote in votes if vote.verdict in (1, 2)]
    return Person(
        name,
        len(votes),
        Share(sum(vote.verdict == vote.gold for vote in gold), len(gold)),
        Share(sum(vote.verdict == vote.left for vote in won), len(won)),
        sum(vote.seconds < HURRIED for vote in votes),
        median(vote.seconds for vote in votes) if votes else 0.0,
    )


def report_lines(votes: Votes) -> list[str]:
    """The whole collection in a few lines."""
    all_votes = votes.all
    data = [said for said in votes.of.values() if all(vote.gold is None for vote in said.values())]
    settled = Counter(settle(vote.decided for vote in said.values()) for said in data)
    with_winner = settled[1] + settled[2]
    everybody = describe("all", all_votes)
    lines = [
        f"{len(all_votes)} votes of {len(votes.by)} annotator(s) on {len(data)} pairs and "
        f"{len(votes.of) - len(data)} gold items; {votes.changed} vote(s) changed later",
        f"pairs: {with_winner} with a better answer, {settled['tie']} ties, {settled['both_bad']} both bad, "
        f"{settled[None]} undecided",
    ]
    for name, question in QUESTIONS.items():
        said = Counter(value for vote in all_votes if (value := question(vote)) is not None)
        counts = ", ".join(f"{said[choice]} {choice}" for choice in CHOICES if said[choice])
        figures = [alpha(votes, question, metric) for metric in ("nominal", "ordinal")]
        agreement = ", ".join("not defined" if figure is None else f"{figure:.3f}" for figure in figures)
        lines.append(
            f"{name}: {said[1] + said[2]} for one answer{', ' if counts else ''}{counts}; "
            f"Krippendorff's alpha nominal, ordinal: {agreement}"
        )
    left = everybody.left
    luck = sign_test(left.part, left.whole - left.part)
    lines.append(f"the answer on the left won {left}; p = {luck:.2g} if places play no part")
    return lines


def report_table(votes: Votes) -> Table:
    """A row an annotator."""
    table = Table(box=None, header_style="bold")
    for column in ("annotator", "votes", "gold right", "left won", f"under {HURRIED:g} s", "median seconds"):
        table.add_column(column, justify="left" if column == "annotator" else "right")
    for name, items in votes.by.items():
        person = describe(name, [votes.of[item][name] for item in items])
        table.add_row(
            Text(name), str(person.votes), str(person.gold), str(person.left), str(person.hurried),
            f"{person.seconds:.1f}",
        )  # fmt: skip
    return table
