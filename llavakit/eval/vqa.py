"""Short-answer visual question answering: exact match, and the two controls that say whether the image is used.

`shuffled` asks the same questions about other images; `blind` never sees one and gives the training majority of
the question's text. A model that looks must beat both, and lose its advantage when images are shuffled.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llavakit.chat import Chat
from llavakit.core.progress import bar
from llavakit.engine.sampler import Sampling
from llavakit.eval.benchmark import accuracy as share
from llavakit.eval.controls import derange
from llavakit.eval.easy_vqa import Question, is_right
from llavakit.eval.resample import gather, redraw
from llavakit.text.conversation import Conversation, user

CHUNK = 128  # questions handed to the engine at once
SHORT = Sampling(max_tokens=8)


def answer_questions(
    chat: Chat, questions: Sequence[Question], title: str, *, sampling: Sampling = SHORT
) -> list[str]:
    """The model's answers, greedy by default; sampled, each question draws from a stream of its own.

    Questions about one image should be neighbours: they share its prompt.
    """
    answers: list[str] = []
    with bar(title, len(questions)) as progress:
        for at in range(0, len(questions), CHUNK):
            chunk = questions[at : at + CHUNK]
            talks = [Conversation((user(question.text, [question.image]),)) for question in chunk]
            seeded = sampling.model_copy(update={"seed": sampling.seed + at})
            answers += chat.batch(talks, sampling=seeded)
            progress.advance(len(chunk))
    return answers


def shuffle_images(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Every image's questions are asked about another image; the answers stay those of the right one."""
    other = derange(list(dict.fromkeys(question.image for question in questions)), seed)
    return [replace(question, image=other[question.image]) for question in questions]


def guess_blind(train: Sequence[Question], test: Sequence[Question]) -> list[str]:
    """The most frequent training answer of each question's text; of all answers where the text is new."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        seen[question.text][question.answer] += 1
    overall = Counter(question.answer for question in train)
    return [(seen.get(question.text) or overall).most_common(1)[0][0] for question in test]


def accuracy(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Share of right answers: `all`, `open` and `yes_no`."""
    hits = [
        (question.is_open, is_right(answer, question.answer))
        for question, answer in zip(questions, answers, strict=True)
    ]
    groups = {
        "all": [right for _, right in hits],
        "open": [right for is_open, right in hits if is_open],
        "yes_no": [right for is_open, right in hits if not is_open],
    }
    return {name: sum(group) / max(1, len(group)) for name, group in groups.items()}


@dataclass(frozen=True)
class Gain:
    """Points of 100 that second answers are ahead of first ones, and their 95 % interval."""

    points: float
    low: float
    high: float

    def tell(self) -> str:
        return f"{self.points:+.1f} points, 95 % interval {self.low:+.1f} to {self.high:+.1f}"


def gain(questions: Sequence[Question], before: Sequence[str], after: Sequence[str]) -> Gain:
    """How much better the same questions were answered, when pictures are drawn again with all their questions."""
    runs = [
        [float(is_right(answer, question.answer)) for question, answer in zip(questions, said, strict=True)]
        for said in (before, after)
    ]
    drawn = redraw((), runs, gather([str(question.image) for question in questions]), share)
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5])
    return Gain(100 * (sum(runs[1]) - sum(runs[0])) / len(questions), float(low), float(high))
