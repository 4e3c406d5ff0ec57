"""What the engine is asked, and what it tells while it answers."""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.engine.grammar import Grammar
from llavakit.engine.sampler import Sampling
from llavakit.text.reply import Reply
from llavakit.text.tokenizer import Tokenizer


class ContextError(DataError):
    """A prompt that leaves no place for an answer: `length` says how many tokens it has, `context` holds both."""

    def __init__(self, tokens: int, context: int, what: str, *, at_least: bool = False) -> None:
        """With `at_least` nobody counted to the end."""
        self.length = f"at least {tokens}" if at_least else str(tokens)
        self.context = context
        super().__init__(f"the prompt has {self.length} tokens; {what} {context}")


Finish = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class Event:
    """One choice of a request said a token, or ended, or both.

    `token` is None where it ended without one: a stop token is not shown. `logprob` and `top` as asked for.
    """

    request: int
    choice: int
    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    error: Exception | None = None  # why it "failed"


Listen = Callable[[Event], object]
Ends = Callable[[int, int], bool]  # (choice, token): is the choice at its end with this token?


def never(choice: int, token: int) -> bool:
    """Nothing but stop tokens and limits ends an answer."""
    return False


class Stops:
    """Ends answers at texts. Whoever reads the text of an answer anyway looks for them there (chat.py, serve)."""

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling, ends: Ends) -> None:
        self._replies = [Reply(tokenizer, sampling.stop) for _ in range(sampling.n)]
        self._ends = ends

    def __call__(self, choice: int, token: int) -> bool:
        self._replies[choice].add(token)
        return self._ends(choice, token) or self._replies[choice].ended


@dataclass(frozen=True)
class Request:
    """A prompt ready to run: its pictures are decoded, and its tokens have names.

    `names` are the token ids, with a number made of the picture's content and plan in its slots: equal names mean
    equal keys and values. `tiles` are those of the media whose rows the engine did not know when it was prepared.
    """

    sample: Sample
    sampling: Sampling
    names: tuple[int, ...]
    keys: tuple[bytes, ...]  # of the media
    tiles: dict[bytes, Tensor]
    slots: tuple[int, ...]  # places of pictures' tokens, media after media
    grammar: Grammar | None = None  # compiled where the request was prepared, not where others wait for it
    salt: bytes = b""  # whose it is: only they find again what is kept of it

    def unseen(self, start: int, seen: Container[bytes]) -> Iterator[tuple[bytes, Media, int]]:
        """The media that are not `seen` and have slots at token `start` or behind it: each with its first slot."""
        first, low = bisect_left(self.slots, start), 0
        for key, media in zip(self.keys, self.sample.media, strict=True):
            high = low + media.plan.num_tokens
            if high > first and key not in seen:
                yield key, media, self.slots[low]
            low = high

    def rows_between(
        self, start: int, end: int, seen: Mapping[bytes, Tensor]
    ) -> tuple[tuple[int, ...], list[Tensor]]:
        """The slots among the tokens `start..end`, and what stands there: parts of the rows_SD `seen` of media."""
        first, after = bisect_left(self.slots, start), bisect_left(self.slots, end)
        rows: list[Tensor] = []
        low = 0
        for key, media in zip(self.keys, self.sample.media, strict=True):
            high = low + media.plan.num_tokens
            if low < after and high > first:
                rows.append(seen[key][max(first - low, 0) : after - low])
            low = high
        return self.slots[first:after], rows


class Album:
    """The media of requests of one `salt` that are prepared together: each is named and decoded once."""

    def __init__(self, salt: bytes = b"") -> None:
        self.salt = salt
        self._keys: dict[int, tuple[Media, bytes]] = {}
        self._tiles: dict[bytes, Tensor] = {}

    def key(self, media: Media) -> bytes:
        """`media_key`."""
        if id(media) not in self._keys:
            self._keys[id(media)] = media, media_key(media, self.salt)
        return self._keys[id(media)][1]

    def tiles(self, key: bytes, media: Media) -> Tensor:
        """uint8[N, H, W, 3], or what the tower gives for them, [N, R, C]."""
        if key not in self._tiles:
            self._tiles[key] = media.tiles()
        return self._tiles[key]


def media_key(media: Media, salt: bytes = b"") -> bytes:
    """Equal for pictures of one `salt` that give equal rows: by what is seen and how it is cut."""
    return blake2b(salt + f"{media.content()} {media.plan!r}".encode(), digest_size=16).digest()


def name_tokens(sample: Sample, keys: Sequence[bytes], slots: Sequence[int]) -> tuple[int, ...]:
    """The names of a sample's tokens. Those of pictures are negative, so no token id is among them."""
    names: list[int] = list(sample.ids)
    start = 0
    for media, key in zip(sample.media, keys, strict=True):
        number = -1 - (int.from_bytes(key[:8], "big") >> 1)
        for at in slots[start : start + media.plan.num_tokens]:
            names[at] = number
        start += media.plan.num_tokens
    return tuple(names)
