"""A collection that runs: which pair an annotator sees next, and what becomes of his answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from llavakit.align.collect.items import Item
from llavakit.core.errors import DataError
from llavakit.core.journal import Journal
from llavakit.data.votes import Choice, Vote, Votes, write_vote

Side = Literal["left", "right", "tie", "both_bad", "skip"]
LONGEST_NAME = 80
LONGEST_LOOK = 86400.0  # seconds


@dataclass(frozen=True)
class Rules:
    """How a collection is run."""

    votes: int = 0  # annotators a pair; 0: everybody judges everything
    gold_every: int = 10  # of so many pairs, one is a gold item as long as there are any
    always_ask_both: bool = False  # also which answer is more helpful where one is less hallucinated


@dataclass(frozen=True)
class Task:
    """What an annotator is shown."""

    item: Item
    left: Literal[1, 2]  # which answer stands on the left
    done: int  # pairs that the annotator has judged
    open: int  # that are left for him, this one too if he has not judged it
    earlier: Vote | None  # what he said of it before

    @property
    def answers(self) -> tuple[str, str]:
        """Left and right."""
        one, two = self.item.asked.answers
        return (one, two) if self.left == 1 else (two, one)


class Session:
    """Who has judged what, in memory as in the file."""

    def __init__(
        self, items: Sequence[Item], gold: Sequence[Item], votes: Votes, journal: Journal, rules: Rules
    ) -> None:
        """`votes` is what the file of `journal` holds already."""
        self.items = {item.name: item for item in items} | {item.name: item for item in gold}
        self.gold = {item.name for item in gold}
        self.votes, self.rules = votes, rules
        self._journal = journal
        self._looking: dict[str, str] = {}  # annotator -> the pair he has before him

    def task(self, annotator: str) -> Task | None:
        """The next pair of an annotator; None where nothing is left for him."""
        check_name(annotator)
        plain, gold = self._unseen(annotator)
        if not plain:
            self._looking.pop(annotator, None)
            return None
        if gold and self._is_gold_turn(annotator, len(self.votes.by.get(annotator, []))):
            chosen = gold[0]
        else:
            free = (name for name in plain if not self._is_full(name, annotator))
            chosen = next(free, plain[0])  # better one vote too many than a pair that nobody ends
        self._looking[annotator] = chosen
        return self._show(chosen, annotator)

    def task_before(self, annotator: str, name: str | None) -> Task | None:
        """The pair that the annotator judged before another one, or last of all; None if there is none."""
        check_name(annotator)
        history = [each for each in self.votes.by.get(annotator, []) if each in self.items]
        place = history.index(name) if name in history else len(history)
        return self._show(history[place - 1], annotator) if place else None

    def vote(
        self, annotator: str, name: str, hallucination: Side, helpfulness: Side | None, seconds: float
    ) -> Vote:
        """Take an answer and write it down, at once and for good. DataError for what was not asked so."""
        check_name(annotator)
        item = self.items.get(name)
        if item is None:
            raise DataError("this pair is none of the collection")
        both = hallucination == "tie" or (self.rules.always_ask_both and hallucination in ("left", "right"))
        if both is (helpfulness is None):
            raise DataError(f"which answer is more helpful was {'not answered' if both else 'not asked'}")
        if not 0 <= seconds <= LONGEST_LOOK:
            raise DataError("the seconds are not those of a day")
        left = self._left(name, annotator)
        first = _choice(hallucination, left)
        second = None if helpfulness is None else _choice(helpfulness, left)
        vote = Vote(
            item=name,
            annotator=annotator,
            verdict=second if first == "tie" and second is not None else first,
            hallucination=first,
            helpfulness=second,
            left=left,
            seconds=round(seconds, 3),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            gold=item.known if name in self.gold else None,
        )
        self._journal.add([write_vote(vote, item.asked)])
        self.votes.add(vote, item.asked)
        self._looking.pop(annotator, None)
        return vote

    def _show(self, name: str, annotator: str) -> Task:
        mine = self.votes.by.get(annotator, [])
        earlier = self.votes.of.get(name, {}).get(annotator)
        return Task(
            self.items[name], self._left(name, annotator), len(mine), self._to_come(annotator), earlier
        )

    def _unseen(self, annotator: str) -> tuple[list[str], list[str]]:
        """(pairs, gold items) that are left for an annotator."""
        unseen = [name for name in self.items if annotator not in self.votes.of.get(name, {})]
        plain = [name for name in unseen if name not in self.gold and not self._is_full(name)]
        return plain, [name for name in unseen if name in self.gold]

    def _to_come(self, annotator: str) -> int:
        """How many turns an annotator has yet: so the count tells nobody which of them are gold items."""
        plain, gold = map(len, self._unseen(annotator))
        begun = turn = len(self.votes.by.get(annotator, []))
        while plain:
            is_gold = gold > 0 and self._is_gold_turn(annotator, turn)
            plain, gold, turn = plain - (not is_gold), gold - is_gold, turn + 1
        return turn - begun

    def _is_full(self, name: str, annotator: str | None = None) -> bool:
        """Whether enough people have judged a pair; with an annotator, others who look at it count too."""
        if not self.rules.votes:
            return False
        decided = sum(vote.decided is not None for vote in self.votes.of.get(name, {}).values())
        looking = sum(seen == name and who != annotator for who, seen in self._looking.items())
        return decided + (looking if annotator is not None else 0) >= self.rules.votes

    def _is_gold_turn(self, annotator: str, turn: int) -> bool:
        """One turn of every `gold_every`, which one is drawn anew each time."""
        block, turn = divmod(turn, self.rules.gold_every)
        return turn == _draw(f"gold {annotator} {block}") % self.rules.gold_every

    def _left(self, name: str, annotator: str) -> Literal[1, 2]:
        """Which answer stands on the left: drawn for every annotator, and the same whenever he comes back."""
        return 1 if _draw(f"left {annotator} {name}") % 2 else 2


def check_name(annotator: str) -> None:
    """DataError for what is no name."""
    if (
        not annotator
        or annotator != annotator.strip()
        or len(annotator) > LONGEST_NAME
        or not annotator.isprintable()
    ):
        raise DataError(
            f"an annotator's name has 1 to {LONGEST_NAME} letters, none of them a control character"
        )


def _choice(side: Side, left: Literal[1, 2]) -> Choice:
    if side == "left":
        return left
    if side == "right":
        return 2 if left == 1 else 1
    return side


def _draw(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
