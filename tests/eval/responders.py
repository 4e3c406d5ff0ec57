"""Responders without a model."""

from llavakit.engine.responder import Answer, Responder
from llavakit.vision.image import load_image


class Scripted(Responder):
    """Says what `say` gives for a question's text and its seed; counts what it was asked."""

    def __init__(self, say, *, dies_after: int | None = None) -> None:
        self.say, self.dies_after, self.asked = say, dies_after, []

    def answers(self, conversations, *, sampling=None):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        for talk in conversations:
            for image in talk.images:
                load_image(image.source)
        said = []
        for place, talk in enumerate(conversations):
            self.asked.append(talk.messages[0].text)
            said.append(self.say(talk.messages[0].text, sampling.seed + place))
        return said

    def stream(self, conversation, *, sampling=None):
        raise AssertionError

    def num_tokens(self, answer):
        raise AssertionError

    def describe(self, video):
        raise AssertionError


def always(text: str, finish: str = "stop") -> Scripted:
    return Scripted(lambda *_: Answer(text, finish))
