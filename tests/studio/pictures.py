"""Pictures and engines for the tests of the editor."""

import io

import numpy as np
import PIL.Image

from llavakit.studio.engines import Bench, Engine, Found, Step, unwatched
from llavakit.tools.flow import Flow


def scenery(width=300, height=270, seed=0):
    """uint8[h, w, 3]: a slope of colour with noise, a disc on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    rgb = np.stack((x * 255 // width, y * 255 // height, np.full_like(x, 90)), axis=-1)
    rgb = rgb + rng.integers(-6, 7, rgb.shape)
    rgb[disc(width, height)] = (220, 40, 30)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def disc(width=300, height=270):
    """bool[h, w]: where scenery has its disc."""
    y, x = np.mgrid[:height, :width]
    return (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2 < (height * 0.15) ** 2


def png(pixels):
    """The bytes of a PNG file."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


class Square:
    """A segmenter that finds squares of two sizes around the first mark, or the box."""

    def steps(self, view):
        return [Step("pixels", view.rgb)]

    def segment(self, view, prompts):
        if prompts.box is not None:
            left, top, right, bottom = prompts.box
            return [Found("object", (left, top), np.full((bottom - top, right - left), 255, np.uint8))]
        x, y = map(int, prompts.marks[0].path[0])
        return [
            Found(name, (x - r, y - r), np.full((2 * r, 2 * r), 255, np.uint8))
            for name, r in (("part", 9), ("object", 20))
        ]


class Plain:
    """An inpainter that paints one colour, which depends on prompt and seed."""

    def fill(self, rgb, hole, prompt="", seed=0):
        return np.where(hole[..., None], np.uint8([len(prompt), seed % 256, 7]), rgb)

    def invent(self, rgb, hole, prompt, seed, watch=unwatched):
        watch(0.5)
        return self.fill(rgb, hole, prompt, seed)


def bench():
    table = {
        "square": Engine("segment", "squares", Square),
        "flow": Engine("preview", "flow", Flow),
        "plain": Engine("inpaint", "one colour", Plain),
        "invented": Engine("invent", "one colour", Plain),
        "absent": Engine("edit", "not here", Plain, lambda: "pip install nothing"),
    }
    return Bench(table, {"segment": "square", "preview": "flow", "inpaint": "plain", "invent": "invented"})


def pixels_of(scene):
    """All that a scene is made of, as bytes that can be compared."""
    rasters = [raster.read().tobytes() for raster in scene.rasters()]
    layers = [(each.id, each.name, each.matrix, each.opacity, each.visible) for each in scene.layers]
    return scene.size, layers, rasters, scene.next_id
