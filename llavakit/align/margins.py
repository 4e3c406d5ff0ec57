"""How far a reward tells the answers of pairs apart, and whether it looks at the pictures to do so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llavakit.align.reward_model import Score, Unscorable
from llavakit.core.errors import DataError
from llavakit.core.progress import bar, say
from llavakit.data.blind import Pair, swap_media
from llavakit.data.mixture import Mixture
from llavakit.data.records import FAULTS, Record
from llavakit.text.conversation import Conversation

WINDOW = 128  # pairs that exchange their pictures among each other


class Scorer(Protocol):
    """What gives an answer a number: a reward model, or the reward that DPO has learned."""

    def scores(self, conversations: Sequence[Conversation], /) -> Sequence[Score]:
        """Of the last answer of each conversation."""
        ...


@dataclass
class Margins:
    """Sums over pairs: chosen minus rejected, and how often that is positive."""

    pairs: int = 0
    margin: float = 0.0
    right: float = 0.0  # a tie is half

    def add(self, chosen: float, rejected: float) -> None:
        self.pairs += 1
        self.margin += chosen - rejected
        self.right += 0.5 if chosen == rejected else float(chosen > rejected)

    def __str__(self) -> str:
        return f"margin {self.margin / self.pairs:+.3f}, {self.right / self.pairs:.1%} of {self.pairs} right"


@dataclass(frozen=True)
class BlindReport:
    """The same pairs with their own pictures and with those of others; and pairs that could not be read."""

    seen: Margins
    blind: Margins
    unread: int


def compare_blind(mixture: Mixture, scorer: Scorer) -> BlindReport:
    """Score all pairs that have pictures or videos, with their own and with other ones.

    A pair whose record or media cannot be read, and one without another to exchange with, is left out.
    """
    seen, blind, unread = Margins(), Margins(), 0
    with bar("blind control", len(mixture)) as progress:
        for first in range(0, len(mixture), WINDOW):
            records = mixture[first : first + WINDOW]
            pairs = [pair for record in records if (pair := _read(record)) is not None]
            unread += len(records) - len(pairs)
            for pair, other in zip(pairs, swap_media(pairs), strict=True):
                if other is None:
                    continue
                try:
                    scores = scorer.scores([*pair, *other])
                except (DataError, *FAULTS):
                    unread += 1
                    continue
                known = [score for score in scores if not isinstance(score, Unscorable)]
                if len(known) < len(scores):
                    unread += 1
                    continue
                seen.add(*known[:2])
                blind.add(*known[2:])
            progress.advance(len(records))
    return BlindReport(seen, blind, unread)


def tell_blind(found: BlindReport) -> None:
    """A line for the own pictures, and one for those of other pairs."""
    if not found.seen.pairs:
        say("blind control: no pair has pictures that another could lend")
        return
    say(f"reward, own pictures: {found.seen}")
    say(f"reward, pictures of other pairs: {found.blind}; what is told apart there needs no looking")
    if found.unread:
        say(f"blind control: {found.unread} pair(s) could not be read")


def _read(record: Record) -> Pair | None:
    try:
        return record.pair()
    except DataError:
        return None
