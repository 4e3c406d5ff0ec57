"""Grey of more than 8 bits is scaled by what the file says of it, at every door alike."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from llavakit.vision.image import load_image, spare_bits
from tests.vision.doors import doors
from tests.vision.test_image import chunk, written

RAMP = np.arange(96).reshape(8, 12)  # 0 to 95


def tiff(values: np.ndarray, **tags: float) -> bytes:
    """Uncompressed, one strip, little endian, with `tNNN=value`; fractions as FLOAT, others as SLONG."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    said = {"t256": values.shape[1], "t257": values.shape[0], "t258": values.dtype.itemsize * 8, "t259": 1,
            "t262": 1, "t273": 8, "t277": 1, "t278": values.shape[0], "t279": values.nbytes,
            "t339": kind}  # fmt: skip
    entries = [
        struct.pack("<HHIf", int(name[1:]), 11, 1, value)
        if isinstance(value, float)
        else struct.pack("<HHIi", int(name[1:]), 9 if int(name[1:]) > 279 and name != "t339" else 4, 1, value)
        for name, value in sorted((said | tags).items())
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory


def packed12(values: np.ndarray) -> bytes:
    """Two values of 12 bits in three bytes."""
    first, second = values.reshape(-1, 2).T.astype(int)
    three = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return three.astype(np.uint8).tobytes()


def tiff12(values: np.ndarray) -> bytes:
    data = np.frombuffer(packed12(values), np.uint8)
    return tiff(
        data.reshape(1, -1), t256=values.shape[1], t257=values.shape[0], t258=12, t278=values.shape[0]
    )


def shown(data: bytes, tmp_path, **how) -> np.ndarray:
    """uint8[H, W]: what every door gives."""
    first, *others = (np.asarray(load_image(source, **how)) for source in doors(data, tmp_path))
    assert all(np.array_equal(first, other) for other in others)
    assert (first == first[..., :1]).all()
    return first[..., 0]


deep = RAMP * 43  # 0 to 4085: 12 bits


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff12(deep), deep >> 4),
        (tiff((RAMP * 680).astype("<u2")), RAMP * 680 >> 8),
        (tiff(deep.astype("<u2"), t281=4095), deep >> 4),
        (tiff((1000 + RAMP * 20).astype("<u2"), t280=1000, t281=3047), RAMP * 20 >> 3),
        (tiff((RAMP * 600 - 30000).astype("<i2")), (RAMP * 600 + 2768) >> 8),
        (tiff((RAMP * 32 - 1024).astype("<i2"), t340=-1024, t341=3071), RAMP * 32 >> 4),
        (tiff((RAMP * 2).astype("<i2")), RAMP * 2),  # 8 bits in a larger place were always shown as they are
        (tiff((RAMP * 2).astype("<i4")), RAMP * 2),
        (tiff((RAMP * 2).astype("<u4")), RAMP * 2),
        (tiff((RAMP * 600).astype("<i4")), RAMP * 600 >> 8),
        (tiff((RAMP * 45_000_000).astype("<u4")), RAMP * 45_000_000 >> 24),
        (tiff((RAMP * 45_000_000 - 2**31).astype("<i4")), RAMP * 45_000_000 >> 24),
        (tiff((RAMP / 95).astype("<f4")), np.rint(RAMP / 95 * 255)),
        (tiff((RAMP * 2.0).astype("<f4")), RAMP * 2),
        (tiff((RAMP * 1e5 - 7e4).astype("<f4")), np.rint(RAMP / 95 * 255)),
        (tiff((RAMP - 20.0).astype("<f4"), t340=-20.0, t341=235.0), RAMP),
        (tiff((RAMP * 680).astype("<u2"), t262=0), 255 - (RAMP * 680 >> 8)),  # white is zero
        (b"P5 12 8 4095\n" + deep.astype(">u2").tobytes(), (deep * 65535 + 2047) // 4095 >> 8),
        (b"P5 12 8 65535\n" + (RAMP * 680).astype(">u2").tobytes(), RAMP * 680 >> 8),
        (written(PIL.Image.fromarray((RAMP * 680).astype(np.uint16)), "JPEG2000"), RAMP * 680 >> 8),
    ],
    ids=[
        "12-bit tiff", "16", "12 in 16", "range", "signed 16", "signed range", "8 in signed 16", "8 in 32",
        "8 in unsigned 32", "16 in 32", "unsigned 32", "signed 32", "0 to 1", "0 to 255", "any float",
        "float range", "white is zero", "12-bit pgm", "16-bit pgm", "jpeg 2000",
    ],
)  # fmt: skip
def test_grey_is_scaled_by_what_the_file_says(data, expected, tmp_path):
    assert np.abs(shown(data, tmp_path).astype(int) - expected).max() <= (data[:2] == b"P5")


def test_values_that_are_no_numbers_are_shown_black_or_at_the_ends(tmp_path):
    values = np.array([[0, 0.5, 1], [np.nan, np.inf, -np.inf]], "<f4")
    assert shown(tiff(values), tmp_path).tolist() == [[0, 128, 255], [0, 255, 0]]
    assert shown(tiff(np.full((2, 2), np.nan, "<f4")), tmp_path).tolist() == [[0, 0], [0, 0]]
    assert shown(tiff(np.full((2, 2), 7e9, "<f4")), tmp_path).max() == 0


def png16(values: np.ndarray, bits: int) -> bytes:
    """A PNG that says how many bits are significant."""
    data = written(PIL.Image.fromarray(values.astype(np.uint16)), "PNG")
    return data[:33] + chunk(b"sBIT", bytes([bits])) + data[33:]


def test_the_significant_bits_of_a_png_are_the_upper_ones_as_the_rule_says(tmp_path):
    upper = deep << 4
    assert np.array_equal(shown(png16(upper, 12), tmp_path), upper >> 8)
    dark = (RAMP // 16) << 4  # small values by the rule stay dark
    assert np.array_equal(shown(png16(dark, 12), tmp_path), dark >> 8)
    # Values that cannot be by the rule are the lower bits, as some cameras write them.
    first, second = np.asarray(load_image(png16(deep, 12))), deep >> 4
    assert np.array_equal(first[..., 0], second)


def test_the_setting_says_what_no_header_does(tmp_path):
    plain = written(PIL.Image.fromarray(deep.astype(np.uint16)), "PNG")
    assert shown(plain, tmp_path).max() == 4085 >> 8
    assert np.array_equal(shown(plain, tmp_path, bits=12), deep >> 4)
    assert np.array_equal(shown(tiff(deep.astype("<i4")), tmp_path, bits=12), deep >> 4)
    signed = (deep - 2048).astype("<i2")
    assert np.array_equal(shown(tiff(signed), tmp_path, bits=12), deep >> 4)
    said = tiff(deep.astype("<u2"), t281=8191)  # what the file says comes first
    assert np.array_equal(shown(said, tmp_path, bits=12), deep >> 5)
    eight = written(PIL.Image.fromarray(RAMP.astype(np.uint8)), "PNG")
    assert np.array_equal(shown(eight, tmp_path, bits=12), RAMP)


def test_values_that_leave_bits_unused_are_noticed():
    assert spare_bits(written(PIL.Image.fromarray(deep.astype(np.uint16)), "PNG")) == (12, 16)
    assert spare_bits(tiff((deep - 2048).astype("<i2"))) == (12, 16)
    for fine in (
        tiff12(deep), tiff(deep.astype("<u2"), t281=4095), tiff((RAMP * 680).astype("<u2")),
        written(PIL.Image.fromarray(RAMP.astype(np.uint8)), "PNG"), tiff((RAMP / 95).astype("<f4")),
    ):  # fmt: skip
        assert spare_bits(fine) is None


def test_a_large_picture_is_scaled_in_parts():
    values = np.arange(1200 * 1000, dtype="<i4").reshape(1200, 1000)
    found = np.asarray(load_image(tiff(values, t341=1_199_999)))[..., 0]
    assert np.array_equal(found, (values.astype(int) * 256 // 1_200_000).astype(np.uint8))


def test_grey_in_memory_without_a_file_is_taken_as_what_its_values_need():
    for values, expected in ((RAMP * 2, RAMP * 2), (RAMP * 600, RAMP * 600 >> 8)):
        image = PIL.Image.fromarray(values.astype(np.int32))
        assert np.array_equal(np.asarray(load_image(image))[..., 0], expected)
    assert load_image(PIL.Image.open(io.BytesIO(tiff12(deep)))).getpixel((11, 7)) == (255, 255, 255)
