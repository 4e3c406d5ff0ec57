"""Files and bytes to upright RGB pixels, with hostile input in mind.

Sizes come from headers. Only raster formats that Pillow decodes itself are opened (no EPS, no SVG), and nothing
larger than MAX_PIXELS is decoded. Orientation tags are honoured: people see upright pictures, so do our models
(the original LLaVA code ignored them). An alpha channel is dropped, as the original does.
"""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import (  # opening a format needs its plugin imported
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from llavakit.core.errors import DataError
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
    )
)
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


def load_image(source: Source) -> PIL.Image.Image:
    """The decoded picture, upright, mode RGB. A truncated or broken file is a DataError."""
    with _opened(source) as image:
        turn = _UPRIGHT.get(_orientation(image))
        try:
            image.load()
            rgb = _to_rgb(image)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DataError(f"{name_of(source)}: broken image: {error}") from None
    return rgb if turn is None else rgb.transpose(turn)


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
        return str(source)
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else "image in memory"


def _opened(source: Source) -> PIL.Image.Image:
    """An opened, not yet decoded image. In-memory images are copied, so closing the result is harmless."""
    name = name_of(source)
    if isinstance(source, PIL.Image.Image):
        try:
            copy = source.copy()  # decodes an image that is opened but not yet read
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DataError(f"{name}: broken image: {error}") from None
        copy.format = source.format
        return copy
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # the check below is stricter
            image = PIL.Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
            )
    except FileNotFoundError:
        raise DataError(f"image not found: {name}") from None
    except PIL.UnidentifiedImageError:
        raise DataError(f"{name}: not an image in a known format ({', '.join(FORMATS)})") from None
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{name}: {width} x {height} pixels; the limit is {MAX_PIXELS} in all, scale it down first"
        )
    return image


def _orientation(image: PIL.Image.Image) -> int:
    """The orientation tag, 1 (upright) where there is none. Called before the pixels are decoded."""
    if image.format == "TIFF":  # Pillow gives the upright size, and turns the pixels as it decodes them
        return 1
    try:
        # Not image.getexif(): that of a PNG decodes all pixels to look for a tag behind them.
        return int(PIL.Image.Image.getexif(image).get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError):  # a broken tag does not make the picture unusable
        return 1


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow clips 16-bit grey at 255, which turns medical pictures white; keep the high byte instead.
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _place(image: PIL.Image.Image, step: Place) -> PIL.Image.Image:
    x, y = step.offset
    if x <= 0 and y <= 0 and image.width + x >= step.size[0] and image.height + y >= step.size[1]:
        return image.crop((-x, -y, step.size[0] - x, step.size[1] - y))
    canvas = PIL.Image.new("RGB", step.size, step.fill)
    canvas.paste(image, (x, y))
    return canvas
