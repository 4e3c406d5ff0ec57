"""Terms that ask a model: a reward model, here or behind a URL, and a judge that answers in words."""

import re
from collections.abc import Callable, Sequence

from llavakit.align.remote_reward import RemoteRewardModel
from llavakit.align.reward_model import RewardModel, Rewards, Score, Unscorable, open_reward_model
from llavakit.align.rollouts import Rollout
from llavakit.core.errors import ConfigError, UserError
from llavakit.engine.responder import Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.rules.thinking import strip_thinking
from llavakit.text.conversation import Conversation, Message, Text, assistant
from llavakit.train import reward_terms as settings

OpenResponder = Callable[[str], Responder]  # a directory or a URL -> who answers
OpenRewardModel = Callable[[str], RewardModel[Rewards]]  # a directory -> what scores
URL = ("http://", "https://")
JUDGE = (
    "Here are a question about the image and an answer to it.\n\nQuestion: {question}\n\nAnswer: {answer}\n\n"
    "Reference: {reference}\n{facts}\nHow good is the answer, from {lowest} (useless or wrong) to {highest} "
    "(right and helpful)? Give a reason in one sentence, then the number alone on the last line."
)
PLACE = re.compile(r"\{(question|answer|reference|facts|lowest|highest)\}")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


class RewardModelScores:
    """What a reward model says of each answer."""

    def __init__(self, term: settings.RewardModelTerm, open_model: OpenRewardModel | None = None) -> None:
        self.facts = term.facts
        self._model: RewardModel[Rewards] | RemoteRewardModel
        if term.model.startswith(URL):
            self._model = RemoteRewardModel(term.model)
        else:
            self._model = (open_model or open_reward_model)(term.model)

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        talks = [_answered(rollout) for rollout in rollouts]
        if not (self._model.wants_facts if self.facts is None else self.facts):
            return self._model.scores(talks)
        scorable = [at for at, rollout in enumerate(rollouts) if rollout.facts]
        given = self._model.scores([talks[at] for at in scorable], [rollouts[at].facts for at in scorable])
        found = dict(zip(scorable, given, strict=True))
        return [found.get(at, Unscorable(f"{rollout.key}: no facts")) for at, rollout in enumerate(rollouts)]

    def close(self) -> None:
        self._model.close()


class JudgeScores:
    """What a model that answers in words says of each answer."""

    def __init__(self, term: settings.Judge, open_responder: OpenResponder | None) -> None:
        if open_responder is None:
            raise ConfigError("rewards: a judge needs somebody who opens models; pass open_responder")
        self.term = term
        try:
            self.prompt = JUDGE if term.prompt is None else term.prompt.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"rewards: judge.prompt={term.prompt}: cannot be read: {error}") from None
        self._judge = open_responder(term.model)

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        asked = [self._question(rollout) for rollout in rollouts]
        how, found = Sampling(max_tokens=self.term.max_tokens), dict[int, Score]()
        for at, came in self._judge.outcomes(asked, sampling=how):
            key = rollouts[at].key
            found[at] = Unscorable(f"{key}: {came}") if isinstance(came, UserError) else self._read(came, key)
        return [found[at] for at in range(len(rollouts))]

    def close(self) -> None:
        """Holds nothing: who opened the judge closes it."""

    def _question(self, rollout: Rollout) -> Conversation:
        facts = "".join(f"- {fact}\n" for fact in rollout.facts) if self.term.facts else ""
        values = {
            "question": rollout.prompt.messages[-1].text.strip(),
            "answer": rollout.text,
            "reference": rollout.reference or "none",
            "facts": f"Known about the image:\n{facts}" if facts else "",
            "lowest": f"{self.term.lowest:g}",
            "highest": f"{self.term.highest:g}",
        }
        text = PLACE.sub(lambda place: values[place[1]], self.prompt)
        return Conversation((Message("user", (*rollout.prompt.media, Text(text))),))

    def _read(self, answer: Answer, key: str) -> Score:
        """The last number behind what was thought, if it is within the bounds."""
        numbers = NUMBER.findall(strip_thinking(answer.text))
        low, high = self.term.lowest, self.term.highest
        if not numbers or not low <= float(numbers[-1]) <= high:
            return Unscorable(
                f"{key}: no number from {low:g} to {high:g} in the judge's {answer.text[-80:]!r}"
            )
        return (float(numbers[-1]) - low) / (high - low)


def _answered(rollout: Rollout) -> Conversation:
    return Conversation((*rollout.prompt.messages, assistant(rollout.text)))
