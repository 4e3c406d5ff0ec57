"""Layers to pixels: what is visible in a box of the canvas or of a smaller version of it, one layer as it lies.

Alpha is not multiplied into colours where pixels are kept, and is while they are mixed. Where nothing lies over the
photo its pixels come out as they are.
"""

import math

import numpy as np
import PIL.Image

from llavakit.studio.pyramid import small, small_size
from llavakit.studio.scene import Layer, Matrix, Scene
from llavakit.studio.tiles import SIDE, Box, Pixels, Raster, intersect


def flatten(scene: Scene, box: Box | None = None, z: int = 0) -> Pixels:
    """uint8[h, w, 4]: what is visible in a box of the canvas, which is halved `z` times; lowest layer first."""
    left, top, right, bottom = box or (0, 0, *small_size(scene.size, z))
    out = np.zeros((bottom - top, right - left, 4), np.uint8)
    empty = True
    for layer in scene.layers:
        if not layer.visible or layer.opacity == 0:
            continue
        placed = place_layer(layer, (left, top, right, bottom), z)
        if placed is not None:
            pixels, (x0, y0, x1, y1) = placed
            if layer.opacity < 1:
                pixels[..., 3] = np.rint(pixels[..., 3] * layer.opacity)
            part = out[y0 - top : y1 - top, x0 - left : x1 - left]
            if empty:  # nothing lies below: its bytes stay, those of transparent pixels too
                part[:], empty = pixels, False
            else:
                over(part, pixels)
    return out


def square(size: tuple[int, int], z: int, x: int, y: int) -> Box:
    """Where a square of a picture halved `z` times lies on it; those at the edges are smaller, or empty."""
    width, height = small_size(size, z)
    (left, right), (top, bottom) = (
        (min(max(at * SIDE, 0), most), min(max((at + 1) * SIDE, 0), most))
        for at, most in ((x, width), (y, height))
    )
    return left, top, right, bottom


def over(below: Pixels, above: Pixels) -> None:
    """Lay `above` on `below` in place, both uint8[h, w, 4]. What is covered or uncovered whole keeps its bytes."""
    solid = above[..., 3] == 255
    if solid.all():
        below[:] = above
        return
    below[solid] = above[solid]
    mixed = (above[..., 3] > 0) & ~solid
    if mixed.any():
        a, b = above[mixed].astype(np.float32), below[mixed].astype(np.float32)
        alpha_a, alpha_b = a[:, 3:] / 255, b[:, 3:] / 255
        alpha = alpha_a + alpha_b * (1 - alpha_a)
        colour = (a[:, :3] * alpha_a + b[:, :3] * alpha_b * (1 - alpha_a)) / alpha
        below[mixed] = np.rint(np.concatenate((colour, alpha * 255), axis=1)).astype(np.uint8)


def place_layer(layer: Layer, box: Box, z: int = 0) -> tuple[Pixels, Box] | None:
    """A layer's pixels where it lies on a canvas halved `z` times, and the part of `box` that they fill.

    None: it lies elsewhere.
    """
    raster, scale = small(layer.raster, z), 0.5**z
    a, b, c, d, e, f = matrix = (
        *layer.matrix[:2],
        layer.matrix[2] * scale,
        *layer.matrix[3:5],
        layer.matrix[5] * scale,
    )
    left, top, right, bottom = part = intersect(canvas_box(raster.size, matrix), box)
    if left >= right or top >= bottom:
        return None
    if (a, b, d, e) == (1, 0, 0, 1) and c == round(c) and f == round(f):
        x, y = int(c), int(f)
        return raster.read((left - x, top - y, right - x, bottom - y)), part
    return _warped(raster, matrix, part), part


def _warped(raster: Raster, matrix: Matrix, part: Box) -> Pixels:
    """The part of the canvas that a turned or resized picture fills. Smaller ones are averaged first."""
    pixels = PIL.Image.fromarray(raster.read(), "RGBA").convert("RGBa")
    a, b, c, d, e, f = matrix
    shrink_x, shrink_y = min(1.0, math.hypot(a, d)), min(1.0, math.hypot(b, e))
    if shrink_x < 1 or shrink_y < 1:
        size = max(1, round(pixels.width * shrink_x)), max(1, round(pixels.height * shrink_y))
        scale_x, scale_y = pixels.width / size[0], pixels.height / size[1]
        pixels = pixels.resize(size, PIL.Image.Resampling.BOX)
        a, d, b, e = a * scale_x, d * scale_x, b * scale_y, e * scale_y
    inverse = invert((a, b, c, d, e, f))
    ia, ib, ic, id_, ie, if_ = inverse
    x, y = part[:2]
    # A transparent border, so that the picture's own edge is mixed with nothing instead of ending in steps.
    framed = PIL.Image.new("RGBa", (pixels.width + 4, pixels.height + 4))
    framed.paste(pixels, (2, 2))
    data = (ia, ib, ic + ia * x + ib * y + 2, id_, ie, if_ + id_ * x + ie * y + 2)
    size = (part[2] - part[0], part[3] - part[1])
    turned = framed.transform(size, PIL.Image.Transform.AFFINE, data, PIL.Image.Resampling.BICUBIC)
    return np.array(_clamped(turned).convert("RGBA"))


def _clamped(image: PIL.Image.Image) -> PIL.Image.Image:
    """Cubic weights overshoot: a multiplied colour is never above its alpha."""
    values = np.array(image)
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    return PIL.Image.frombytes("RGBa", image.size, values.tobytes())


def canvas_box(size: tuple[int, int], matrix: Matrix) -> Box:
    """The smallest box of the canvas around a placed picture of `size`."""
    a, b, c, d, e, f = matrix
    width, height = size
    xs = [a * x + b * y + c for x in (0, width) for y in (0, height)]
    ys = [d * x + e * y + f for x in (0, width) for y in (0, height)]
    near = 1e-6  # a turn by 90 degrees is no pixel larger for the last bits of a sine
    return (
        math.floor(min(xs) + near), math.floor(min(ys) + near),
        math.ceil(max(xs) - near), math.ceil(max(ys) - near),
    )  # fmt: skip


def invert(matrix: Matrix) -> Matrix:
    """The matrix that takes the canvas to the layer. ZeroDivisionError for one that makes a line of it."""
    a, b, c, d, e, f = matrix
    det = a * e - b * d
    return (e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det)


def combine(first: Matrix, then: Matrix) -> Matrix:
    """One matrix after another."""
    a, b, c, d, e, f = first
    g, h, i, j, k, m = then
    return (
        g * a + h * d, g * b + h * e, g * c + h * f + i,
        j * a + k * d, j * b + k * e, j * c + k * f + m,
    )  # fmt: skip
