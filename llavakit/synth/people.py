"""A hundred rows for people: as pairs for the page of human collection, and what share of them was accepted.

A row's answer stands against a sentence that says that it is not good; whoever chooses the answer accepts it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.data.dialects.judged import settle
from llavakit.data.votes import read_votes
from llavakit.synth.figures import turns_of
from llavakit.synth.rows import FIELD

REFUSE = "I do not accept this: something said here is wrong, not to be seen in the picture, or of no use."
NORMAL = 1.96  # standard deviations of 95 %


def sample_of(out: Path) -> Path:
    """Where the rows for people lie, beside a file of rows."""
    return out.with_suffix(".sample.json")


def write_sample(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Pairs for `llavakit collect`, of which nobody has said yet which is better."""
    pairs = []
    for row in rows:
        *before, (question, answer) = turns_of(row)
        told = "\n\n".join(f"Q: {asked}\nA: {said}" for asked, said in before)
        marks = "<image>\n" * _num_media(row)
        pairs.append(
            {"id": row["id"]}
            | {name: row[name] for name in ("image", "video") if name in row}
            | {
                "conversations": [
                    {"from": "human", "value": marks + (f"{told}\n\nQ: {question}" if told else question)},
                    {"from": "gpt", "value": "(one of the two)"},
                ],
                "output_1": {"from": "gpt", "value": answer},
                "output_2": {"from": "gpt", "value": REFUSE},
                FIELD: {"row": row["id"]},
            }
        )
    write_text(sample_of(out), json.dumps(pairs, ensure_ascii=False, indent=1) + "\n")


def _num_media(row: Mapping[str, Any]) -> int:
    media = row.get("image", row.get("video", []))
    return len(media) if isinstance(media, list) else 1


@dataclass(frozen=True)
class Acceptance:
    """Rows that people accepted, of those that they decided, with a 95 % interval."""

    accepted: int
    decided: int
    undecided: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's (1927), which stays between 0 and 1 and holds for few votes."""
        n, z = self.decided, NORMAL
        share = self.accepted / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def read_acceptance(path: Path) -> Acceptance:
    """What a file of votes about a sample came to. DataError for votes about anything else, and for none."""
    votes = read_votes(path)
    accepted = decided = undecided = 0
    for name, said in votes.of.items():
        answers = votes.asked[name].answers
        if REFUSE not in answers:
            raise DataError(f"the pair {name} is none of a sample of `llavakit synth`", path=path)
        verdict = settle(vote.decided for vote in said.values())
        if verdict in (1, 2):
            decided += 1
            accepted += answers[verdict - 1] != REFUSE
        elif verdict == "both_bad":
            decided += 1
        else:
            undecided += 1
    if not decided:
        raise DataError("no vote that accepts a row or does not", path=path)
    return Acceptance(accepted, decided, undecided)


def tell_acceptance(found: Acceptance) -> str:
    """One line."""
    low, high = found.interval
    share = 100 * found.accepted / found.decided
    left = f"; {found.undecided} undecided" if found.undecided else ""
    return (
        f"{found.accepted} of {found.decided} rows accepted: {share:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %){left}"
    )
