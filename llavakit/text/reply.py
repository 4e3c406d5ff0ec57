"""An answer while it is being said: ids in, settled text out, ended by the template's stop strings."""

from collections.abc import Sequence

from llavakit.text.tokenizer import Tokenizer


class Reply:
    """The text of one answer. Joined, the pieces are `text`; nothing shown is ever taken back."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """`stops` are looked for in the text (`Tokenizer.stop_strings`); stop ids are the engine's business."""
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.ids: list[int] = []
        self.text = ""
        self.ended = False

    def add(self, token: int) -> str:
        """What the next token adds for certain. Letters that may begin a stop string wait for the next one."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.ended = True
            return self._grow(text[: min(found)])
        if text.endswith("\ufffd") or not self.tokenizer.settles(token):
            return ""
        return self._grow(text[: len(text) - self._may_begin(text)])

    def finish(self) -> str:
        """What was held back and turned out to be the answer's end."""
        return "" if self.ended else self._grow(self.tokenizer.decode(self.ids))

    def _grow(self, text: str) -> str:
        piece, self.text = text[len(self.text) :], text
        return piece

    def _may_begin(self, text: str) -> int:
        """How many of the last letters could be the beginning of a stop string."""
        sizes = (size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
