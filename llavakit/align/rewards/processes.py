"""Terms in processes of their own, which are killed when they are late: patterns, mathematics, users' functions."""

import math
from collections.abc import Sequence
from pathlib import Path

from llavakit.align.reward_model import Score, Unscorable
from llavakit.align.rewards.rules import no_reference, taken
from llavakit.align.rollouts import JSON, Rollout
from llavakit.core.bounded import Bounded, Outcome
from llavakit.core.errors import ConfigError
from llavakit.rules.mathematics import Mathematics
from llavakit.train import reward_terms as settings

PATTERN = """
import re
pattern = re.compile(words[0])
find = pattern.fullmatch if words[1] == "whole" else pattern.search

def reply_to(text):
    return float(find(text) is not None)
"""
FUNCTION = """
import importlib.util, os, sys
file, name = words
sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
spec = importlib.util.spec_from_file_location("reward", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
score = getattr(module, name)

def reply_to(record):
    value = score(**record)
    return None if value is None else float(value)
"""


class Regex:
    """Whether a pattern is found in the answer."""

    def __init__(self, term: settings.Regex) -> None:
        words = (term.pattern, "whole" if term.whole else "anywhere")
        self._process = Bounded(PATTERN, words=words, seconds=term.seconds, needs="a regex term")

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [score_of(self._process.ask(rollout.text), rollout) for rollout in rollouts]

    def close(self) -> None:
        self._process.close()


class Mathematical:
    """Whether an answer is mathematically equal to its reference."""

    def __init__(self, term: settings.Math) -> None:
        self.take = term.take
        self._mathematics = Mathematics(seconds=term.seconds)

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [self._score(rollout) for rollout in rollouts]

    def close(self) -> None:
        self._mathematics.process.close()

    def _score(self, rollout: Rollout) -> Score:
        if not rollout.reference.strip():
            return no_reference(rollout, "is empty")
        return score_of(self._mathematics.compare(taken(rollout, self.take), rollout.reference), rollout)


class UserFunction:
    """`score(answer, reference, **record)` of a file of the user's.

    `record` has `question`, `facts` (a list), `finish`, `tokens` (how many were generated), and the record's own
    further fields, of which none may have one of these names.
    """

    def __init__(self, term: settings.Python) -> None:
        file, _, name = term.function.rpartition(":")
        if not Path(file).is_file():
            raise ConfigError(f"rewards: {file} does not exist; write FILE.py:FUNCTION")
        self._process = Bounded(
            FUNCTION,
            words=(file, name),
            seconds=term.seconds,
            memory=term.memory,
            needs=f"the reward {term.function}",
        )

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [score_of(self._process.ask(_record(rollout)), rollout) for rollout in rollouts]

    def close(self) -> None:
        self._process.close()


def _record(rollout: Rollout) -> dict[str, JSON]:
    """What a user's function is told about an answer. The question is the last one of the conversation."""
    return dict(rollout.extra) | {
        "answer": rollout.text,
        "reference": rollout.reference,
        "question": rollout.prompt.messages[-1].text.strip(),
        "facts": list(rollout.facts),
        "finish": rollout.finish,
        "tokens": len(rollout.ids),
    }


def score_of(outcome: Outcome, rollout: Rollout) -> Score:
    """What a process said, as a score: a problem, None and what is not finite are none."""
    if outcome.problem is not None:
        return Unscorable(f"{rollout.key}: {outcome.problem}")
    if outcome.value is None:
        return Unscorable(f"{rollout.key}: the reward gave None")
    if not math.isfinite(outcome.value):
        return Unscorable(f"{rollout.key}: the reward gave {outcome.value}")
    return float(outcome.value)
