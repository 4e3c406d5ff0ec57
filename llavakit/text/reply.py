"""An answer while it is being said: ids in, settled text out, ended by the template's stop strings."""

from collections.abc import Sequence

from llavakit.text.tokenizer import Tokenizer

WINDOW = 32  # tokens after which the text before them is not decoded again


class Reply:
    """The text of one answer. Joined, the pieces are `text`; nothing shown is ever taken back."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """`stops` are looked for in the text (`Tokenizer.stop_strings`); stop ids are the engine's business."""
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        # Decoded is from token `_start` on; the first `_known` letters of that, up to token `_settled`, are the end
        # of `_before`.
        self._start = self._settled = self._known = 0
        self._before = ""

    def add(self, token: int) -> str:
        """What the next token adds for certain. Letters that may begin a stop string wait for the next one."""
        self.ids.append(token)
        return self._read()

    def extend(self, tokens: Sequence[int]) -> str:
        """What several tokens add. Where no stop is looked for it is made in one go, and some may come later."""
        if self.stops:
            return "".join(self.add(token) for token in tokens if not self.ended)
        piece = ""
        for token in tokens:
            self.ids.append(token)
            if len(self.ids) - self._settled >= WINDOW:  # where `add` lets go of what came before
                piece += self._read()
        return piece + self._read() if self.ids else ""

    def _read(self) -> str:
        """What the ids add to the text for certain."""
        text = self._decode()
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.ended = True
            return self._grow(text[: min(found)])
        if text.endswith("\ufffd") or not self.tokenizer.settles(self.ids[-1]):
            return ""
        if len(self.ids) - self._settled >= WINDOW:
            self._start, self._settled, self._before = self._settled, len(self.ids), text
            self._known = len(self.tokenizer.decode(self.ids[self._start :]))
        return self._grow(text[: len(text) - self._may_begin(text)])

    def finish(self) -> str:
        """What was held back and turned out to be the answer's end."""
        return "" if self.ended else self._grow(self._decode())

    def _decode(self) -> str:
        """The text of all ids. A few tokens before the new ones are decoded with them: how a token is written may
        depend on the one before it, but not on those long before."""
        return self._before + self.tokenizer.decode(self.ids[self._start :])[self._known :]

    def _grow(self, text: str) -> str:
        piece, self.text = text[len(self.text) :], text
        return piece

    def _may_begin(self, text: str) -> int:
        """How many of the last letters could be the beginning of a stop string."""
        sizes = (size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
