"""Commands that place layers: moved, turned, resized, twice, under another, into the one below."""

import math
from dataclasses import replace

from llavakit.studio import masks
from llavakit.studio.commands import (
    ChangeLayer,
    Duplicate,
    Lift,
    Merge,
    Move,
    Moving,
    Resize,
    Rotate,
    Transform,
)
from llavakit.studio.cutting import cut_out
from llavakit.studio.edits.filling import CUT_MARGIN, lift, target
from llavakit.studio.engines import Bench
from llavakit.studio.render import canvas_box, combine, flatten
from llavakit.studio.scene import EditError, Layer, Matrix, Scene
from llavakit.studio.tiles import grown, raster_of, union

THINNEST = 1e-4  # of a layer's area: below it nothing can be seen, and nothing can be calculated back
LARGEST = 2**27  # pixels of the canvas that a placed layer may cover, seen or not


def move(scene: Scene, command: Move, bench: Bench) -> Scene:
    scene, layer = _moved_layer(scene, command, bench)
    return _place(scene, layer, (1, 0, command.dx, 0, 1, command.dy))


def resize(scene: Scene, command: Resize, bench: Bench) -> Scene:
    scene, layer = _moved_layer(scene, command, bench)
    return _about_middle(scene, layer, (command.factor, 0, 0, command.factor))


def rotate(scene: Scene, command: Rotate, bench: Bench) -> Scene:
    scene, layer = _moved_layer(scene, command, bench)
    angle = math.radians(command.degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    if command.degrees % 90 == 0:  # exactly, so that pixels are copied and not mixed
        cos, sin = float(round(cos)), float(round(sin))
    return _about_middle(scene, layer, (cos, -sin, sin, cos))


def transform(scene: Scene, command: Transform) -> Scene:
    layer = scene.layer(command.layer)
    return scene.with_layer(replace(layer, matrix=_checked(layer, command.matrix)))


def duplicate(scene: Scene, command: Duplicate) -> Scene:
    """A layer again, or what is selected as a layer; nothing is taken away."""
    if command.layer is not None:
        layer = scene.layer(command.layer)
        matrix = combine(layer.matrix, (1, 0, command.dx, 0, 1, command.dy))
        scene, _ = scene.add_layer(f"{layer.name} copy", "cut", layer.raster, matrix)
        return scene
    selection, below = scene.selected(), target(scene)
    box = selection.mask.content_box()
    assert box is not None
    box = grown(box, CUT_MARGIN, scene.size)
    seen = flatten(replace(scene, layers=(below,)), box)
    cut = cut_out(seen, masks.read_mask(selection.mask, box), None)
    raster = raster_of(cut.rgba)
    matrix = (1, 0, box[0] + cut.at[0] + command.dx, 0, 1, box[1] + cut.at[1] + command.dy)
    scene, _ = scene.select(None).add_layer(selection.label or "copy", "cut", raster, matrix)
    return scene


def change_layer(scene: Scene, command: ChangeLayer) -> Scene:
    layer = scene.layer(command.layer)
    given = command.model_dump(include={"name", "opacity", "visible"}, exclude_none=True)
    scene = scene.with_layer(replace(layer, **given))
    if command.position is None:
        return scene
    others = [each for each in scene.layers if each.id != layer.id]
    others.insert(min(command.position, len(others)), scene.layer(layer.id))
    return replace(scene, layers=tuple(others))


def merge(scene: Scene, command: Merge) -> Scene:
    """A layer and the one below it become one. Where that is the photo it keeps its size, and its name."""
    layer = scene.layer(command.layer)
    at = scene.layers.index(layer)
    if at == 0:
        raise EditError("nothing lies below this layer")
    below = scene.layers[at - 1]
    both = replace(scene, layers=(replace(below, visible=True), replace(layer, visible=True)))
    if below.kind == "photo" and below.matrix == (1, 0, 0, 0, 1, 0) and below.opacity == 1:
        box = canvas_box(layer.raster.size, layer.matrix)
        box = grown(box, 0, below.raster.size)
        raster, matrix = below.raster, below.matrix
        if box[0] < box[2] and box[1] < box[3]:
            raster = raster.write(box[:2], flatten(both, box))
    else:
        whole = union(
            canvas_box(layer.raster.size, layer.matrix), canvas_box(below.raster.size, below.matrix)
        )
        assert whole is not None
        box = grown(whole, 0, scene.size)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise EditError("both layers lie outside of the picture")
        raster = raster_of(flatten(both, box))
        matrix = (1.0, 0.0, float(box[0]), 0.0, 1.0, float(box[1]))
    merged = replace(below, raster=raster, matrix=matrix, opacity=1.0, visible=True)
    layers = tuple(merged if each is below else each for each in scene.layers if each is not layer)
    return replace(scene, layers=layers)


def _moved_layer(scene: Scene, command: Moving, bench: Bench) -> tuple[Scene, Layer]:
    """The layer that is meant; where none is named, what is selected becomes one."""
    if command.layer is not None:
        return scene, scene.layer(command.layer)
    return lift(scene, Lift(fill=command.fill), bench)


def _about_middle(scene: Scene, layer: Layer, turn: tuple[float, float, float, float]) -> Scene:
    """Turned or resized about the middle of the layer, whose corner stays on a whole pixel where it was on one."""
    a, b, c, d, e, f = layer.matrix
    width, height = layer.raster.size
    x, y = a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f
    p, q, r, s = turn
    return _place(scene, layer, (p, q, x - p * x - q * y, r, s, y - r * x - s * y))


def _place(scene: Scene, layer: Layer, then: Matrix) -> Scene:
    return scene.with_layer(replace(layer, matrix=_checked(layer, combine(layer.matrix, then))))


def _checked(layer: Layer, matrix: Matrix) -> Matrix:
    a, b, _, d, e, _ = matrix
    if abs(a * e - b * d) < THINNEST:
        raise EditError("that would make the layer too thin to see")
    left, top, right, bottom = canvas_box(layer.raster.size, matrix)
    if (right - left) * (bottom - top) > LARGEST:
        raise EditError("that would make the layer too large")
    return matrix
