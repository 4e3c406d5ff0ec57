"""Pictures and videos from strangers: places, sizes, kinds."""

import base64
import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.data.media import Measured
from llavakit.serve import media
from llavakit.serve.budget import MemoryBudget, MemoryShare
from llavakit.serve.fetch import Fetcher
from llavakit.serve.media import Budget, MediaReader, default_fetcher
from llavakit.serve.settings import ServeConfig
from llavakit.vision.image import image_size, load_image
from llavakit.vision.kinds import KINDS, MAGIC
from llavakit.vision.video import probe_video
from tests.serve.test_fetch import ANY_PORT, HOME
from tests.serve.web import page, web
from tests.vision.clips import write_clip

LIMITS = ServeConfig(max_image_bytes=20_000, max_image_pixels=10_000, max_video_bytes=400_000)
FETCHER = default_fetcher(LIMITS)
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def share() -> MemoryShare:
    return MemoryShare(MemoryBudget(10**9))


def encoded(kind: str, size: tuple[int, int] = (20, 16)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read(url: str, sort: str = "image", **how) -> bytes:
    limits = LIMITS.model_copy(update=how)
    return (
        MediaReader(limits, FETCHER)
        .read(url, sort, Budget(limits.max_media_bytes, share=share()), measure)
        .data
    )


def measure(sort: str, data: bytes) -> Measured:
    """In this process; the server has others for it."""
    return image_size(data) if sort == "image" else probe_video(data)


def refused(url: str, sort: str = "image", **how) -> str:
    with pytest.raises(DataError) as error:
        read(url, sort, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header asks for very many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(5000), 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "avif", "jp2"])
def test_every_kind_is_read_whatever_it_is_said_to_be(kind):
    """Clients and web servers name pictures wrongly; the bytes have the word."""
    data = encoded({"jp2": "jpeg2000"}.get(kind, kind))
    other = "image/png" if kind != "png" else "image/jpeg"
    for claim in (
        f"image/{kind}",
        other,
        "application/octet-stream",
        "",
        "text/plain",
        "image/tiff",
        "video/mp4",
    ):
        assert read(data_url(data, claim)) == data


def test_other_names_of_a_kind_are_known():
    assert read(data_url(encoded("jpeg"), "IMAGE/JPG")) == encoded("jpeg")
    assert read(data_url(encoded("bmp"), "image/x-ms-bmp;charset=x")) == encoded("bmp")


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (SVG, "image/svg+xml", "its media type is image/svg.xml"),
        (SVG, "image/png", "not an image in a known format"),
        (SVG, "", "not an image in a known format"),
        (b"", "image/png", "not an image in a known format"),
        (b"<html>", "text/html", "its media type is text/html"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "image/png", "not an image in a known format"),
        (b"II*\x00" + bytes(100), "image/tiff", "its media type is image/tiff"),
        (b"GIF89a=1;alert(1)//", "image/gif", "image"),
        (b"\x89PNG\r\n\x1a\n", "image/png", "image"),
        (b"BM" + bytes(3), "image/bmp", "image"),
        (bomb(200_000, 200_000), "image/png", "pixels"),
        (bomb(101, 100), "image/png", "101 x 100 pixels; at most 10000"),
        (bytes(20_001), "image/png", "larger than 20000 bytes"),
    ],
)
def test_what_is_no_bearable_picture_is_refused(data, kind, said):
    assert said in refused(data_url(data, kind)).replace("svg+xml", "svg.xml")


@pytest.mark.parametrize(
    "url",
    ["data:", "data:image/png", "data:image/png;base64", "data:image/png,abc", "data:image/png;base64,@@@",
     "data:image/png;base64,abc", "data:;;;,", "data:image/png;base64 ,AAAA", "data:" + "x" * 100_000, "DATA:,"],
)  # fmt: skip
def test_broken_data_urls_are_one_clear_line(url):
    assert "base64" in refused(url) or "larger than" in refused(url)


def test_a_picture_that_is_cut_short_passes_the_header_and_fails_when_decoded():
    cut = encoded("png", (90, 90))[:-200]
    assert read(data_url(cut), max_image_bytes=10**6) == cut
    with pytest.raises(DataError, match="broken image"):
        load_image(cut)


def test_media_of_a_request_share_a_budget():
    data = encoded("png")
    reader, budget = MediaReader(LIMITS, FETCHER), Budget(2 * len(data), share=share())
    for _ in range(2):
        reader.read(data_url(data), "image", budget, measure)
    with pytest.raises(DataError, match="together are larger than"):
        reader.read(data_url(data), "image", budget, measure)


def test_videos_are_read_and_pictures_are_none(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4").read_bytes()
    assert read(data_url(clip, "video/mp4"), "video") == clip
    assert read(data_url(clip, "video/quicktime"), "video") == clip
    for suffix, codec, kind in (
        ("flv", "flv1", "x-flv"),
        ("wmv", "wmv2", "x-ms-asf"),
        ("mpg", "mpeg1video", "mpeg"),
    ):
        other = write_clip(tmp_path / f"clip.{suffix}", 9, codec=codec).read_bytes()
        assert read(data_url(other, f"video/{kind}"), "video") == read(data_url(other, ""), "video") == other
    assert "its media type is image/png" in refused(data_url(encoded("png"), "image/png"), "video")
    assert "not a video in a known format" in refused(data_url(encoded("png"), ""), "video")
    assert "its media type is video/mp4" in refused(data_url(clip, "video/mp4"))
    assert "larger than 10 bytes" in refused(data_url(clip, "video/mp4"), "video", max_video_bytes=10)
    assert "said to be video/webm" in refused(data_url(clip, "video/webm"), "video")


@pytest.fixture
def root(tmp_path):
    """root/a.png, root/inner/b.png, root/in.png -> inner/b.png, root/out.png -> outside; outside/secret.png"""
    for place in ("root/a.png", "root/inner/b.png", "outside/secret.png", "root2/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(encoded("png"))
    (tmp_path / "root/in.png").symlink_to("inner/b.png")
    (tmp_path / "root/out.png").symlink_to("../outside/secret.png")
    (tmp_path / "root/loop.png").symlink_to("loop.png")
    (tmp_path / "root/door").symlink_to("../outside")
    os.mkfifo(tmp_path / "root/pipe.png")
    return tmp_path / "root"


def test_files_below_the_root_are_read(root):
    for name in ("a.png", "inner/b.png", "in.png", "inner/../a.png", "%61.png"):
        assert read(f"file://{root}/{name}", media_root=root) == encoded("png")
    assert read(f"file://localhost{root}/a.png", media_root=root) == encoded("png")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../outside/secret.png", "not below"),
        ("%2e%2e/outside/secret.png", "not below"),
        ("..%2foutside%2fsecret.png", "not below"),
        ("../root2/c.png", "not below"),
        ("out.png", "not below"),
        ("door/secret.png", "not below"),
        ("", "not below"),
        (".", "not below"),
        ("../../../../../../etc/passwd", "not below"),
        ("../outside/missing.png", "not below"),  # what is not there is no news either
        ("missing.png", "cannot be read"),
        ("loop.png", "not"),
        ("inner", "Is a directory"),
        ("pipe.png", "not a file"),
        ("a.png/x", "cannot be read"),
        ("a%00.png", "not the URL of a file"),
        ("a.png?x", "file:///the/whole/path"),
        ("x" * 5000, "not"),
    ],
)
def test_files_elsewhere_are_not(root, name, said):
    assert said in refused(f"file://{root}/{name}", media_root=root)


@pytest.mark.parametrize("place", ["inner", "a.png", "deep", "deep/er"])
def test_a_link_that_appears_below_the_root_leads_nowhere(root, place, monkeypatch):
    """The path is looked at, then something is put in the place of a folder or file of it, then it is opened."""
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/b.png").write_bytes(encoded("png"))
    name = {"inner": "inner/b.png", "a.png": "a.png"}.get(place, "deep/er/b.png")
    outside = root.parent / "outside"
    for secret in ("b.png", "er/b.png"):
        (outside / secret).parent.mkdir(exist_ok=True)
        (outside / secret).write_bytes(encoded("gif"))
    open_below = media._read_file

    def swapped(*how):
        (root / place).rename(root / "gone")
        (root / place).symlink_to(outside / "secret.png" if place == "a.png" else outside)
        return open_below(*how)

    monkeypatch.setattr(media, "_read_file", swapped)
    assert "cannot be read" in refused(f"file://{root}/{name}", media_root=root)


def test_files_need_a_root(root):
    assert "no --media-root" in refused(f"file://{root}/a.png")
    assert "file:///the/whole/path" in refused("file://a.png", media_root=root)


def test_files_off_the_web_are_held_to_the_same():
    pages = {
        "/a.png": page(encoded("png")),
        "/svg": page(SVG, "image/svg+xml"),
        "/lie": page(encoded("jpeg")),
        "/html": page(b"<html>", "text/html; charset=utf-8"),
        "/large": page(bytes(30_000)),
    }
    with web(pages) as server:
        fetcher = Fetcher(
            5, 2, ("http",), resolver=lambda host, port: [HOME], allowed=lambda address: address == HOME,
            ports=ANY_PORT,
        )  # fmt: skip
        reader = MediaReader(LIMITS, fetcher)
        base = f"http://web.test:{server.port}"
        assert reader.read(f"{base}/a.png", "image", Budget(10**6, share=share()), measure).data == encoded(
            "png"
        )
        assert reader.read(f"{base}/lie", "image", Budget(10**6, share=share()), measure).data == encoded(
            "jpeg"
        )
        for path, said in {
            "/svg": "its media type",
            "/html": "its media type",
            "/large": "larger than 20000",
        }.items():
            with pytest.raises(DataError, match=said):
                reader.read(base + path, "image", Budget(10**6, share=share()), measure)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(MAGIC)),
    st.binary(max_size=200),
    st.sampled_from(["image", "video"]),
    st.sampled_from(["", "image/png", "image/webp", "video/mp4"]),
)
def test_any_bytes_are_read_or_refused_in_one_line(kind, rest, sort, claim):
    start = bytearray(400)
    for at, letters in MAGIC[kind]:
        start[at : at + len(letters)] = letters
    url = data_url(bytes(start) + rest, claim)
    try:
        assert read(url, sort) and kind in KINDS[sort]
    except DataError as error:
        assert "\n" not in str(error)
