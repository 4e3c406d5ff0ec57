"""What Pillow does not tell of a PNG before it decodes it, and a PNG without the texts that Pillow refuses to read.

Tags may stand in front of the pixels and behind them. Only the heads of chunks are read on the way, no pixel.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # nothing that a pixel depends on
KEYS = ("XML:com.adobe.xmp", "Raw profile type exif")  # the texts that may say which way up it is
MAX_TAG = 2**20  # bytes, stored and unpacked


def read_tags(file: IO[bytes]) -> dict[str, str | bytes]:
    """What may say how it is shown, by the names that Pillow has for it in `info`: `exif`, KEYS; and `sBIT`.

    Broken and overlong ones are left out, and so is what stands behind the first frame of an animation: an image
    that Pillow has decoded does not know it. The file stands where it stood before.
    """
    before, found, seen = file.tell(), dict[str, str | bytes](), False
    for name, length in _chunks(file):
        seen |= name == b"IDAT"
        if seen and name == b"fcTL":
            break
        if length > MAX_TAG:
            continue
        if name == b"eXIf":
            found["exif"] = b"Exif\0\0" + file.read(length)
        elif name == b"sBIT":
            found["sBIT"] = file.read(length)
        elif name in TEXTS[:3]:
            key, _, rest = file.read(length).partition(b"\0")
            if (text := key.decode("latin-1")) in KEYS and (said := _text(name, rest)) is not None:
                found[text] = said
    file.seek(before)
    return found


def without_texts(file: IO[bytes]) -> bytes:
    """The same picture, and nothing of TEXTS."""
    kept = [SIGNATURE]
    for name, length in _chunks(file):
        if name not in TEXTS:
            file.seek(-8, 1)
            kept.append(file.read(length + 12))
    return b"".join(kept)


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """(name, length) of each chunk, the file standing at its data; none where it is no PNG."""
    at = len(SIGNATURE)
    file.seek(0)
    if file.read(at) != SIGNATURE:
        return
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        yield name, length
        at += length + 12


def _text(name: bytes, rest: bytes) -> str | None:
    """The text of a tEXt, zTXt or iTXt chunk behind its key."""
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    elif packed:
        rest = rest[1:]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_TAG)
        except zlib.error:
            return None
    return rest.decode("utf-8" if name == b"iTXt" else "latin-1", "replace")
