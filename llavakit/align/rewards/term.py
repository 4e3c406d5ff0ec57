"""What a term of a reward is: rollouts in, a number for each, or why there is none."""

from collections.abc import Callable, Sequence
from typing import Protocol

from llavakit.align.reward_model import Score
from llavakit.align.rollouts import Rollout


class Term(Protocol):
    """Scores many answers at once."""

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]: ...

    def close(self) -> None:
        """Let go of processes and connections; scoring again would open them anew."""
        ...


class Each:
    """A term that looks at one answer after the other."""

    def __init__(self, score: Callable[[Rollout], Score]) -> None:
        self.score = score

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [self.score(rollout) for rollout in rollouts]

    def close(self) -> None:
        """Holds nothing."""
