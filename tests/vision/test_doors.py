"""A picture is the same one by every door, and a broken one is one line by every door."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import PIL.Image
import pytest

from llavakit.core.errors import DataError
from llavakit.vision.image import FORMATS, digest, image_size, load_image, spare_bits
from tests.vision.doors import doors
from tests.vision.test_depth import RAMP, png16, tiff, tiff12
from tests.vision.test_image import MODES, ORIENTATION, chunk, photo, rotated, smooth, written

TURNED = PIL.Image.fromarray(photo()).rotate(180)


def half_turn() -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 3
    return exif.tobytes()


def png(*, before: bytes = b"", behind: bytes = b"", image: PIL.Image.Image | None = None) -> bytes:
    """A PNG with more chunks in front of its pixels, or behind them."""
    data = written(image or PIL.Image.fromarray(photo()), "PNG")
    return data[:33] + before + data[33:-12] + behind + data[-12:]


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
RAW = "\nexif\n" + f"{len(half_turn()):8}\n" + half_turn().hex()
TAGS = {
    "eXIf": chunk(b"eXIf", half_turn().removeprefix(b"Exif\0\0")),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
    "XMP packed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP.encode())),
    "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW.encode())),
    "raw profile plain": chunk(b"tEXt", b"Raw profile type exif\0" + RAW.encode()),
}
LARGE = zlib.compress(bytes(3 * 2**20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "profile": chunk(b"iCCP", b"icc\0\0" + LARGE),
    "many": 3 * chunk(b"tEXt", b"Comment\0" + bytes(500_000)),
}


def shown(data: bytes, tmp_path) -> PIL.Image.Image:
    """What every door gives, and the size and digest that every door says."""
    sources = [*doors(data, tmp_path)]
    pictures = [load_image(source) for source in sources]
    assert len({(image.mode, image.size, image.tobytes()) for image in pictures}) == 1
    assert {image_size(source) for source in sources} == {pictures[0].size}
    assert digest(sources[0]) == digest(sources[1])
    return pictures[0]


def same(first: PIL.Image.Image, second: PIL.Image.Image) -> bool:
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_tag_of_a_png_turns_it_wherever_it_stands(tag, place, tmp_path):
    assert same(shown(png(**{place: TAGS[tag]}), tmp_path), TURNED)


def test_a_tag_behind_the_other_frames_of_an_animation_is_none_by_any_door(tmp_path):
    frames = [PIL.Image.fromarray(photo(seed=seed)) for seed in (0, 1)]
    data = written(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert same(shown(data[:-12] + TAGS["eXIf"] + data[-12:], tmp_path), frames[0])
    assert same(shown(data[:33] + TAGS["eXIf"] + data[33:], tmp_path), TURNED)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_text_of_a_png_never_costs_the_picture(text, place, tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.PngImagePlugin, "MAX_TEXT_MEMORY", 2**20)  # of all texts; 64 MiB in truth
    assert same(shown(png(**{place: TEXTS[text]}), tmp_path), PIL.Image.fromarray(photo()))
    for tag in (TAGS["eXIf"], TAGS["XMP packed"]):
        for both in (TEXTS[text] + tag, tag + TEXTS[text]):
            assert same(shown(png(**{place: both}), tmp_path), TURNED)


def test_broken_pixels_behind_a_large_text_are_an_error(tmp_path):
    data = png(behind=TEXTS["zTXt"], image=PIL.Image.fromarray(photo(90, 80)))
    at = data.index(b"IDAT") + 200
    broken = data[:at] + bytes(50) + data[at + 50 :]
    for source in doors(broken[:-1], tmp_path):
        with pytest.raises(DataError, match="broken image"):
            load_image(source)


SHORT = [
    b"",
    b"I",
    b"II*\0",
    b"II*\0\x08\0\0",
    b"MM\0*\0\0\0\x08",
    b"Exif\0\0",
    b"Exif\0\0II*",
    b"II*\0\xff\xff\xff\xff",
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", SHORT, ids=repr)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "PNG behind"])
def test_a_short_exif_block_is_no_tag(block, kind, tmp_path):
    if kind == "PNG behind":
        data = png(behind=chunk(b"eXIf", block))
    elif kind == "PNG":
        data = png(before=chunk(b"eXIf", block))
    elif kind == "JPEG":
        plain, body = written(smooth(), "JPEG"), b"Exif\0\0" + block
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    else:
        data = written(smooth(), "WEBP", exif=block or b"x")
    shown(data, tmp_path)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_the_newer_formats_are_read(kind, tmp_path):
    data = written(smooth(), kind, **({"quality": 95} if kind == "AVIF" else {}))
    difference = np.asarray(shown(data, tmp_path), dtype=float) - np.asarray(smooth(), dtype=float)
    assert np.abs(difference).mean() < 3
    with pytest.raises(DataError, match="image of"):
        load_image(data[: len(data) // 2])


def test_an_avif_stands_upright(tmp_path):
    turned = written(smooth().transpose(PIL.Image.Transpose.ROTATE_90), "AVIF", quality=95, exif=exif_of(6))
    image = shown(turned, tmp_path)
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image, dtype=float) - np.asarray(smooth(), dtype=float)).mean() < 3


def exif_of(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def test_grey_with_alpha_multiplied_in_is_grey():
    image = PIL.Image.merge("LA", (PIL.Image.new("L", (3, 2), 90), PIL.Image.new("L", (3, 2), 255)))
    assert load_image(image.convert("La")).getpixel((1, 1)) == (90, 90, 90)


@pytest.mark.parametrize("use", [load_image, image_size, digest, spare_bits])
def test_what_is_no_file_is_refused_at_once(use, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    devices = [path for path in map(type(tmp_path), ("/dev/zero", "/dev/tty")) if path.exists()]
    for path in (tmp_path / "pipe.png", tmp_path / "folder.png", tmp_path / "link.png", *devices):
        with pytest.raises(DataError, match=f"{path}: not a file"):
            use(path)
    for name in ("loop.png", "a\0b.png", "x" * 300 + ".png", "folder.png/../gone/a.png"):
        with pytest.raises(DataError, match=r"cannot be read|not found"):
            use(tmp_path / name)


# Every format that is opened, with its headers changed here and there


def originals() -> dict[str, bytes]:
    small = smooth(24, 16)
    return {
        **{name: data for name, (data, _) in MODES.items()},
        "jpeg": written(small, "JPEG", exif=exif_of(6)),
        "jpeg progressive": written(small, "JPEG", progressive=True),
        "webp exif": rotated("WEBP", 6),
        "tiff exif": rotated("TIFF", 6),
        "tiff lzw": written(small, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": written(small, "TIFF", compression="jpeg"),
        "tiff 12": tiff12(RAMP * 43),
        "tiff float": tiff(RAMP.astype("<f4"), t340=0.0, t341=95.0),
        "tiff signed": tiff(RAMP.astype("<i2"), t340=-5, t341=99),
        "png sbit": png16(RAMP * 43, 12),
        "png texts": png(before=TAGS["XMP packed"] + TAGS["raw profile"], behind=TAGS["eXIf"] + TEXTS["iTXt"]),
        "avif": written(small, "AVIF", exif=exif_of(6)),
        "jp2": written(small, "JPEG2000"),
        "j2k": written(small, "JPEG2000", no_jp2=True),
    }  # fmt: skip


ORIGINALS = originals()
ODD = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes of the first and last hundreds changed, or something cut out of it, or said twice."""
    changed = bytearray(data)
    near = [*range(min(len(data), 400)), *range(max(0, len(data) - 200), len(data))]
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.choice(near)
        changed[at] = chance.choice([*ODD, chance.randrange(256), changed[at] ^ 1 << chance.randrange(8)])
    at = chance.choice(near)
    match chance.randrange(8):
        case 0:
            del changed[at : at + chance.randrange(1, 30)]
        case 1:
            changed[at:at] = changed[at : at + chance.randrange(1, 30)]
        case 2:
            del changed[at:]
    return bytes(changed)


def outcome(use: Callable[[], object]) -> object:
    """What it gives, or None where it is refused in one line. Any other error fails the test."""
    try:
        return use()
    except DataError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ORIGINALS)
def test_changed_headers_are_the_same_picture_or_one_line_by_every_door(name, tmp_path):
    assert {PIL.Image.open(io.BytesIO(data)).format for data in ORIGINALS.values()} == set(FORMATS)
    chance = random.Random(name)
    for _ in range(60):
        data = mutated(ORIGINALS[name], chance)
        (tmp_path / "file").write_bytes(data)
        pictures = [outcome(partial(load_image, source)) for source in (data, tmp_path / "file")]
        size = outcome(partial(image_size, data))
        outcome(partial(spare_bits, data))
        assert size == outcome(partial(image_size, tmp_path / "file"))
        assert (pictures[0] is None) == (pictures[1] is None)
        if pictures[0] is not None:
            assert same(*pictures) and pictures[0].size == size
