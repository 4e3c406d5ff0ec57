"""Judging a file: every verdict is kept as it comes, with who gave it and how, and a run goes on where it ended."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, Interrupted
from llavakit.core.journal import Row, open_journal
from llavakit.core.neighbours import neighbours
from llavakit.core.progress import bar
from llavakit.critic.judge import LOST, Ask, Judge, Judgement, label_of, prompt_digest
from llavakit.data.cases import Case
from llavakit.text.conversation import Image
from llavakit.vision.image import digest

CHUNK = 64  # asked at once; what a killed process with a model here loses at most
MOST_FAILED = 0.05


@dataclass
class Spent:
    """What a run has cost."""

    seconds: float = 0.0
    asked: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def add(self, row: Row) -> None:
        self.asked += 1
        self.prompt_tokens += row["prompt_tokens"]
        self.answer_tokens += row["answer_tokens"]

    def tell(self, price: tuple[float, float] | None = None) -> str:
        """One line; `price` is for a million tokens read, and for a million said."""
        text = (
            f"{self.asked} asked in {self.seconds:.1f} s, {self.prompt_tokens} tokens read, "
            f"{self.answer_tokens} said"
        )
        if price is None:
            return text
        cost = (self.prompt_tokens * price[0] + self.answer_tokens * price[1]) / 1e6
        return f"{text}, cost {cost:.4f}"


@dataclass(frozen=True)
class Outcome:
    """The rows of a run, one an ask, in the order of the cases."""

    rows: list[Row]
    wanted: int
    spent: Spent = field(default_factory=Spent)

    @property
    def problems(self) -> Counter[str]:
        """How many verdicts are missing, by why."""
        return Counter(row["problem"] for row in self.rows if row["problem"])

    @property
    def failed(self) -> float:
        """The share of asks without a score; of a run that gave up, those not asked too."""
        return 1 - sum(not row["problem"] for row in self.rows) / self.wanted


def asks_of(cases: Sequence[Case], *, both: bool) -> list[Ask]:
    """Every case, with `both` its two orders one after the other, cases with one picture neighbours."""
    ordered = neighbours(cases, lambda case: case.media[:1])
    orders = (False, True) if both else (False,)
    return [
        Ask(case, swapped) for case in ordered for swapped in (orders if len(case.answers) == 2 else (False,))
    ]


def judge_file(
    judge: Judge,
    cases: Sequence[Case],
    out: Path,
    *,
    who: Mapping[str, Any],
    both: bool = True,
    most_failed: float = MOST_FAILED,
) -> Outcome:
    """Judge what is not judged in `out` yet; `who` names the judge in every row.

    Gives up once so many asks got no answer that their share must pass `most_failed`. Ctrl-C keeps what is done.
    DataError for rows of other cases, prompts, pictures or judges.
    """
    asks, run = asks_of(cases, both=both), record_of(judge, who)
    prompts = {ask.key: prompt_digest(judge.prompt(ask)) for ask in asks}  # before anybody is asked
    lost, spent, start = 0, Spent(), time.monotonic()
    with open_journal(out) as (rows, journal):
        kept = _kept(rows, out, run, prompts)
        left = [ask for ask in asks if ask.key not in kept]
        done = len(asks) - len(left)
        try:
            with bar(f"{judge.format.name} verdicts", len(asks), done=done) as progress:
                for came in _in_chunks(judge, left):
                    row = kept[came.ask.key] = _row(came, prompts[came.ask.key], run)
                    journal.add([row])
                    spent.add(row)
                    done, lost = done + 1, lost + (came.problem in LOST)
                    tokens = f"{spent.prompt_tokens + spent.answer_tokens} tokens"
                    progress.advance(1, f"{tokens}, {lost} without an answer" if lost else tokens)
                    if lost > most_failed * len(asks):
                        break
        except KeyboardInterrupt:
            raise Interrupted(f"{out}: {done} of {len(asks)} judged", "the same command", 130) from None
    spent.seconds = time.monotonic() - start
    return Outcome(list(_in_order(asks, kept)), len(asks), spent)


def _in_chunks(judge: Judge, asks: Sequence[Ask]) -> Iterator[Judgement]:
    for at in range(0, len(asks), CHUNK):
        for _, came in judge.judge(asks[at : at + CHUNK]):
            yield came


def record_of(judge: Judge, who: Mapping[str, Any]) -> Row:
    """What every row says about how it came about: rows of two records are never mixed in a file."""
    sampling = judge.sampling.model_dump(mode="json", exclude_defaults=True)
    return {
        **who,
        "format": judge.format.name,
        "verdict": "expected" if judge.expected else "said",
        "sampling": sampling,
    }


def _in_order(asks: Sequence[Ask], kept: Mapping[tuple[str, bool], Row]) -> Iterator[Row]:
    for ask in asks:
        if ask.key in kept:
            yield kept[ask.key]


def _row(came: Judgement, prompt: str, run: Row) -> Row:
    case = came.ask.case
    lengths = [len(answer) for answer in case.answers]
    return {
        "id": case.id, "swapped": came.ask.swapped, "value": came.ranking or came.value, "problem": came.problem,
        "said": came.said, "finish": came.finish, "label": case.ranking or label_of(case), "group": case.group,
        "lengths": lengths, "prompt": prompt, "pictures": _pictures(case), "prompt_tokens": came.prompt_tokens,
        "answer_tokens": came.answer_tokens, "run": run,
    }  # fmt: skip


def _pictures(case: Case) -> list[str]:
    """Digests of the pictures' files; of one that cannot be read nothing, which `problem` tells."""
    try:
        return [digest(medium.source)[:16] for medium in case.media if isinstance(medium, Image)]
    except DataError:
        return []


def _kept(
    rows: Sequence[Row], out: Path, run: Row, prompts: Mapping[tuple[str, bool], str]
) -> dict[tuple[str, bool], Row]:
    """The rows of an earlier run that count: the last of each ask, without those that got no answer."""
    kept: dict[tuple[str, bool], Row] = {}
    for number, row in enumerate(rows, 1):
        try:
            key, had, prompt, problem = (row["id"], row["swapped"]), row["run"], row["prompt"], row["problem"]
        except KeyError as error:
            raise DataError(f"not a verdict: it has no {error}", path=out, line=number) from None
        if had != run:
            name = next(name for name in {**had, **run} if had.get(name) != run.get(name))
            what = f"its verdicts have {name} {had.get(name)!r}, not {run.get(name)!r}; use another --out"
            raise DataError(what, path=out, line=number)
        if key in prompts and prompts[key] != prompt:
            raise DataError(
                f"case {key[0]!r} was asked in other words; use another --out", path=out, line=number
            )
        if key in prompts and problem not in LOST:
            kept[key] = row
        else:
            kept.pop(key, None)
    return kept
