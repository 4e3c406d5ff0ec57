"""An answer while it is drawn, wherever that is done: its tokens and where it ends are told by the same rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from llavakit.align.exchanges import Exchange
from llavakit.text.reply import Reply
from llavakit.text.template import Template
from llavakit.text.tokenizer import Tokenizer


@dataclass
class Sampled:
    """One answer, its end token included where it came."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of the model, at temperature 1
    text: str = ""
    finish: str = ""  # "stop" or "length", when it has come to its end
    exchanges: tuple[Exchange, ...] = ()  # the turns before the last one, where there are some
    counts: Mapping[str, float] = field(default_factory=dict)  # of what was done on the way


class Drawn:
    """Takes the tokens of one answer. The end token is one of them: it is said like any other, and learned too."""

    def __init__(self, tokenizer: Tokenizer, template: Template, cut_at: str | None) -> None:
        """`cut_at` is a text that ends the answer as if it were cut off."""
        self.answer = Sampled()
        self._reply = Reply(tokenizer, tokenizer.stop_strings(template))
        self._stop_ids, self._cut_at = tokenizer.stop_ids(template), cut_at
        self.is_cut = False

    def ends(self, token: int) -> bool:
        """Whether the answer is at its end with this token, the next one. Comes before `add`."""
        self._reply.add(token)
        self._look()
        return token in self._stop_ids or self._reply.ended or self.is_cut

    def add(self, token: int, logprob: float) -> None:
        """A token, and how likely whoever drew it found it."""
        self.answer.ids.append(token)
        self.answer.logprobs.append(logprob)

    def finish(self, how: str) -> None:
        """The end: "stop", or "length" where the limit came first."""
        self._reply.finish()
        self._look()
        self.answer.text = self._reply.text.strip()
        self.answer.finish = "length" if self.is_cut else how

    def _look(self) -> None:
        self.is_cut = self._cut_at is not None and self._cut_at in self._reply.text
