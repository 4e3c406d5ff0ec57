"""Judges for tests: they say what a function makes of a prompt, and fail as servers do."""

import re

from llavakit.core.errors import UserError
from llavakit.engine.responder import Answer, Responder
from llavakit.vision.image import load_image

FIRST = re.compile(r"\[Response 1\]\n(.*?)\n\[End of response 1\]", re.DOTALL)
ANSWER = re.compile(r"\[Answer\]\n(.*?)\n\[End of answer\]", re.DOTALL)


class ScriptedJudge(Responder):
    """Says what `say` gives for the text of a prompt; an error that it gives is one of the server."""

    def __init__(self, say, *, dies_after=None):
        self.say, self.dies_after, self.asked = say, dies_after, []

    def outcomes(self, conversations, *, sampling=None):
        for number, talk in enumerate(conversations):
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            for image in talk.images:
                load_image(image.source)
            self.asked.append(talk.messages[0].text)
            said = self.say(talk.messages[0].text)
            yield number, said if isinstance(said, UserError) else Answer(said, "stop", 100, 10)

    def answers(self, conversations, *, sampling=None):
        raise AssertionError

    stream = num_tokens = describe = answers


def prefers(good):
    """Answers of the format `better`: the response that `good` likes, with words about both."""

    def say(prompt):
        winner = "1" if good(FIRST.search(prompt)[1]) else "2"
        return f"Response 1 and response 2 differ.\nThe better response: [{winner}]"

    return say


def longest(prompt):
    """Answers of the format `better`: the longer response, and the first of equals."""
    second = prompt.split("[Response 2]\n")[1].split("\n[End of response 2]")[0]
    return f"The better response: [{1 if len(FIRST.search(prompt)[1]) >= len(second) else 2}]"


def scores(points):
    """Answers of the format `score`."""
    return lambda prompt: f"Score: {points(ANSWER.search(prompt)[1])}\nIt could be better."


def truthful(text: str) -> bool:
    """Whether an answer of the drawn gold set, or one that says so, is right."""
    return "right" in text


def red(count: int, **more) -> list[dict]:
    """Pairs whose right answer is first in even cases."""
    both = ["the right one", "a wrong one"]
    return [
        {
            "id": str(n),
            "question": f"Which {n}?",
            "answers": both[:: 1 if n % 2 == 0 else -1],
            "label": 1 + n % 2,
        }
        | more
        for n in range(count)
    ]
