"""Bytes as a URL of their own: `data:image/png;base64,...`."""

import base64
import binascii
import re

from llavakit.core.errors import DataError

HEAD = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE | re.ASCII)


def decode_data_url(url: str, limit: int) -> tuple[str, bytes]:
    """(media type as it is claimed, bytes). DataError, one line, for what is no data URL or above `limit` bytes."""
    match = HEAD.match(url[:512])
    if match is None:
        raise DataError("not a data URL: data:image/png;base64,...")
    size = len(url) - match.end()
    if size > limit * 4 // 3 + 4:
        raise DataError(f"larger than {limit} bytes")
    if match[3] is None:
        raise DataError("a data URL of a picture or video is base64: data:image/png;base64,...")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise DataError("the data URL is not base64") from None
    if len(data) > limit:
        raise DataError(f"larger than {limit} bytes")
    return (match[1] or "").lower(), data


def encode_data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
