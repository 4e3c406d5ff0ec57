"""What `llavakit collect` gathers: a prompt as messages, two `answers`, and the `votes` of all annotators."""

from typing import Any, get_args

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.judged import Judged, Raw, Verdict

SKIP = "skip"  # no verdict: the annotator could not tell


def is_collected(raw: Raw) -> bool:
    return isinstance(raw.get("answers"), list) and isinstance(raw.get("messages"), list)


def split_collected(raw: Raw) -> Judged:
    answers, votes = raw["answers"], raw.get("votes") or []
    if len(answers) != 2 or not all(isinstance(answer, str) for answer in answers):
        raise DataError("'answers' must be two texts")
    if not isinstance(votes, list) or not all(isinstance(vote, dict) for vote in votes):
        raise DataError("'votes' must be a list of objects with a 'verdict'")
    rest = {name: value for name, value in raw.items() if name not in ("answers", "votes")}
    first, second = (
        rest | {"messages": [*raw["messages"], {"role": "assistant", "content": answer}]}
        for answer in answers
    )
    return Judged(first, second, tuple(read_verdict(vote.get("verdict")) for vote in votes))


def read_verdict(value: Any) -> Verdict | None:
    """A vote's verdict; None for a pair that was skipped."""
    if value == SKIP:
        return None
    for verdict in get_args(Verdict):
        if type(value) is type(verdict) and value == verdict:
            known: Verdict = verdict
            return known
    raise DataError(f"'verdict' is {shorten(repr(value), 40)}; it must be 1, 2, tie, both_bad or skip")
