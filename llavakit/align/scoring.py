"""`llavakit reward`: the answers of a file scored by a reward model, a line each; and how good the model is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llavakit.align.reward_model import Score, Unscorable
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.journal import Row, open_journal
from llavakit.core.progress import bar
from llavakit.data.cases import Case, brings_answers, read_case
from llavakit.data.facts import Facts
from llavakit.data.records import Record, read_records
from llavakit.rules.agreement import Figures, group_accuracy, pair_figures, pearson
from llavakit.rules.means import mean
from llavakit.text.conversation import Conversation

AT_ONCE = 32  # records that are read, scored and written together


class Scorer(Protocol):
    """A reward model, here or behind a URL."""

    @property
    def wants_facts(self) -> bool: ...

    def scores(
        self, conversations: Sequence[Conversation], facts: Sequence[Sequence[str]] | None = None
    ) -> list[Score]: ...


@dataclass(frozen=True)
class Answered:
    """A record's answers, each as a conversation that ends with it."""

    record: Record
    case: Case
    talks: tuple[Conversation, ...]

    def row(self, scores: Sequence[Score]) -> Row:
        """A line of the output."""
        return {
            "line": self.record.line,
            "id": self.case.id,
            "scores": [None if isinstance(score, Unscorable) else score for score in scores],
            "problems": [score.reason for score in scores if isinstance(score, Unscorable)],
            "label": self.case.label,
            "group": self.case.group,
            "lengths": [len(talk.messages[-1].text) for talk in self.talks],
        }


def read_answers(record: Record) -> Answered:
    """Pairs of any dialect, benchmark rows and our own (data/cases.py), or one conversation: its last answer."""
    if not brings_answers(record.raw):
        talk, rest = record.read()
        case = Case(str(rest.get("id") or record.line), "", (), (talk.messages[-1].text,))
        return Answered(record, case, (talk,))
    case = read_case(record)
    return Answered(record, case, case.conversations())


def score_file(
    model: Scorer, path: Path, out: Path, *, who: str, facts: Facts | None, withhold: bool = False
) -> list[Row]:
    """Score every record of a file into `out`; one that is there already is not scored again. Returns all rows.

    A model that was taught with facts must be given some, or they are withheld on purpose.

    ConfigError if `out` is of another file or model, DataError for a record that cannot be read or has no facts.
    """
    if facts is None and model.wants_facts and not withhold:
        raise ConfigError(f"{who} was taught with facts: give them (--facts, --fact-field), or --no-facts")
    records = read_records(path)
    head = {"file": str(path.resolve()), "digest": records.digest(), "model": who, "facts": facts is not None}
    with open_journal(out) as (rows, journal), bar("reward", len(records)) as progress:
        if not rows:
            journal.add([head])
        elif rows[0] != head:
            raise ConfigError(f"{out} has scores of another file or model; move it, or choose another --out")
        done = rows[1:]
        progress.advance(len(done))
        while len(done) < len(records):
            answered = [read_answers(record) for record in records[len(done) : len(done) + AT_ONCE]]
            new = _score(model, answered, facts)
            journal.add(new)
            done += new
            progress.advance(len(new))
    return done


def _score(model: Scorer, answered: Sequence[Answered], facts: Facts | None) -> list[Row]:
    talks = [talk for each in answered for talk in each.talks]
    known = None
    if facts is not None:
        known = [fact for each in answered for fact in [_facts(each, facts)] * len(each.talks)]
    found = iter(model.scores(talks, known))
    return [each.row([next(found) for _ in each.talks]) for each in answered]


def _facts(answered: Answered, facts: Facts) -> tuple[str, ...]:
    record = answered.record
    try:
        return facts.of(answered.talks[0], record.raw)
    except DataError as error:
        raise DataError(error.what, path=record.path, line=record.line) from None


def figures_of(rows: Iterable[Row]) -> Figures:
    """How many answers have a score, the range of scores, how they go with length; with labels how often right."""
    kept = list(rows)
    scores = [score for row in kept for score in row["scores"]]
    known = [(score, size) for row in kept for score, size in zip(row["scores"], row["lengths"], strict=True)]
    found = [(score, size) for score, size in known if score is not None]
    figures: Figures = {"answers": len(scores), "unscorable": len(scores) - len(found)}
    if found:
        values = [score for score, _ in found]
        figures |= {"lowest": min(values), "mean": mean(values), "highest": max(values)}
        figures["length pearson"] = pearson(values, [float(size) for _, size in found])
    pairs = [row for row in kept if row["label"] is not None and len(row["scores"]) == 2]
    if pairs:
        said, labels = [margin(row) for row in pairs], [row["label"] for row in pairs]
        longer = [row["lengths"][1] - row["lengths"][0] for row in pairs]
        figures |= pair_figures(said, labels, longer)
        groups = [row["group"] for row in pairs]
        if any(groups):
            figures |= group_accuracy(said, labels, groups)
    return figures


def margin(row: Row) -> float | None:
    """By how much the second answer scores higher; None where one has no score."""
    first, second = row["scores"]
    return None if first is None or second is None else second - first


def draw_figures(figures: dict[str, Any]) -> str:
    """A line a figure."""
    counts = ("answers", "unscorable")
    return "\n".join(
        f"{n:<24}{v:>10,.0f}" if n in counts else f"{n:<24}{v:>10.4f}" for n, v in figures.items()
    )
