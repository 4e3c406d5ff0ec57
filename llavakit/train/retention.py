"""Short answers that a run must not unlearn: the same held-out questions before its first step and after its last.

Learning from preferences is known to make answers long, also where a word was asked for. Generation belongs to a
higher level, so it is handed in, as for the probes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError
from llavakit.core.files import write_text
from llavakit.core.progress import say
from llavakit.data.mixture import Mixture, list_sources
from llavakit.model.checkpoint import Checkpoint
from llavakit.rules.flips import sign_test
from llavakit.rules.short_answers import normalise
from llavakit.rules.yes_no import either_word
from llavakit.text.conversation import Conversation
from llavakit.train.metrics import Row
from llavakit.train.probes import Answer
from llavakit.train.settings import RetentionConfig

SHORT = 4  # words of an answer; questions with longer ones are passed over
CHUNK = 64  # questions asked at once: their pictures are in memory together
FILE = "retention.json"


@dataclass(frozen=True)
class Asked:
    """An open question and its short answer."""

    conversation: Conversation
    reference: str

    @property
    def is_yes_no(self) -> bool:
        return normalise(self.reference) in ("yes", "no")

    def is_right(self, answer: str) -> bool:
        """VQAv2's normal form; of yes and no, that the answer has the right one of the two words."""
        if self.is_yes_no:
            return either_word(answer) == normalise(self.reference)
        return normalise(answer) == normalise(self.reference)


class Retention:
    """The questions of a run, and what was answered at which step: `retention.json`."""

    def __init__(
        self, config: RetentionConfig, checkpoint: Checkpoint, answer: Answer, folder: Path, *, done: int
    ) -> None:
        """`done`: the last step that counts; later answers, of a run that was killed, are dropped."""
        self.config, self.checkpoint, self.answer = config, checkpoint, answer
        self.file = folder / FILE
        self.questions = read_questions(config)
        self.answers: dict[int, list[str]] = {}
        if self.file.exists() and done:
            asked = json.loads(self.file.read_text(encoding="utf-8"))["answers"]
            self.answers = {int(step): said for step, said in asked.items() if int(step) <= done}

    def ask(self, step: int) -> Row:
        """Ask the model as it is now and keep the answers; returns the figures. Its mode is left as it came."""
        model = self.checkpoint.model
        training = model.training
        model.eval()
        talks = [question.conversation for question in self.questions]
        said: list[str] = []
        for at in range(0, len(talks), CHUNK):
            said += self.answer(self.checkpoint, talks[at : at + CHUNK], self.config.max_tokens)
        model.train(training)
        self.answers[step] = said
        self._write()
        return {f"retention_{name}": value for name, value in self.figures(step).items()}

    def figures(self, step: int) -> dict[str, float]:
        """Share of right answers (`short` and `yes_no`, where there are such), and `words` of an answer."""
        right: dict[str, list[bool]] = {"short": [], "yes_no": []}
        said = self.answers[step]
        for question, answer in zip(self.questions, said, strict=True):
            right["yes_no" if question.is_yes_no else "short"].append(question.is_right(answer))
        shares = {name: sum(hits) / len(hits) for name, hits in right.items() if hits}
        return shares | {"words": sum(len(answer.split()) for answer in said) / len(said)}

    def compare(self) -> dict[str, Any]:
        """The first time they were asked against the last: what was lost, what was gained, and by luck?"""
        first, last = min(self.answers), max(self.answers)
        lost = gained = 0
        for question, before, after in zip(
            self.questions, self.answers[first], self.answers[last], strict=True
        ):
            was, now = question.is_right(before), question.is_right(after)
            lost, gained = lost + (was and not now), gained + (now and not was)
        return {
            "questions": len(self.questions), "steps": [first, last],
            "before": self.figures(first), "after": self.figures(last),
            "lost": lost, "gained": gained, "p": round(sign_test(lost, gained), 6),
        }  # fmt: skip

    def tell(self) -> None:
        """One line: the figures before and after."""
        found = self.compare()
        shares = [
            f"{name} {found['before'][key]:{form}} before, {found['after'][key]:{form}} after"
            for key, name, form in (
                ("short", "short answers", ".1%"), ("yes_no", "yes or no", ".1%"), ("words", "words", ".1f"),
            )
            if key in found["before"]
        ]  # fmt: skip
        turned = (
            f"{found['lost']} lost, {found['gained']} gained of {found['questions']}, p = {found['p']:.3f}"
        )
        say(f"retention: {'; '.join(shares)} ({turned}): {self.file}")

    def _write(self) -> None:
        steps = sorted(self.answers)
        asked = [question.reference for question in self.questions]
        answers = {str(step): self.answers[step] for step in steps}
        facts = self.compare() | {"references": asked, "answers": answers}
        write_text(self.file, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def read_questions(config: RetentionConfig) -> list[Asked]:
    """Every question with a short answer of the files, or the first `count`; each on its own with the pictures."""
    questions: list[Asked] = []
    for record in Mixture(list_sources(config.files, config.images), seed=0):
        for turn in record.conversation().turns():
            reference = turn.messages[-1].text.strip()
            if 0 < len(reference.split()) <= SHORT:
                questions.append(Asked(Conversation(turn.messages[:-1]), reference))
        if config.count is not None and len(questions) >= config.count:
            break
    if not questions:
        files = ", ".join(str(file) for file in config.files)
        raise ConfigError(
            f"retention.files={files}: no question there has an answer of at most {SHORT} words"
        )
    return questions[: config.count]
