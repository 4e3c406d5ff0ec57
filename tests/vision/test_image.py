"""Every ordinary picture just works, and every broken or hostile file is one line with its name."""

import io
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from llavakit.core.errors import DataError
from llavakit.vision.image import MAX_PIXELS, cut_tiles, digest, image_size, load_image, name_of
from llavakit.vision.plan import ImageConfig, plan_image

ORIENTATION = 0x0112
# What turns an upright picture into the stored one of each orientation (the inverse of the tag's meaning).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


def photo(width: int = 12, height: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(width: int = 64, height: int = 48) -> PIL.Image.Image:
    return PIL.Image.fromarray(photo(4, 3)).resize((width, height), PIL.Image.Resampling.BICUBIC)


def written(image: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated(kind: str, orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return written(PIL.Image.fromarray(STORED[orientation](photo()).copy()), kind, exif=exif, **lossless)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claims(width: int, height: int) -> bytes:
    """A PNG whose header says so, with a single row's worth of data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def modes() -> dict[str, tuple[bytes, PIL.Image.Image]]:
    """File bytes and the RGB picture they should give."""
    base = PIL.Image.fromarray(photo())
    grey, alpha = base.convert("L"), PIL.Image.fromarray(photo(seed=1)[..., 0])
    deep = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    deep_rgb = PIL.Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    pgm = b"P5 12 8 65535\n" + deep.astype(">u2").tobytes()
    palette = base.quantize(16)
    bilevel = grey.point(lambda value: 255 * (value > 127)).convert("1")
    frames = [PIL.Image.fromarray(photo(seed=seed)) for seed in (0, 1, 2)]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 50}
    return {
        "rgb": (written(base, "PNG"), base),
        "bmp": (written(base, "BMP"), base),
        "tiff": (written(base, "TIFF"), base),
        "ppm": (written(base, "PPM"), base),
        "webp": (written(base, "WEBP", lossless=True), base),
        "grey": (written(grey, "PNG"), grey.convert("RGB")),
        "grey16": (written(PIL.Image.fromarray(deep), "PNG"), deep_rgb),
        "grey16 tiff": (written(PIL.Image.fromarray(deep), "TIFF"), deep_rgb),
        "grey16 pgm": (pgm, deep_rgb),
        "1-bit": (written(bilevel, "PNG"), bilevel.convert("RGB")),
        "palette": (written(palette, "PNG"), palette.convert("RGB")),
        "palette transparent": (written(palette, "PNG", transparency=0), palette.convert("RGB")),
        "LA": (written(PIL.Image.merge("LA", (grey, alpha)), "PNG"), grey.convert("RGB")),
        "RGBA": (written(PIL.Image.merge("RGBA", (*base.split(), alpha)), "PNG"), base),
        "animated webp": (written(frames[0], "WEBP", lossless=True, **animated), base),
        "animated gif": (
            written(palette, "GIF", save_all=True, append_images=[palette.rotate(180)], duration=50),
            palette.convert("RGB"),
        ),
    }


MODES = modes()


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_the_same_picture_in_rgb(name, tmp_path):
    data, expected = MODES[name]
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, path, PIL.Image.open(path)):
        image = load_image(source)
        assert image.mode == "RGB"
        assert image_size(source) == image.size == expected.size
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_jpeg_is_near_its_original(options):
    data = written(smooth(), "JPEG", quality=95, **options)
    difference = np.asarray(load_image(data), dtype=float) - np.asarray(smooth(), dtype=float)
    assert np.abs(difference).mean() < 3


def test_a_cmyk_jpeg_is_not_inverted():
    data = written(smooth().convert("CMYK"), "JPEG", quality=95)
    assert PIL.Image.open(io.BytesIO(data)).mode == "CMYK"
    difference = np.asarray(load_image(data), dtype=float) - np.asarray(smooth(), dtype=float)
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_rotated_picture_stands_upright(kind, orientation):
    data = rotated(kind, orientation)
    for source in (data, PIL.Image.open(io.BytesIO(data))):
        assert np.array_equal(np.asarray(load_image(source)), photo())
        assert image_size(source) == (12, 8)


@pytest.mark.parametrize("orientation", STORED)
def test_a_rotated_jpeg_stands_upright_from_file_bytes_and_memory(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    stored = PIL.Image.fromarray(STORED[orientation](np.asarray(smooth())).copy())
    path = tmp_path / "photo.jpg"
    path.write_bytes(written(stored, "JPEG", quality=95, exif=exif))
    for source in (path, path.read_bytes(), PIL.Image.open(path)):
        image = load_image(source)
        assert image_size(source) == image.size == (64, 48)
        assert np.abs(np.asarray(image, dtype=float) - np.asarray(smooth(), dtype=float)).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("tag", [b"Exif\x00\x00broken", b"Exif\x00\x00II*\x00\xff\xff\xff\x7f", b""])
def test_a_broken_orientation_tag_does_not_make_a_picture_unusable(tag):
    data = written(smooth(), "JPEG", exif=tag)
    assert load_image(data).size == image_size(data) == (64, 48)


def test_the_size_of_a_png_is_read_without_decoding_its_pixels():
    data = written(PIL.Image.new("RGB", (3000, 3000)), "PNG")
    seconds = {}
    for use in (load_image, image_size):
        began = time.perf_counter()
        use(data)
        seconds[use] = time.perf_counter() - began
    assert seconds[image_size] < seconds[load_image] / 5


def broken_files(folder: Path) -> dict[str, Path]:
    png, jpeg = written(PIL.Image.fromarray(photo(60, 50)), "PNG"), written(smooth(), "JPEG")
    contents = {
        "empty.png": b"",
        "cut.png": png[: len(png) // 2],
        "header.png": png[:20],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.gif": MODES["animated gif"][0][:100],
        "cut.webp": MODES["webp"][0][:60],
        "text.png": b"this is not a picture\n" * 9,
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>',
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "page.png": b"<!DOCTYPE html><html><body>404</body></html>",
        "bomb.png": claims(50_000, 50_000),
        "large.png": claims(10_000, 9_000),
    }
    files = {}
    for name, content in contents.items():
        files[name] = folder / name
        files[name].write_bytes(content)
    files["missing.png"] = folder / "missing.png"
    files["folder.png"] = folder / "folder.png"
    files["folder.png"].mkdir()
    return files


BROKEN = [
    "empty.png", "cut.png", "header.png", "cut.jpg", "cut.gif", "cut.webp", "text.png", "drawing.svg",
    "drawing.eps", "page.png", "bomb.png", "large.png", "missing.png", "folder.png",
]  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_with_its_name(name, tmp_path):
    files = broken_files(tmp_path)
    assert set(files) == set(BROKEN)
    with pytest.raises(DataError) as caught:
        load_image(files[name])
    assert str(files[name]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ("missing.png", "folder.png")])
def test_broken_bytes_are_called_by_their_number(name, tmp_path):
    data = broken_files(tmp_path)[name].read_bytes()
    with pytest.raises(DataError, match=f"image of {len(data)} bytes"):
        load_image(data)


def test_a_truncated_picture_in_memory_is_an_error_of_the_user(tmp_path):
    path = broken_files(tmp_path)["cut.png"]
    for use in (load_image, image_size, digest):
        with pytest.raises(DataError, match="image in memory: broken image"):
            use(PIL.Image.open(path))


@pytest.mark.parametrize("size", [(50_000, 50_000), (MAX_PIXELS, 2), (10_000, 9_000)])
def test_a_bomb_is_refused_by_its_header_at_once(size):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for use in (load_image, image_size):
        with pytest.raises(DataError, match=r"limit|pixels"):
            use(claims(*size))
    assert time.perf_counter() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_the_digest_names_the_content_not_the_path(tmp_path):
    first, second, other = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    first.write_bytes(written(PIL.Image.fromarray(photo()), "PNG"))
    second.write_bytes(first.read_bytes())
    other.write_bytes(written(PIL.Image.fromarray(photo(seed=1)), "PNG"))
    assert digest(first) == digest(second) == digest(first.read_bytes())
    assert digest(first) != digest(other)


def test_the_digest_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(DataError, match=r"image not found: .*gone\.png"):
        digest(tmp_path / "gone.png")


def test_the_digest_in_memory_sees_pixels_size_palette_and_rotation():
    base = PIL.Image.fromarray(photo())
    assert digest(base) == digest(base.copy())
    assert digest(base) != digest(PIL.Image.fromarray(photo(seed=1)))
    assert digest(PIL.Image.new("RGB", (2, 3))) != digest(PIL.Image.new("RGB", (3, 2)))
    red, green = PIL.Image.new("P", (2, 2)), PIL.Image.new("P", (2, 2))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])
    assert digest(red) != digest(green)
    tagged = [PIL.Image.open(io.BytesIO(rotated("PNG", orientation))) for orientation in (1, 3)]
    assert digest(tagged[0]) == digest(tagged[1])  # stored differently, upright the same
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 3
    turned = PIL.Image.open(io.BytesIO(written(base, "PNG", exif=exif)))
    assert digest(turned) != digest(base)


def test_every_source_has_a_name():
    assert name_of(Path("x/y.png")) == "x/y.png"
    assert name_of(b"12345") == "image of 5 bytes"
    assert name_of(PIL.Image.new("L", (1, 1))) == "image in memory"


def test_an_image_in_memory_stays_usable_and_unchanged():
    base = PIL.Image.fromarray(photo()).convert("RGBA")
    load_image(base)
    image_size(base)
    assert base.mode == "RGBA"
    assert base.getpixel((0, 0))[:3] == tuple(photo()[0, 0])


def test_tiles_are_bytes_of_the_planned_shape():
    config = ImageConfig(kind="pad", size=28, grid=2)
    plan = plan_image(config, (12, 8))
    tiles = cut_tiles(PIL.Image.fromarray(photo()), plan)
    assert tiles.shape == (1, 28, 28, 3)
    assert tiles.dtype == np.uint8
