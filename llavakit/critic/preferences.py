"""Preferences from a judge: candidates compared in all ordered pairs, rewards of what they won, best against worst.

Both orders are summed, so a liking for a place cancels (`comparison_rewards`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from llavakit.align.rollouts import FIELD, Rollout, file_media, read_rollouts
from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.core.journal import Row
from llavakit.critic.judge import Ask, Judge
from llavakit.data.cases import Case, dialogue_of, read_cases
from llavakit.data.dialects.preferences import write_trl_pair
from llavakit.data.records import read_records
from llavakit.text.conversation import Conversation, Message, Text, assistant
from llavakit.train.policy import comparison_rewards

UNREAD_PAIRS = 0.5  # of a group's pairs; with more its answers have no rewards
Margins = Mapping[
    tuple[int, int], float | None
]  # (shown first, shown second): by how much the second is better


@dataclass(frozen=True)
class Candidates:
    """Different answers to one prompt."""

    key: str
    prompt: Conversation
    answers: tuple[str, ...]
    reference: str = ""
    context: str = ""

    def pairs(self) -> dict[tuple[int, int], Case]:
        """A case for every two of them; both orders of it are both orders of the pair."""
        question = dialogue_of(self.prompt.messages)
        return {
            (a, b): Case(
                f"{self.key} {a}-{b}", question, self.prompt.media, (self.answers[a], self.answers[b]),
                self.reference, self.context,
            )
            for a, b in combinations(range(len(self.answers)), 2)
        }  # fmt: skip


def read_candidates(path: Path) -> list[Candidates]:
    """Cases of two answers or more, or rollouts with their groups. Answers that are alike count once.

    A rollout that was cut at its limit is no candidate: its text would be learned with an end that it never had.
    DataError, with file:line, for other records.
    """
    records = read_records(path)
    if len(records) and isinstance(records[0].raw, dict) and FIELD in records[0].raw:
        return _of_rollouts(read_rollouts(path))
    found = []
    for case in read_cases(path):
        if len(case.answers) < 2:
            raise DataError(
                f"case {case.id!r} has {len(case.answers)} answers; a choice needs two", path=path
            )
        prompt = Conversation((Message("user", (*case.media, Text(case.question))),))
        found.append(Candidates(case.id, prompt, _different(case.answers), case.reference, case.context))
    return found


def _of_rollouts(rollouts: Sequence[Rollout]) -> list[Candidates]:
    groups: dict[tuple[str, int], list[Rollout]] = {}
    for each in rollouts:
        if each.finish == "stop":
            groups.setdefault((each.key, each.group), []).append(each)
    return [
        Candidates(
            f"{key}#{group}", found[0].prompt, _different([each.text for each in found]), found[0].reference,
            "\n".join(found[0].facts),
        )
        for (key, group), found in groups.items()
    ]  # fmt: skip


def _different(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def rewards_of(count: int, margins: Margins) -> list[float] | None:
    """LLaVA-Critic's reward of each of `count` answers. None where too little was read.

    A pair of which one order was not read counts in neither: summed alone, the other would carry the liking for a
    place.
    """
    wins_KK = torch.zeros(count, count)
    pairs = list(combinations(range(count), 2))
    read = 0
    for a, b in pairs:
        one, other = margins.get((a, b)), margins.get((b, a))
        if one is not None and other is not None:
            wins_KK[a, b], wins_KK[b, a] = one, other
            read += 1
    if not pairs or 1 - read / len(pairs) > UNREAD_PAIRS:
        return None
    rewards: list[float] = comparison_rewards(wins_KK).tolist()
    return rewards


def margins_of(candidates: Candidates, rows: Mapping[tuple[str, bool], Row]) -> Margins:
    """The margins as they were shown, out of the rows of a run (`judge_file`)."""
    margins: dict[tuple[int, int], float | None] = {}
    for (a, b), case in candidates.pairs().items():
        one, other = (rows.get((case.id, swapped)) for swapped in (False, True))
        margins[a, b] = None if one is None else one["value"]
        margins[b, a] = None if other is None or other["value"] is None else -other["value"]
    return margins


def compare(judge: Judge, groups: Sequence[Candidates]) -> list[list[float] | None]:
    """The rewards of every group's answers, all asked now and nothing kept. None where too little was read."""
    asks: list[Ask] = []
    for group in groups:
        asks += [Ask(case, swapped) for case in group.pairs().values() for swapped in (False, True)]
    rows: dict[tuple[str, bool], Row] = {came.ask.key: {"value": came.value} for _, came in judge.judge(asks)}
    return [rewards_of(len(group.answers), margins_of(group, rows)) for group in groups]


@dataclass(frozen=True)
class Preferred:
    """What became of the candidates of a file."""

    pairs: int
    alike: int  # groups with fewer than two different answers, or whose answers all won as much
    unread: int  # groups with too few verdicts


def write_preferences(groups: Sequence[Candidates], rows: Sequence[Row], out: Path) -> Preferred:
    """Best against worst of every group, as TRL's pairs with both rewards beside them; the file is written at once.

    A picture that is no file yet becomes one in `media/` beside it. Of equal rewards the earlier answer counts.
    """
    by_key = {(row["id"], row["swapped"]): row for row in rows}
    lines, alike, unread = [], 0, 0
    for group in groups:
        if len(group.answers) < 2:
            alike += 1
            continue
        rewards = rewards_of(len(group.answers), margins_of(group, by_key))
        if rewards is None:
            unread += 1
            continue
        best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
        if rewards[best] == rewards[worst]:
            alike += 1
            continue
        prompt = file_media(group.prompt, out.parent).messages
        chosen, rejected = (Conversation((*prompt, assistant(group.answers[at]))) for at in (best, worst))
        beside = {"id": group.key, "rewards": [rewards[best], rewards[worst]]}
        lines.append(
            json.dumps(write_trl_pair(chosen, rejected, out.parent, beside), ensure_ascii=False) + "\n"
        )
    write_text(out, "".join(lines))
    return Preferred(len(lines), alike, unread)
