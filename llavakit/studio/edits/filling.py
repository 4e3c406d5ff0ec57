"""Taking things out of a layer: the photo's hole is filled, another layer becomes transparent there."""

from dataclasses import replace

import numpy as np
import PIL.Image

from llavakit.studio import masks
from llavakit.studio.commands import Fill, Lift, Refine, Remove
from llavakit.studio.cutting import Cut, cut_out
from llavakit.studio.engines import Bench, Inpainter
from llavakit.studio.looking import SceneView, opaque
from llavakit.studio.render import canvas_box, combine, invert
from llavakit.studio.scene import EditError, Hole, Layer, Scene
from llavakit.studio.shadows import shadow_of
from llavakit.studio.tiles import Box, Pixels, Raster, grown, intersect, raster_of

LARGE_HOLE = 0.1  # of the picture: more than that no filling from around it can guess
CUT_MARGIN = 8  # pixels around a mask in which its soft edge may lie


def remove(scene: Scene, command: Remove, bench: Bench) -> Scene:
    """The selected thing, or a whole layer, is gone; its selection can be had again with `reselect`."""
    if command.layer is not None:
        return _without_layer(scene, command.layer)
    layer = target(scene)
    mask = scene.selected().mask
    if command.shadow:
        mask = _with_shadow(scene, mask)
    return _emptied(scene, layer, mask, command.grow, command.fill, bench).select(None)


def lift(scene: Scene, command: Lift, bench: Bench) -> tuple[Scene, Layer]:
    """What is selected on a layer of its own, with a soft edge in its own colours; its place is filled."""
    selection, below = scene.selected(), target(scene)
    emptied = _emptied(scene, below, selection.mask, command.grow, command.fill, bench)
    cut = _cut(below, selection.mask, emptied.layer(below.id))
    raster = raster_of(cut.rgba)
    matrix = combine((1, 0, cut.at[0], 0, 1, cut.at[1]), below.matrix)
    lifted, layer = emptied.add_layer(command.label or selection.label or "cut-out", "cut", raster, matrix)
    return lifted.select(None), layer


def _with_shadow(scene: Scene, mask: Raster) -> Raster:
    inside = masks.read_mask(mask)
    shadow = shadow_of(SceneView(scene).rgb(), inside >= masks.INSIDE)
    return mask.write((0, 0), np.where(shadow, np.uint8(255), inside)[..., None])


def refine(scene: Scene, command: Refine, bench: Bench) -> Scene:
    """Fill again, for good, what was filled for a preview."""
    if not scene.holes:
        raise EditError("no place waits for its final fill")
    engine = bench.inpainter(command.engine)
    for hole in scene.holes:
        if any(layer.id == hole.layer for layer in scene.layers):
            layer = scene.layer(hole.layer)
            scene = scene.with_layer(replace(layer, raster=fill_hole(layer.raster, hole.mask, engine)))
    return replace(scene, holes=())


def target(scene: Scene) -> Layer:
    """The layer that a selection is about: the highest visible one that holds at least half of it."""
    mask = scene.selected().mask
    for layer in reversed(scene.layers):
        if not layer.visible or layer.opacity == 0:
            continue
        part = mask_on_layer(mask, layer)
        if layer.kind == "photo":
            return layer
        if part is not None and (part[1] / 255.0 * layer.raster.read(part[0])[..., 3]).sum() >= _half(
            mask, layer
        ):
            return layer
    raise EditError("no visible layer lies under the selection")


def _half(mask: Raster, layer: Layer) -> float:
    """Half of a mask's sum of coverage, in the layer's own pixels."""
    a, b, _, d, e, _ = layer.matrix
    inside = sum(float(tile.pixels.sum()) for tile in mask.tiles if tile is not None)
    return inside / abs(a * e - b * d) / 2


def mask_on_layer(mask: Raster, layer: Layer) -> tuple[Box, Pixels] | None:
    """A mask of the canvas in the layer's own pixels: a box, and uint8[h, w] there. None: it is elsewhere."""
    box = mask.content_box()
    if box is None:
        return None
    back = invert(layer.matrix)
    part = canvas_box((box[2] - box[0], box[3] - box[1]), combine((1, 0, box[0], 0, 1, box[1]), back))
    left, top, right, bottom = part = intersect(part, layer.raster.box)
    if left >= right or top >= bottom:
        return None
    a, b, c, d, e, f = layer.matrix
    if (a, b, d, e) == (1, 0, 0, 1) and c == round(c) and f == round(f):
        x, y = int(c), int(f)
        return part, masks.read_mask(mask, (left + x, top + y, right + x, bottom + y))
    data = (a, b, c + a * left + b * top - box[0], d, e, f + d * left + e * top - box[1])
    image = PIL.Image.fromarray(masks.read_mask(mask, box))
    size = (right - left, bottom - top)
    turned = image.transform(size, PIL.Image.Transform.AFFINE, data, PIL.Image.Resampling.BILINEAR)
    return part, np.array(turned)


def fill_hole(raster: Raster, hole: Raster, engine: Inpainter, prompt: str = "", seed: int = 0) -> Raster:
    """The picture with new pixels where `hole` is inside, and there only."""
    box = hole.content_box()
    if box is None:
        return raster
    around = grown(box, surroundings(box), raster.size)
    inside = masks.read_mask(hole, around) >= masks.INSIDE
    if inside.all():
        raise EditError("all of the picture would be filled: nothing is left to fill it from")
    filled = engine.fill(opaque(raster.read(around)), inside, prompt, seed)
    solid = np.concatenate((filled, np.full((*filled.shape[:2], 1), 255, np.uint8)), axis=-1)
    return raster.blend(around[:2], solid, inside)


def surroundings(box: Box) -> int:
    """How far around a hole an engine looks, in pixels."""
    return max(64, max(box[2] - box[0], box[3] - box[1]))


def default_growth(size: tuple[int, int]) -> int:
    """Pixels around a mask that are filled too: an edge is never as sharp as its mask."""
    return max(3, round(max(size) / 200))


def _emptied(scene: Scene, layer: Layer, mask: Raster, grow: int | None, fill: Fill, bench: Bench) -> Scene:
    part = mask_on_layer(mask, layer)
    if part is None:
        raise EditError("the selection lies outside of the picture")
    box, inside = part
    if layer.kind != "photo":  # what lies below it shows
        rgba = layer.raster.read(box)
        rgba[..., 3] = np.rint(rgba[..., 3] * (1 - inside / 255.0))
        return scene.with_layer(replace(layer, raster=layer.raster.write(box[:2], rgba)))
    here = masks.mask_raster(layer.raster.size, box[:2], inside)
    hole = masks.grow(here, default_growth(layer.raster.size) if grow is None else grow)
    engine = bench.inpainter() if fill == "final" else bench.previewer()
    changed = scene.with_layer(replace(layer, raster=fill_hole(layer.raster, hole, engine)))
    waiting = (*scene.holes, Hole(layer.id, hole)) if fill == "preview" else scene.holes
    return replace(changed, holes=waiting)


def _cut(before: Layer, mask: Raster, after: Layer) -> Cut:
    part = mask_on_layer(mask, before)
    assert part is not None
    box = grown(part[0], CUT_MARGIN, before.raster.size)
    here = masks.mask_raster(before.raster.size, part[0][:2], part[1])
    rgba, behind = before.raster.read(box), after.raster.read(box)
    cut = cut_out(rgba, masks.read_mask(here, box), behind if before.kind == "photo" else None)
    return Cut((cut.at[0] + box[0], cut.at[1] + box[1]), cut.rgba)


def _without_layer(scene: Scene, id: int) -> Scene:
    layer = scene.layer(id)
    if len(scene.layers) == 1:
        raise EditError("this is the only layer; a picture needs one")
    kept = tuple(each for each in scene.layers if each is not layer)
    return replace(scene, layers=kept, holes=tuple(hole for hole in scene.holes if hole.layer != id))


def hole_share(mask: Raster) -> float:
    """How much of the picture a mask covers, 0 to 1."""
    return masks.area(mask) / (mask.size[0] * mask.size[1])
