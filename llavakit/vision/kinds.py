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
    "video/mp4": ((4, b"ftyp"),),
    "video/webm": ((0, b"\x1a\x45\xdf\xa3"),),
    "video/x-msvideo": ((0, b"RIFF"), (8, b"AVI ")),
}
KINDS: dict[Sort, tuple[str, ...]] = {
    "image": tuple(kind for kind in MAGIC if kind.startswith("image/")),
    "video": (*(kind for kind in MAGIC if kind.startswith("video/")), "image/gif"),
}


def kind_of(data: bytes, sort: Sort) -> str | None:
    """The media type that the first bytes say, among those of pictures or videos."""
    for kind in KINDS[sort]:
        if all(data[at : at + len(letters)] == letters for at, letters in MAGIC[kind]):
            return kind
    return None
