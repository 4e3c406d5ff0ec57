"""Rounds of answers as a source of batches for the training loop: sample, score, compare, learn, again.

A round's answers lie in the run's `rollouts` folder before the first step learns from them, so a resumed run reads
them there; what is drawn follows from the run's seed and the record's place alone.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llavakit.align.advantages import group_columns, share_table, term_table, value_columns
from llavakit.align.choosing import choose, find_worth
from llavakit.align.drawn import Sampled
from llavakit.align.experience import Experience, read_experiences, write_experiences
from llavakit.align.learner import Learner
from llavakit.align.looks import draw_round, tell_round
from llavakit.align.prompts import Prompt, Prompts
from llavakit.align.rewards.composer import Composer
from llavakit.align.rollouts import Rollout
from llavakit.align.sampler import Sampler
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import write_text
from llavakit.core.progress import say
from llavakit.data.loader import Position
from llavakit.train.metrics import Row, draw_panels
from llavakit.train.policy import next_kl_coef
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.ranks import Ranks
from llavakit.train.reward_terms import TOTAL
from llavakit.train.run import Run
from llavakit.train.source import Step
from llavakit.train.state import Round, State

FOLDER = "rollouts"
LOOKED = ("drift", "entropy", "kl", "drift_p99")  # figures of a round that its step may be the first to know
JUDGED = 100  # answers after which a share of unscorable ones means something


class Rounds:
    """The source. Groups (a prompt with its answers) are dealt out to the ranks as wholes."""

    def __init__(
        self, run: Run, policy: PolicyConfig, prompts: Prompts, sampler: Sampler, learner: Learner,
        reward: Composer, ranks: Ranks,
    ) -> None:  # fmt: skip
        self.run, self.policy, self.prompts, self.loader = run, policy, prompts, prompts.loader
        self.sampler, self.learner, self.reward, self.ranks = sampler, learner, reward, ranks
        self.folder = run.out / FOLDER
        self.figures: dict[str, None] = {}  # names of what rounds have told
        self._reason = "other ranks know why"  # the newest one for an answer without a score

    def num_steps(self, epochs: float) -> int:
        """Groups that are filtered away make an epoch last less long than it says."""
        rounds = max(1, int(epochs * self.loader.records.num_reads / self.policy.prompts))
        return rounds * self.policy.epochs * self.policy.minibatches

    def keep(self, folder: Path) -> None:
        """The value model. Where a round stands is in the state, its answers are in the run's folder."""
        if self.learner.value is not None:
            self.learner.value.save(folder)

    def draw(self, rows: Sequence[Row], folder: Path) -> None:
        """Every figure of the rounds against the step."""
        draw_panels(rows, list(self.figures), folder / "rollouts.png")

    def steps(self, state: State) -> Generator[Step]:
        at = state.round or Round(kl_coef=self.policy.algorithm.kl_coef)
        wrote = state.ranks
        try:
            while True:
                figures: Row = {}
                if at.learned:
                    mine = self._read(at.number, wrote)
                else:
                    at, mine, figures = self._round(at)
                yield from self._learn(at, mine, figures)
                at = replace(at, number=at.number + 1, learned=0)
        finally:
            self.reward.close()
            self.sampler.close()

    def _learn(self, at: Round, mine: list[Experience], figures: Row) -> Generator[Step]:
        """The steps of a round that are left."""
        position = Position(epoch=at.prompt // self.loader.records.num_reads)
        mine = choose(mine, self.policy.learn)
        parts = self._parts(at.number, mine)
        for learned in range(at.learned, len(parts)):
            batches = self.learner.step([each for each in mine if each.rollout.group in parts[learned]])
            after = replace(at, learned=learned + 1)
            if after.learned == len(parts):
                after = replace(at, number=at.number + 1, learned=0)
            yield Step(batches, position, after, figures)
            figures = {}

    def _parts(self, number: int, mine: list[Experience]) -> list[set[int]]:
        """The groups of each step of a round: all of them once an epoch, in an order of its own."""
        [groups] = self.ranks.largest([max((each.rollout.group + 1 for each in mine), default=0)])
        parts: list[set[int]] = []
        for epoch in range(self.policy.epochs):
            order = np.random.default_rng([self.run.seed, number, epoch]).permutation(groups)
            parts += [
                set(part.tolist()) for part in np.array_split(order, min(groups, self.policy.minibatches))
            ]
        return parts

    def _round(self, at: Round) -> tuple[Round, list[Experience], Row]:
        """New answers, scored, compared and written down; where the round stands, and what it tells."""
        began = time.perf_counter()
        self.sampler.refresh()
        start = at.prompt
        at, mine, groups, figures = self._collect(at)
        sampled = time.perf_counter() - began
        found = self.learner.measure(mine)
        mine = [each.with_columns(more) for each, more in zip(mine, found.columns, strict=True)]
        assert at.kl_coef is not None
        totals_GK = term_table(mine, TOTAL, groups, self.policy.answers, self.ranks)
        if self.policy.has_value:
            mine = value_columns(mine, self.policy.algorithm, at.kl_coef, self.ranks)
        else:
            mine = group_columns(mine, totals_GK, self.policy.algorithm, at.kl_coef, self.ranks)
        figures |= tell_round(mine, found, totals_GK, self.policy, self.ranks)
        figures |= {"records": at.prompt - start, "rollout_seconds": sampled}
        at = self._control(at, figures)
        self._write(at.number, mine)
        self.figures |= dict.fromkeys((*figures, *LOOKED))
        figures["round"] = at.number
        return at, mine, figures

    def _collect(self, at: Round) -> tuple[Round, list[Experience], int, Row]:
        """A round's experiences on this rank, and the number of its groups on all.

        Where groups are dropped that teach nothing, they give way to those of other prompts.
        """
        policy = self.policy
        mine: list[Experience] = []
        groups = dropped = 0
        for _ in range(policy.tries if policy.drops_groups else 1):
            fresh = self._sample(at.prompt)
            at = self._count(replace(at, prompt=at.prompt + policy.prompts), fresh)
            there = share_table({(e.rollout.group, 0): 1.0 for e in fresh}, policy.prompts, 1, self.ranks)
            good = there[:, 0] == 1
            if policy.drops_groups:
                kept = find_worth(fresh, policy, policy.prompts, self.ranks)
                dropped += int((good & ~kept).sum())
                good &= kept
            chosen = good.nonzero().flatten().tolist()[: policy.prompts - groups]
            numbers = {group: groups + place for place, group in enumerate(chosen)}
            mine += [
                _renumbered(each, numbers[each.rollout.group])
                for each in fresh
                if each.rollout.group in numbers
            ]
            groups += len(chosen)
            if groups == policy.prompts:
                break
        if not groups:
            raise DataError(self._why_nothing(dropped))
        return at, mine, groups, {"filtered": dropped, "groups": groups} if policy.drops_groups else {}

    def _why_nothing(self, dropped: int) -> str:
        if dropped and self.policy.learn != "all":
            return (
                f"policy.learn={self.policy.learn}: none of {dropped} prompts has answers that say which is better;"
                " look at the rewards, policy.gap and policy.at_least"
            )
        if dropped:
            return (
                f"policy.algorithm.filter={self.policy.algorithm.filter}: the answers to each of {dropped} prompts "
                "are alike; there is nothing to learn from them"
            )
        return f"no record could be asked; the first: {next(iter(self.loader.bad), 'other ranks list it')}"

    def _sample(self, start: int) -> list[Experience]:
        """Scored answers to this rank's share of the records from number `start` on; groups are their places."""
        asked: list[tuple[int, Prompt]] = []

        def ask() -> Iterator[tuple[Prompt, int]]:
            """Prompts as the sampler comes to them: their pictures are decoded then."""
            for place, prompt in self.prompts.take(
                start, self.policy.prompts, self.ranks.rank, self.ranks.size
            ):
                asked.append((place, prompt))
                yield prompt, _seed(self.run.seed, start + place)

        answers = self.sampler.answers(ask())
        rollouts = [
            _rollout(prompt, place, choice, each)
            for (place, prompt), group in zip(asked, answers, strict=True)
            for choice, each in enumerate(group)
        ]
        scores = self.reward.scores(rollouts)
        return [Experience(rollout, named) for rollout, named in zip(rollouts, scores, strict=True)]

    def _count(self, at: Round, fresh: list[Experience]) -> Round:
        """Count answers, and stop where too many of them have no score."""
        none = sum(each.scores[TOTAL] is None for each in fresh)
        self._reason = next(iter(self.reward.unscorable), self._reason)
        answers, unscorable = self.ranks.sums([len(fresh), none])
        at = replace(at, answers=at.answers + int(answers), unscorable=at.unscorable + int(unscorable))
        too_many = at.unscorable > self.policy.unscorable * at.answers
        if too_many and (at.answers >= JUDGED or unscorable == answers):
            raise DataError(
                f"{at.unscorable} of {at.answers} answers could not be scored (at most policy.unscorable="
                f"{self.policy.unscorable:g} of them may be so); {self._reason}"
            )
        return at

    def _control(self, at: Round, figures: Row) -> Round:
        """The coefficient of the next round's penalty."""
        how = self.policy.algorithm
        if how.kl_target is None or at.kl_coef is None:
            return at
        answers = int(figures["answers"])
        coef = next_kl_coef(
            at.kl_coef, figures["kl"], target=how.kl_target, horizon=how.kl_horizon, samples=answers
        )
        figures["kl_coef"] = at.kl_coef
        return replace(at, kl_coef=coef)

    def _file(self, number: int, rank: int, ranks: int) -> Path:
        share = "" if ranks == 1 else f".{rank}-of-{ranks}"
        return self.folder / f"round{number:06d}{share}.jsonl"

    def _write(self, number: int, mine: list[Experience]) -> None:
        write_experiences(self._file(number, self.ranks.rank, self.ranks.size), mine)
        every = self.policy.page_every
        if self.ranks.is_first and every and number % every == 0:
            page = draw_round(f"{self.run.name}: round {number}", mine, self.loader)
            write_text(self.folder / f"round{number:06d}.html", page)

    def _read(self, number: int, wrote: int) -> list[Experience]:
        """This rank's share of a round that was written by `wrote` ranks."""
        files = [self._file(number, rank, wrote) for rank in range(wrote)]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise ConfigError(
                f"{missing} is not there: a run cannot go on within a round without its answers"
            )
        every = [each for file in files for each in read_experiences(file)]
        if wrote == self.ranks.size:
            return read_experiences(files[self.ranks.rank])
        return [each for each in every if each.rollout.group % self.ranks.size == self.ranks.rank]

    def hear(self, row: Row) -> None:
        """One line a round, after its first step; and one more if the sampler is not the learner."""
        if "round" not in row:
            return
        say(
            f"round {row['round']}: reward {row['reward']:.3f}, {row['length']:.1f} tokens, sampler off by "
            f"{row['drift']:.4f} nats in the mean, {row['drift_p99']:.4f} at most in 99 % of tokens"
        )
        if row["drift"] > self.policy.drift:
            say(
                f"ALARM: sampler and learner differ by more than policy.drift={self.policy.drift:g}: what is "
                "learned from was not drawn from the model; look at precision, or try policy.engine=shared"
            )


def _renumbered(experience: Experience, group: int) -> Experience:
    return replace(experience, rollout=replace(experience.rollout, group=group))


def _seed(seed: int, number: int) -> int:
    """Where the random streams of a record's answers begin; `number` counts records over epochs."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def _rollout(prompt: Prompt, group: int, choice: int, answer: Sampled) -> Rollout:
    return Rollout(
        key=prompt.key, group=group, choice=choice, prompt=prompt.talk, reference=prompt.reference,
        ids=tuple(answer.ids), logprobs=tuple(answer.logprobs), text=answer.text, finish=answer.finish,
        facts=prompt.facts, extra=prompt.extra, exchanges=answer.exchanges, counts=answer.counts,
    )  # fmt: skip
