"""What kind of picture or video bytes are, by their first letters: the media types that travel between programs."""

from typing import Literal

Sort = Literal["image", "video"]

# First bytes (offset, letters) of each kind; all of a row must be there.
MAGIC: dict[str, tuple[tuple[int, bytes], ...]] = {
    "image/png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "image/jpeg": ((0, b"\xff\xd8\xff"),),
    "image/webp": ((0, b"RIFF"), (8, b"WEBP")),
    "image/gif": ((0, b"GIF8"),),
    "image/bmp": ((0, b"BM"),),
    "image/avif": ((4, b"ftypavif"),),
    "image/jp2": ((4, b"jP  \r\n\x87\n"),),
    "video/mp4": ((4, b"ftyp"),),
    "video/webm": ((0, b"\x1a\x45\xdf\xa3"),),
    "video/x-msvideo": ((0, b"RIFF"), (8, b"AVI ")),
    "video/mpeg": ((0, b"\x00\x00\x01\xba"),),
    "video/mp2t": ((0, b"G"), (188, b"G"), (376, b"G")),
    "video/vnd.dlna.mpeg-tts": ((4, b"G"), (196, b"G"), (388, b"G")),  # M2TS: each packet behind a time
    "video/x-flv": ((0, b"FLV\x01"),),
    "video/x-ms-wmv": ((0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),),
    "video/ogg": ((0, b"OggS"),),
}
KINDS: dict[Sort, tuple[str, ...]] = {
    "image": tuple(kind for kind in MAGIC if kind.startswith("image/")),
    "video": (*(kind for kind in MAGIC if kind.startswith("video/")), "image/gif"),
}
TRAVELLING = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")  # that every server takes


def kind_of(data: bytes, sort: Sort) -> str | None:
    """The media type that the first bytes say, among those of pictures or videos."""
    for kind in KINDS[sort]:
        if all(data[at : at + len(letters)] == letters for at, letters in MAGIC[kind]):
            return kind
    return None
