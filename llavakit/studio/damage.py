"""Where two scenes may look different."""

from llavakit.studio.render import canvas_box
from llavakit.studio.scene import Layer, Scene
from llavakit.studio.tiles import Box, changed_box, intersect, union


def damage_between(before: Scene, after: Scene) -> Box | None:
    """The box of the canvas in which what is visible may differ; None where it looks the same."""
    found: Box | None = None
    old, new = ({layer.id: layer for layer in scene.layers} for scene in (before, after))
    for id in old.keys() | new.keys():
        found = union(found, _layer_damage(old.get(id), new.get(id)))
    common = [
        [layer.id for layer in scene.layers if layer.id in old and layer.id in new]
        for scene in (before, after)
    ]
    for one, other in zip(*common, strict=True):
        if one != other:
            found = union(found, union(_whole(old[one]), _whole(new[one])))
    if found is None:
        return None
    left, top, right, bottom = intersect(found, after.box)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _layer_damage(old: Layer | None, new: Layer | None) -> Box | None:
    if old is None or new is None:
        return _whole(old or new)
    if (old.matrix, old.opacity, old.visible, old.raster.size) != (
        new.matrix, new.opacity, new.visible, new.raster.size,
    ):  # fmt: skip
        return union(_whole(old), _whole(new))
    changed = None if old.raster is new.raster else changed_box(old.raster, new.raster)
    if changed is None or not new.visible:
        return None
    a, b, c, d, e, f = new.matrix
    left, top, right, bottom = changed
    moved = (a, b, a * left + b * top + c, d, e, d * left + e * top + f)
    return canvas_box((right - left, bottom - top), moved)


def _whole(layer: Layer | None) -> Box | None:
    if layer is None or not layer.visible:
        return None
    return canvas_box(layer.raster.size, layer.matrix)
