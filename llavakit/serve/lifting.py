"""Pictures taken out of a request's body before it is read as JSON.

Counting, reading and copying what is in a body holds the interpreter's lock: a picture of 16 MiB stops every other
answer for tens of milliseconds. Here only a few quotes are looked for; the letters between them stay where they
are, and are decoded from there piece by piece.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from llavakit.serve.conversation import MediaUrl
from llavakit.serve.fields import Drawn
from llavakit.serve.parse import Body, parse
from llavakit.serve.settings import ServeConfig

R = TypeVar("R", bound=Drawn)
LONG = 2**16  # bytes; shorter URLs are read with all else
MOST = 1000  # places that are looked at
START, NAMES = b'"data:', (b'"url"', b'"image_url"', b'"video_url"')
NEAR = 64  # bytes in front of a URL that its field's name is looked for in


def lifting_reader(
    kind: type[R], check: Callable[[R, ServeConfig], None], links: Callable[[R], Sequence[MediaUrl]]
) -> Callable[[Body, ServeConfig], R]:
    """What reads bodies of a kind and checks them. `links` are the pictures and videos of a request.

    Its long data URLs are `lifted`, and the body lives as long as they do.
    """

    def read(body: Body, settings: ServeConfig) -> R:
        small, lifted = lift(body)
        request = parse(small, settings.max_json_values, kind).with_lifted(lifted)
        if lifted and sum(isinstance(link.url, memoryview) for link in links(request)) < len(lifted):
            # Some of them are no pictures: they stand in a tool's schema, say, or twice under one name.
            request = parse(body, settings.max_json_values, kind)
        check(request, settings)
        return request

    return read


def lift(body: Body) -> tuple[Body, Mapping[str, memoryview]]:
    """The body with short names in the place of long data URLs, and what these names stand for.

    A URL with a backslash in it stays: it is not what JSON's letters say. Nobody can guess the names.
    """
    mark, lifted, pieces, done, at = secrets.token_hex(8), dict[str, memoryview](), list[Body](), 0, 0
    for number in range(MOST):
        start = body.find(START, at) + 1
        end = body.find(b'"', start) if start else -1
        if end < 0:
            break
        at = end
        if end - start < LONG or not _is_link(body, start - 1) or body.find(b"\\", start, end) >= 0:
            continue
        name = f"data:,{mark}-{number}"
        lifted[name] = memoryview(body)[start:end]
        pieces += [body[done:start], name.encode()]
        done = end
    return (b"".join([*pieces, body[done:]]) if lifted else body), lifted


def _is_link(body: Body, quote: int) -> bool:
    """Whether the string that begins at `quote` is the value of a link's field."""
    before = body[max(quote - NEAR, 0) : quote].rstrip()
    return before.endswith(b":") and before[:-1].rstrip().endswith(NAMES)
