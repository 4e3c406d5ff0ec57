"""Bytes as a URL of their own: `data:image/png;base64,...`."""

import base64
import binascii
import re

from llavakit.core.errors import DataError

# Letters decoded at once. Decoding holds the interpreter's lock: in a server that streams answers, one call
# for a large picture would stop them all for as long as it takes.
PIECE = 2**18
HEAD = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE | re.ASCII)


def decode_data_url(url: str | memoryview, limit: int) -> tuple[str, bytes]:
    """(media type as it is claimed, bytes). DataError, one line, for what is no data URL or above `limit` bytes.

    `url` may be the letters of one in a longer text.
    """
    match = HEAD.match(url[:512] if isinstance(url, str) else bytes(url[:512]).decode("ascii", "replace"))
    if match is None:
        raise DataError("not a data URL: data:image/png;base64,...")
    size = len(url) - match.end()
    if size > limit * 4 // 3 + 4:
        raise DataError(f"larger than {limit} bytes")
    if match[3] is None:
        raise DataError("a data URL of a picture or video is base64: data:image/png;base64,...")
    try:
        data = _decode(url, match.end())
    except (binascii.Error, ValueError):
        raise DataError("the data URL is not base64") from None
    if len(data) > limit:
        raise DataError(f"larger than {limit} bytes")
    return (match[1] or "").lower(), data


def _decode(text: str | memoryview, start: int) -> bytes:
    """What `base64.b64decode(text[start:], validate=True)` gives; a `=` too many, which that takes, is refused."""
    if (len(text) - start) % 4:
        raise binascii.Error("not in groups of four")
    places = range(start, len(text), PIECE)
    pieces = [base64.b64decode(text[at : at + PIECE], validate=True) for at in places]
    if any(len(piece) < PIECE // 4 * 3 for piece in pieces[:-1]):
        raise binascii.Error("padding in the middle")
    return b"".join(pieces)


def encode_data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
