"""A judge as a reward: what an answer won against the others to its prompt (LLaVA-Critic's preference learning).

In the loop of iterative DPO, GRPO and PPO it is the term `critic` (train/reward_terms.py): rounds of answers,
verdicts and steps are one run then.
"""

from collections.abc import Sequence

from llavakit.align.reward_model import Score, Unscorable
from llavakit.align.rewards.models import OpenResponder
from llavakit.align.rollouts import Rollout
from llavakit.critic.formats import choose
from llavakit.critic.judge import WORDS, Judge
from llavakit.critic.preferences import Candidates, compare
from llavakit.train.reward_terms import Critic


class CriticScores:
    """A term of a reward that compares all answers to a prompt, two by two, in both orders."""

    def __init__(self, term: Critic, open_responder: OpenResponder) -> None:
        """ConfigError for a format that there is not, or that scores single answers."""
        form = choose(term.format, 2)
        sampling = WORDS.model_copy(update={"max_tokens": term.max_tokens})
        self._judge = Judge(open_responder(term.model), form, sampling, term.expected)

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The margins an answer won by less those it lost by; answers that are alike share one reward.

        Unscorable where too few comparisons of its group were read (`rewards_of`); 0 where all answers are alike.
        """
        places: dict[tuple[str, int], list[int]] = {}
        for at, rollout in enumerate(rollouts):
            places.setdefault((rollout.key, rollout.group), []).append(at)
        groups = [_candidates([rollouts[at] for at in found]) for found in places.values()]
        choices = [group for group in groups if len(group.answers) > 1]
        won = dict(zip([group.key for group in choices], compare(self._judge, choices), strict=True))
        scores: list[Score] = [0.0] * len(rollouts)
        for group, found in zip(groups, places.values(), strict=True):
            if len(group.answers) < 2:
                continue
            rewards = won[group.key]
            for at in found:
                if rewards is None:
                    scores[at] = Unscorable(f"{rollouts[at].key}: too few verdicts could be read")
                else:
                    scores[at] = rewards[group.answers.index(rollouts[at].text.strip())]
        return scores

    def close(self) -> None:
        """Holds nothing: who opened the judge closes it."""


def _candidates(rollouts: Sequence[Rollout]) -> Candidates:
    first = rollouts[0]
    return Candidates(
        f"{first.key}#{first.group}", first.prompt,
        tuple(dict.fromkeys(rollout.text.strip() for rollout in rollouts)),
        first.reference, "\n".join(first.facts),
    )  # fmt: skip
