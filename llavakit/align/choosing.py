"""Which of a prompt's answers are learned: the best against the worst (DPO in rounds), or the best alone.

The latter is rejection sampling, or best of K. Both also from the files that earlier runs left.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llavakit.align.advantages import term_table
from llavakit.align.experience import Experience, read_experiences
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import write_text
from llavakit.data.dialects.llava import write_llava
from llavakit.data.dialects.preferences import write_rlhf
from llavakit.text.conversation import Conversation, assistant
from llavakit.train.objectives import SFT, Objective
from llavakit.train.policy import keep_groups
from llavakit.train.policy_settings import Learn, PolicyConfig
from llavakit.train.preference import Preference
from llavakit.train.ranks import Ranks
from llavakit.train.reference import KeptReference
from llavakit.train.reward_terms import TOTAL
from llavakit.train.run import Run


def open_objective(run: Run, policy: PolicyConfig) -> Objective | None:
    """The loss of runs that choose among answers; None: all of them are learned, by their advantages."""
    if policy.learn == "best":
        return SFT()
    if run.preference is None:
        return None
    kept = KeptReference("reference" if policy.anchor == "start" else "old")
    return Preference(run.preference, kept if run.preference.needs_reference else None)


def choose(experiences: Sequence[Experience], learn: Learn) -> list[Experience]:
    """What is learned of every group, whose answers stand together; pairs with the better one first."""
    if learn == "all":
        return list(experiences)
    chosen: list[Experience] = []
    for _, members in groupby(experiences, lambda each: each.rollout.group):
        scored = [(score, each) for each in members if (score := each.scores[TOTAL]) is not None]
        chosen.append(max(scored, key=lambda pair: pair[0])[1])
        if learn == "pairs":
            chosen.append(min(scored, key=lambda pair: pair[0])[1])
    return chosen


def find_worth(experiences: Sequence[Experience], policy: PolicyConfig, groups: int, ranks: Ranks) -> Tensor:
    """Of which groups something can be learned, bool[G]; the same on every rank."""
    worth_G = torch.ones(groups, dtype=torch.bool)
    if policy.algorithm.filter is not None:
        worth_G &= keep_groups(
            term_table(experiences, policy.algorithm.filter, groups, policy.answers, ranks)
        )
    if policy.learn == "all":
        return worth_G
    totals_GK = term_table(experiences, TOTAL, groups, policy.answers, ranks)
    known_GK = ~totals_GK.isnan()
    best_G = totals_GK.where(known_GK, -torch.inf).amax(dim=1)
    worst_G = totals_GK.where(known_GK, torch.inf).amin(dim=1)
    worth_G &= known_GK.any(dim=1)
    if policy.learn == "pairs":
        worth_G &= best_G - worst_G > policy.gap
    if policy.at_least is not None:
        worth_G &= best_G >= policy.at_least
    return worth_G


@dataclass
class Chosen:
    """What became of the answers of some files of rollouts."""

    written: int = 0  # pairs, or single answers
    prompts: int = 0  # with an answer that has a score
    cut: int = 0  # answers left out because they were cut at their limit


def write_chosen(
    files: Sequence[Path], out: Path, learn: Learn, *, gap: float = 0.0, at_least: float | None = None
) -> Chosen:
    """Records of the answers that `choose` takes, for `train`.

    Pairs are LLaVA-RLHF's records, single answers LLaVA's. What was answered alike twice is no pair. A prompt
    that was asked in several rounds is there as often. An answer that was cut is left out: whoever reads its text
    as a record learns that it ends where it was cut.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another --out")
    rows: list[str] = []
    counts = Chosen()
    for members in (members for file in files for members in _groups(file)):
        group = [each for each in members if each.rollout.finish == "stop"]
        counts.cut += len(members) - len(group)
        if not group:
            continue
        counts.prompts += 1
        chosen = choose(group, learn)
        scores = [each.scores[TOTAL] or 0.0 for each in chosen]
        if (at_least is None or scores[0] >= at_least) and (learn == "best" or scores[0] - scores[1] > gap):
            rows += _record(chosen, out.parent)
    if not rows:
        told = f" ({counts.cut} answers were cut at their limit)" if counts.cut else ""
        raise DataError(f"none of {counts.prompts} prompts has answers that say which is better{told}")
    write_text(out, "".join(rows))
    counts.written = len(rows)
    return counts


def _record(chosen: Sequence[Experience], folder: Path) -> list[str]:
    """The line of one answer or of a pair; none where an answer is empty, or both are alike."""
    texts = [each.rollout.text for each in chosen]
    if not all(texts) or len(set(texts)) < len(texts):
        return []
    best, *worst = (
        Conversation((*each.rollout.prompt.messages, assistant(each.rollout.text))) for each in chosen
    )
    named: dict[str, Any] = {"id": chosen[0].rollout.key}
    raw = write_rlhf(best, worst[0], folder, named) if worst else named | write_llava(best, folder)
    return [json.dumps(raw, ensure_ascii=False) + "\n"]


def _groups(file: Path) -> Iterator[list[Experience]]:
    """The answers to each prompt of a file, as far as they have a score."""
    for _, members in groupby(read_experiences(file), lambda each: each.rollout.group):
        scored = [each for each in members if each.scores[TOTAL] is not None]
        if scored:
            yield scored
