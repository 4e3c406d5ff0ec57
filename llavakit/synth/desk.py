"""Where the row of one item is written: who can be asked, what was asked for it, and with what random numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Literal, TypeVar

from llavakit.core.errors import DataError
from llavakit.engine.responder import Answer
from llavakit.synth.answers import Answers, name_request
from llavakit.synth.draft import Dropped
from llavakit.synth.items import Item, Known
from llavakit.synth.prompts import Prompt
from llavakit.synth.replies import Reply, Unread, read_reply, schema_of
from llavakit.synth.settings import SynthConfig
from llavakit.synth.writers import Writer
from llavakit.text.conversation import Conversation, Message, Part, Text, assistant

Role = Literal["by", "captioner", "judge", "blind"]
R = TypeVar("R", bound=Reply)
CUT = "length"  # why an answer ended that was longer than it may be
WITHHELD = "content_filter"


@dataclass(frozen=True)
class Asked:
    """A request that was made for a row."""

    role: Role
    talk: Conversation
    key: str
    answer: Answer
    known: bool  # it was there already


class Desk:
    """One item's. Its methods raise Dropped where the item gives no row, RemoteError where nobody answered."""

    def __init__(
        self,
        item: Item,
        known: Known,
        config: SynthConfig,
        prompts: Mapping[str, Prompt],
        writers: Mapping[Role, Writer],
        answers: Answers,
        *,
        turn: int = 0,
    ) -> None:
        """`turn` counts the times that the item was used before."""
        self.item, self.known, self.config, self.prompts = item, known, config, prompts
        self._writers, self._answers, self._turn = writers, answers, turn
        self.asked: list[Asked] = []
        self.mended = self.unread = 0
        self.dice = Random(self.draw("dice"))

    @property
    def prompt(self) -> Prompt:
        """The kind's."""
        return self.prompts[self.config.kind]

    def has(self, role: Role) -> bool:
        return role in self._writers

    def draw(self, *words: object) -> int:
        """A number that follows from the run's seed, the item and the words: the same whatever runs beside it."""
        told = repr((self.config.seed, self.item.id, self._turn, words))
        return (
            int.from_bytes(blake2b(told.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big") >> 1
        )

    def ask(
        self, talk: Conversation, step: str, *, role: Role = "by", schema: str | None = None,
        attempt: int = 0, greedy: bool = False,
    ) -> Answer:  # fmt: skip
        """The answer to a conversation; `step` tells requests with one prompt apart."""
        writer = self._writers[role]
        sampling = self.config.sampling(self.draw(step, attempt), schema, greedy=greedy)
        try:
            key = name_request(writer.who, talk, sampling)
            answer, known = self._answers.get(key, lambda: writer.ask(talk, sampling))
        except DataError as error:
            raise Dropped("broken", str(error)) from None
        self.asked.append(Asked(role, talk, key, answer, known))
        return answer

    def say(
        self, talk: Conversation, step: str, *, role: Role = "by", greedy: bool = False,
        check: Callable[[str], str] = lambda text: "",
    ) -> str:  # fmt: skip
        """A whole answer in words, in which `check` finds no problem."""
        problem, found = "", ""
        for attempt in range(self._attempts(greedy)):
            answer = self.ask(talk, step, role=role, attempt=attempt, greedy=greedy)
            found = answer.text
            problem = _problem(answer) or check(found)
            if not problem:
                return found
            self.unread += 1
        raise Dropped(problem, found)

    def write(
        self, talk: Conversation, kind: type[R], step: str = "", *, role: Role = "by", greedy: bool = False
    ) -> R:
        """An answer of a shape."""
        problem, found = "", ""
        for attempt in range(self._attempts(greedy)):
            answer = self.ask(talk, step, role=role, schema=schema_of(kind), attempt=attempt, greedy=greedy)
            problem, found = _problem(answer), answer.text
            if not problem:
                try:
                    reply, mended = read_reply(answer.text, kind)
                    self.mended += mended
                    return reply
                except Unread as error:
                    problem, found = "unread", f"{error} in {answer.text}"
            self.unread += 1
        raise Dropped(problem, found)

    def _attempts(self, greedy: bool) -> int:
        """A greedy writer would say the same again."""
        return 1 if greedy or self.config.temperature == 0 else self.config.attempts

    def prompted(
        self, media: Sequence[Part], shots: Sequence[tuple[str, str]], text: str, task: str
    ) -> Conversation:
        """The task, examples as turns before it, and the item."""
        messages: list[Message] = []
        head = task
        for shown, reply in shots:
            messages += [Message("user", (Text(_joined(head, shown)),)), assistant(reply)]
            head = ""
        messages.append(Message("user", (*media, Text(_joined(head, text)))))
        return Conversation(tuple(messages))


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _problem(answer: Answer) -> str:
    """Why an answer cannot be used, whatever it says."""
    if answer.finish == CUT:
        return "truncated"
    if answer.finish == WITHHELD:
        return "refusal"
    return "" if answer.text else "empty"
