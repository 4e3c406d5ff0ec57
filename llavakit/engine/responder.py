"""Who answers conversations: the one face of a local model (`Chat`) and of one behind a URL (`Remote`)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llavakit.core.errors import UserError
from llavakit.core.faulty import set_apart
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, ImageSource, Video, VideoSource, open_media, user

GREEDY = Sampling()


@dataclass(frozen=True)
class Answer:
    """A whole answer, stripped, and why it ended: "stop", "length" (cut at max_tokens), or what a server says."""

    text: str
    finish: str
    prompt_tokens: int | None = field(
        default=None, compare=False
    )  # of pictures too; None: a server did not say
    answer_tokens: int | None = field(default=None, compare=False)


class Responder(ABC):
    """Conversations in, text out."""

    def ask(
        self,
        question: str,
        images: Sequence[str | ImageSource] = (),
        *,
        videos: Sequence[str | VideoSource] = (),
        sampling: Sampling = GREEDY,
    ) -> str:
        """The answer to one question about images (paths, bytes, opened) and videos (paths, bytes).

        A local model takes a video's frames as well.
        """
        asked = user(question, open_media(images, "images"), open_media(videos, "videos"))
        return self.batch([Conversation((asked,))], sampling=sampling)[0]

    def batch(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[str]:
        """The next assistant text of each conversation. Number i draws with seed + i."""
        return [answer.text for answer in self.answers(conversations, sampling=sampling)]

    @abstractmethod
    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """`batch`, with the reason why each answer ended."""

    def outcomes(
        self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY
    ) -> Iterator[tuple[int, Answer | UserError]]:
        """(number, its answer or why it has none), as they become known. Number i draws with seed + i.

        Here all are asked at once; where one of them cannot be (a broken picture), by halves to find it.
        """

        def ask(start: int, part: Sequence[Conversation]) -> Sequence[Answer]:
            return self.answers(part, sampling=sampling.model_copy(update={"seed": sampling.seed + start}))

        yield from set_apart(conversations, ask)

    @abstractmethod
    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces. Joined and stripped, they are what `batch` gives."""

    @abstractmethod
    def num_tokens(self, answer: str) -> int | None:
        """Tokens of an answer that was streamed; None if that is not known."""

    @abstractmethod
    def describe(self, video: Video) -> str:
        """One line about a video before it is asked about."""
