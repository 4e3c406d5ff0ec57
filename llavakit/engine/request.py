"""What the engine is asked, and what it tells while it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from torch import Tensor

from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.engine.sampler import Sampling

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


Listen = Callable[[Event], object]
Ends = Callable[[int, int], bool]  # (choice, token): is the choice at its end with this token?


def never(choice: int, token: int) -> bool:
    """Nothing but stop tokens and limits ends an answer."""
    return False


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
    salt: bytes = b""  # whose it is: only they find again what is kept of it


def media_key(media: Media, salt: bytes = b"") -> bytes:
    """Equal for pictures of one `salt` that give equal rows: by what is seen and how it is cut."""
    return blake2b(salt + f"{media.content()} {media.plan!r}".encode(), digest_size=16).digest()


def name_tokens(sample: Sample, keys: Sequence[bytes]) -> tuple[int, ...]:
    """The names of a sample's tokens. Those of pictures are negative, so no token id is among them."""
    names: list[int] = list(sample.ids)
    slots = [at for at, token in enumerate(sample.ids) if token == IMAGE_ID]
    start = 0
    for media, key in zip(sample.media, keys, strict=True):
        number = -1 - (int.from_bytes(key[:8], "big") >> 1)
        for at in slots[start : start + media.plan.num_tokens]:
            names[at] = number
        start += media.plan.num_tokens
    return tuple(names)
