"""What a run has counted: rows, what was dropped and why with examples, tokens and what they cost."""

from collections import Counter
from dataclasses import dataclass, field

from llavakit.synth.desk import Asked
from llavakit.synth.settings import Price

EXAMPLES = 3  # of what each filter dropped


@dataclass
class Tally:
    """Counted in the order of the items."""

    used: int = 0  # items that were worked on
    accepted: int = 0
    lost: int = 0
    missing: int = 0
    mended: int = 0  # answers whose JSON was broken
    unread: int = 0  # answers that were asked for again
    asked: int = 0  # requests
    known: int = 0  # of them, those that were answered before
    unpriced: int = 0  # those of which no server said how many tokens they had
    prompt_tokens: int = 0
    answer_tokens: int = 0
    paid_prompt: int = 0  # of these, those of this run
    paid_answer: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict
    )  # filter -> (item, what it found)

    def drop(self, reason: str, item: str, found: str) -> None:
        """An item gave no row."""
        self.dropped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append((item, found))

    def count(self, asked: list[Asked]) -> None:
        """The requests of an item."""
        for each in asked:
            prompt, answer = each.answer.prompt_tokens, each.answer.answer_tokens
            self.asked += 1
            self.known += each.known
            self.unpriced += prompt is None or answer is None
            self.prompt_tokens += prompt or 0
            self.answer_tokens += answer or 0
            if not each.known:
                self.paid_prompt += prompt or 0
                self.paid_answer += answer or 0

    @property
    def acceptance(self) -> float:
        """The share of items that gave a row."""
        return self.accepted / self.used if self.used else 0.0


def cost_of(prompt_tokens: int, answer_tokens: int, price: Price | None) -> float | None:
    """Of so many tokens; None where no price is known."""
    if price is None:
        return None
    return round((prompt_tokens * price[0] + answer_tokens * price[1]) / 1e6, 8)
