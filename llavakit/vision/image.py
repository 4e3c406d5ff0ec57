"""Files and bytes to upright RGB pixels, with hostile input in mind.

Sizes come from headers. Only raster formats that Pillow decodes itself are opened (no EPS, no SVG), and nothing
larger than MAX_PIXELS is decoded. Orientation tags are honoured: people see upright pictures, so do our models
(the original LLaVA code ignored them). An alpha channel is dropped, as the original does.
"""

import hashlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import (  # opening a format needs its plugin imported
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from llavakit.core.errors import DataError, shorten
from llavakit.vision import depth, png
from llavakit.vision.files import check_file
from llavakit.vision.layout import Place, Plan, Resize, Size, Step

MAX_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a gigabyte of RGB
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        AvifImagePlugin.AvifImageFile,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    )
)
# What Pillow's readers raise at broken files. They check sizes, not every field of a header.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, PIL.Image.DecompressionBombError,
)  # fmt: skip
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # the four orientations that swap width and height

Source = Path | bytes | PIL.Image.Image


def image_size(source: Source) -> Size:
    """(width, height) as a person would see it; reads the header only."""
    with _opened(source) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def load_image(source: Source, *, bits: int | None = None) -> PIL.Image.Image:
    """The decoded picture, upright, mode RGB. A truncated or broken file is a DataError.

    `bits`: how many the grey values have where the file does not say it (`depth.py`).
    """
    with _opened(source) as image:
        turn = _UPRIGHT.get(_orientation(image))
        said = depth.declared(source if isinstance(source, PIL.Image.Image) else image)
        rgb = _to_rgb(_decoded(image, source), said, bits)
    return rgb if turn is None else rgb.transpose(turn)


def load_rgba(source: Source) -> PIL.Image.Image:
    """The decoded picture, upright, mode RGBA: its transparency where it has any, else opaque."""
    with _opened(source) as image:
        turn = _UPRIGHT.get(_orientation(image))
        said = depth.declared(source if isinstance(source, PIL.Image.Image) else image)
        decoded = _decoded(image, source)
        clear = decoded.has_transparency_data and not depth.is_deep(decoded)
        rgba = (decoded if clear else _to_rgb(decoded, said, None)).convert("RGBA")
    return rgba if turn is None else rgba.transpose(turn)


def redraw(source: Source) -> bytes:
    """A PNG of the picture: upright, RGB, without its metadata."""
    file = io.BytesIO()
    load_image(source).save(file, "PNG", compress_level=1)
    return file.getvalue()


def spare_bits(source: Source) -> depth.SpareBits | None:
    """Of grey that looks too dark, where no header says how many bits it has."""
    with _opened(source) as image:
        said = depth.declared(source if isinstance(source, PIL.Image.Image) else image)
        return depth.spare_bits(_decoded(image, source), said) if depth.is_deep(image) else None


def cut_tiles(image: PIL.Image.Image, plan: Plan) -> np.ndarray:
    """uint8[N, H, W, 3]: the views of an RGB picture (one frame of a video), and the tiles cut from them."""
    width, height = plan.tile
    tiles = []
    for view in plan.views:
        canvas = np.asarray(_draw(image, view.steps))
        tiles += [canvas[y : y + height, x : x + width] for x, y in view.corners]
    return np.stack(tiles)


def _draw(image: PIL.Image.Image, steps: tuple[Step, ...]) -> PIL.Image.Image:
    match steps:
        case (Place() as border, Resize() as resize) if border.size[0] == image.width == border.size[1]:
            return _resize_bordered(image, border, resize.size)
    for step in steps:
        image = _place(image, step) if isinstance(step, Place) else _resize(image, step.size)
    return image


def _resize(image: PIL.Image.Image, size: Size) -> PIL.Image.Image:
    return image if image.size == size else image.resize(size, PIL.Image.Resampling.BICUBIC)


def _resize_bordered(image: PIL.Image.Image, border: Place, size: Size) -> PIL.Image.Image:
    """What resizing a wide picture on its square of one colour gives, without drawing that square.

    Pillow resizes a square across first, then down, with a byte between. Rows of one colour keep it in the first
    pass, so that pass is for the picture alone. A tall picture has its border beside it, inside every row.
    """
    canvas = PIL.Image.new("RGB", (size[0], border.size[1]), border.fill)
    canvas.paste(_resize(image, (size[0], image.height)), (0, border.offset[1]))
    return _resize(canvas, size)


def digest(source: Source) -> str:
    """A name for the content: the same pixels file gives the same digest, whatever its path."""
    if isinstance(source, Path):
        check_file(source, "image")
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror}") from None
    elif isinstance(source, bytes):
        data = source
    else:
        upright = load_image(source)  # a palette or a rotation is part of the content
        data = f"{upright.size} ".encode() + upright.tobytes()
    return hashlib.sha256(data).hexdigest()


def name_of(source: Source) -> str:
    """How an error message calls this image."""
    if isinstance(source, Path):
        return shorten(str(source), 400)
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else "image in memory"


def _opened(source: Source) -> PIL.Image.Image:
    """An opened, not yet decoded image. In-memory images are copied, so closing the result is harmless."""
    name = name_of(source)
    if isinstance(source, PIL.Image.Image):
        return _copied(source)
    if isinstance(source, Path):
        check_file(source, "image")
    try:
        image = _open(source)
    except PIL.UnidentifiedImageError:
        raise DataError(f"{name}: not an image in a known format ({', '.join(FORMATS)})") from None
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}") from None
    except BROKEN as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{name}: {width} x {height} pixels; the limit is {MAX_PIXELS} in all, scale it down first"
        )
    return image


def _open(source: Path | bytes) -> PIL.Image.Image:
    """Pillow's image, with the tags behind its pixels too, whatever Pillow thinks of its texts."""
    try:
        image = _open_file(io.BytesIO(source) if isinstance(source, bytes) else source)
    except ValueError:  # one of the texts of a PNG is larger than Pillow reads
        data = source if isinstance(source, bytes) else source.read_bytes()
        if not data.startswith(png.SIGNATURE):
            raise
        image = _open_file(io.BytesIO(png.without_texts(io.BytesIO(data))))
        image.info.update(png.read_tags(io.BytesIO(data)))
    if isinstance(image, PngImagePlugin.PngImageFile) and image.fp is not None:
        image.info.update(png.read_tags(image.fp))
    return image


def _open_file(file: Path | io.BytesIO) -> PIL.Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # ours is stricter
        return PIL.Image.open(file, formats=FORMATS)


def _copied(source: PIL.Image.Image) -> PIL.Image.Image:
    """A decoded copy of an image that may be opened and not yet read."""
    tags = {}
    if isinstance(source, PngImagePlugin.PngImageFile) and source.fp is not None:
        tags = png.read_tags(source.fp)
    copy = _decoded(source, source).copy()
    copy.format = source.format
    copy.info.update(tags)
    return copy


def _decoded(image: PIL.Image.Image, source: Source) -> PIL.Image.Image:
    """The image, its pixels read. Where Pillow refuses the texts behind a PNG, another one without them."""
    if isinstance(image, ImageFile.ImageFile):
        # Pillow gathers a row from blocks of 64 KiB and copies all it has for each: minutes for a very long row.
        image.decodermaxblock = max(image.decodermaxblock, 8 * image.width)
    try:
        try:
            image.load()
        except ValueError:
            if not isinstance(image, PngImagePlugin.PngImageFile) or image.fp is None:
                raise
            image = _open_file(io.BytesIO(png.without_texts(image.fp)))
            image.load()
    except BROKEN as error:
        raise DataError(f"{name_of(source)}: broken image: {error}") from None
    return image


def _orientation(image: PIL.Image.Image) -> int:
    """The orientation tag, 1 (upright) where there is none. Called before the pixels are decoded."""
    if image.format == "TIFF":  # Pillow gives the upright size, and turns the pixels as it decodes them
        return 1
    try:
        # Not image.getexif(): that of a PNG decodes all pixels to look for a tag behind them.
        return int(PIL.Image.Image.getexif(image).get(_ORIENTATION, 1))
    except BROKEN:  # a broken tag does not make the picture unusable
        return 1


def _to_rgb(image: PIL.Image.Image, said: depth.Depth, bits: int | None) -> PIL.Image.Image:
    if depth.is_deep(image):
        image = depth.to_eight_bits(image, said, bits)
    elif image.mode == "La":  # which Pillow converts to one mode only
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _place(image: PIL.Image.Image, step: Place) -> PIL.Image.Image:
    x, y = step.offset
    if x <= 0 and y <= 0 and image.width + x >= step.size[0] and image.height + y >= step.size[1]:
        return image.crop((-x, -y, step.size[0] - x, step.size[1] - y))
    canvas = PIL.Image.new("RGB", step.size, step.fill)
    canvas.paste(image, (x, y))
    return canvas
