"""Best of K: a model answers several times, a judge compares, and the answer that won most is given."""

from collections.abc import Iterator, Sequence

from llavakit.core.errors import ConfigError
from llavakit.critic.judge import Judge
from llavakit.critic.preferences import Candidates, compare
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Video

WARM = 0.7, 0.9  # LLaVA-Critic's temperature and top-p


class BestOf(Responder):
    """A responder whose answers are the best of several by a judge; where the judge says nothing, the first."""

    def __init__(self, responder: Responder, judge: Judge, count: int) -> None:
        """`count` answers are drawn of every conversation, with the caller's sampling, greedy made warm."""
        if count < 2:
            raise ConfigError("the best of fewer than two answers is no choice")
        self.responder, self.judge, self.count = responder, judge, count

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """The best answer to each conversation; all are drawn first, then all are compared."""
        drawn = self.responder.answers(
            [talk for talk in conversations for _ in range(self.count)], sampling=warm(sampling)
        )
        found = [drawn[at : at + self.count] for at in range(0, len(drawn), self.count)]
        asked = [
            (talk, [answer.text for answer in said]) for talk, said in zip(conversations, found, strict=True)
        ]
        best = choose_best(self.judge, asked)
        return [said[at or 0] for said, at in zip(found, best, strict=True)]

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The whole answer as one piece: which is best is known when all are there."""
        yield self.batch([conversation], sampling=sampling)[0]

    def num_tokens(self, answer: str) -> int | None:
        return self.responder.num_tokens(answer)

    def describe(self, video: Video) -> str:
        return self.responder.describe(video)


def warm(sampling: Sampling) -> Sampling:
    """So that several answers differ: greedy becomes LLaVA-Critic's temperature and top-p."""
    if sampling.temperature > 0:
        return sampling
    return sampling.model_copy(update={"temperature": WARM[0], "top_p": WARM[1]})


def choose_best(judge: Judge, asked: Sequence[tuple[Conversation, Sequence[str]]]) -> list[int | None]:
    """For each (prompt, its answers) the place of the answer that won most. All prompts are judged at once.

    Empty answers take no part; of those that are alike, or won as much, the first counts. None where the judge
    said too little, or no two answers differ.
    """
    groups = [
        Candidates(str(number), talk, tuple(dict.fromkeys(text for text in texts if text)))
        for number, (talk, texts) in enumerate(asked)
    ]
    choices = [group for group in groups if len(group.answers) > 1]
    rewards = dict(zip([group.key for group in choices], compare(judge, choices), strict=True))
    best: list[int | None] = []
    for group, (_, texts) in zip(groups, asked, strict=True):
        won = rewards.get(group.key)
        best.append(None if won is None else list(texts).index(group.answers[won.index(max(won))]))
    return best
