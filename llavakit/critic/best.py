"""Best of K: a model answers several times, a judge compares, and the answer that won most is given."""

from collections.abc import Iterator, Sequence

from llavakit.core.errors import ConfigError
from llavakit.critic.judge import Judge
from llavakit.critic.preferences import Candidates, compare
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Video

WARM = 0.7, 0.9  # LLaVA-Critic's temperature and top-p, where the caller asks for greedy answers


class BestOf(Responder):
    """A responder whose answers are the best of several by a judge; where the judge says nothing, the first."""

    def __init__(self, responder: Responder, judge: Judge, count: int) -> None:
        """`count` answers are drawn of every conversation, with the caller's sampling, greedy made warm."""
        if count < 2:
            raise ConfigError("the best of fewer than two answers is no choice")
        self.responder, self.judge, self.count = responder, judge, count

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """The best answer to each conversation; all are drawn first, then all are compared."""
        if sampling.temperature == 0:
            sampling = sampling.model_copy(update={"temperature": WARM[0], "top_p": WARM[1]})
        drawn = self.responder.answers(
            [talk for talk in conversations for _ in range(self.count)], sampling=sampling
        )
        found = [drawn[at : at + self.count] for at in range(0, len(drawn), self.count)]
        groups = [
            Candidates(str(number), talk, tuple(dict.fromkeys(answer.text for answer in said if answer.text)))
            for number, (talk, said) in enumerate(zip(conversations, found, strict=True))
        ]
        choices = [group for group in groups if len(group.answers) > 1]
        rewards = dict(zip([group.key for group in choices], compare(self.judge, choices), strict=True))
        return [_best(group, rewards.get(group.key), said) for group, said in zip(groups, found, strict=True)]

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The whole answer as one piece: which is best is known when all are there."""
        yield self.batch([conversation], sampling=sampling)[0]

    def num_tokens(self, answer: str) -> int | None:
        return self.responder.num_tokens(answer)

    def describe(self, video: Video) -> str:
        return self.responder.describe(video)


def _best(group: Candidates, rewards: Sequence[float] | None, said: Sequence[Answer]) -> Answer:
    if rewards is None:
        return said[0]
    best = group.answers[rewards.index(max(rewards))]
    return next(answer for answer in said if answer.text == best)
