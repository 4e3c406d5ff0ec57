"""One choice of an answer while it is said: tokens in, deltas of text and calls out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from llavakit.engine.request import Event
from llavakit.serve.call_forms import CALL_FORMS
from llavakit.serve.conversation import Calling
from llavakit.text.calls import Call
from llavakit.text.hermes import read_call
from llavakit.text.llava_plus import Thought
from llavakit.text.reply import Reply
from llavakit.text.tokenizer import Tokenizer

LEAST = -9999.0  # JSON has no infinity; OpenAI writes this
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Likely:
    """A token as text, with its log-probability."""

    token: str
    bytes: (
        list[int] | None
    )  # the letters; None where it is a part of a character, whose bytes the text does not show
    logprob: float


@dataclass(frozen=True)
class Chosen:
    """The token that was said, and the likeliest ones in its place."""

    said: Likely
    top: tuple[Likely, ...]


@dataclass(frozen=True)
class Delta:
    """What a choice gained: text, or a call; the tokens behind it if asked for; and how it ended, if it did."""

    choice: int
    text: str = ""
    call: Call | None = None
    logprobs: tuple[Chosen, ...] = ()
    finish: FinishReason | None = None
    thought: str = ""  # what comes before the answer, of an agent and in LLaVA-Plus' form


class Spelling:
    """Tokens as the text they add in the middle of a line."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # A letter in front keeps SentencePiece's decoder from dropping a first blank.
        self._before = [int(tokenizer.hf("a", add_special_tokens=False)["input_ids"][-1])]
        self._size = len(tokenizer.decode(self._before))
        self._known: dict[int, tuple[str, list[int] | None]] = {}  # as many as the vocabulary at most

    def likely(self, token: int, logprob: float) -> Likely:
        """A special token, which decoding skips, is spelled by its name."""
        if token not in self._known:
            text = self.tokenizer.decode([*self._before, token])[self._size :]
            text = text or self.tokenizer.tokens([token])[0]
            self._known[token] = text, None if "\ufffd" in text else list(text.encode())
        return Likely(*self._known[token], max(logprob, LEAST))


class Choice:
    """Reads tokens in the worker's thread. Joined, its texts are what `Chat.batch` gives: without blanks around."""

    def __init__(
        self,
        index: int,
        spelling: Spelling,
        stops: Sequence[str],
        calling: Calling,
        *,
        trim: bool = True,
        live: bool = True,
    ) -> None:
        """Without `trim` the blanks stay. If it is not `live`, nobody takes anything before its last event."""
        self.index, self.calling, self._trim = index, calling, trim
        self.num_tokens = 0
        self._spelling, self._reply = spelling, Reply(spelling.tokenizer, stops)
        # All answers wait for the worker's thread: where nothing in its text can end this one, text is made later.
        self._reads = live or bool(stops) or (bool(calling.free) and calling.only_first)
        self._unread: list[int] = []
        self._reader = CALL_FORMS[calling.form].reader(calling.free, only_first=calling.only_first)
        self._fresh: list[str | Call | Thought] = []  # read, and not taken yet
        self._whole = ""  # a forced call is read when it is complete
        self._blanks = ""  # at the end of what was said: they count only if something follows
        self._begun = self._called = False

    def ends(self, token: int) -> bool:
        """Take a token; whether the answer is at its end with it. Comes before the event that tells of it."""
        self.num_tokens += 1
        if not self._reads:
            self._unread.append(token)
            return False
        self._read(self._reply.add(token))
        return self._reply.ended or (self._reader is not None and self._reader.done)

    def take(self, event: Event) -> list[Delta]:
        """What an event of this choice adds. One that ends it has to be `stop` or `length`."""
        if event.finish is not None:
            self._read(self._reply.extend(self._unread) + self._reply.finish())
            if self.calling.forced:
                self._fresh += self._forced()
            elif self._reader is not None:
                self._fresh += self._reader.finish()
        logprobs = self._chosen(event)
        deltas = []
        for item in _joined(self._fresh):
            if isinstance(item, Call):
                self._called, self._blanks = True, ""
                deltas.append(Delta(self.index, call=item))
            elif isinstance(item, Thought):
                deltas.append(Delta(self.index, thought=item.text))
            elif text := self._trimmed(item):
                deltas.append(Delta(self.index, text))
        self._fresh = []
        if logprobs or event.finish is not None:
            deltas.append(Delta(self.index, logprobs=logprobs, finish=self._finish(event)))
        return deltas

    def _read(self, piece: str) -> None:
        if self.calling.forced:
            self._whole += piece
        elif self._reader is not None:
            self._fresh += self._reader.add(piece)
        else:
            self._fresh.append(piece)

    def _forced(self) -> list[str | Call]:
        call = read_call(self._whole, self.calling.forced)
        return [self._whole if call is None else call]  # text only where the token limit cut it short

    def _trimmed(self, text: str) -> str:
        if not self._trim:
            return text
        text = self._blanks + text
        if not self._begun:
            text = text.lstrip()
        said = text.rstrip()
        self._blanks = text[len(said) :]
        self._begun = self._begun or bool(said)
        return said

    def _chosen(self, event: Event) -> tuple[Chosen, ...]:
        if event.token is None or event.logprob is None:
            return ()
        top = tuple(self._spelling.likely(token, logprob) for token, logprob in event.top)
        return (Chosen(self._spelling.likely(event.token, event.logprob), top),)

    def _finish(self, event: Event) -> FinishReason | None:
        match event.finish:
            case None:
                return None
            case "length":
                return "length"
            case _:
                return "tool_calls" if self._called else "stop"


def _joined(items: Sequence[str | Call | Thought]) -> Iterator[str | Call | Thought]:
    """Texts that follow each other as one."""
    for is_text, group in groupby(items, lambda item: isinstance(item, str)):
        if is_text:
            yield "".join(item for item in group if isinstance(item, str))
        else:
            yield from group
