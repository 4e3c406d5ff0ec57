"""A scene as JSON for a page or a model: everything but pixels."""

from typing import Any

from llavakit.studio import masks
from llavakit.studio.scene import Layer, Scene, Selection
from llavakit.studio.tiles import Raster


def describe_scene(scene: Scene) -> dict[str, Any]:
    """Layers from the lowest, the selection, kept objects, places that wait for their final fill, variants."""
    return {
        "size": list(scene.size),
        "layers": [_layer(layer) for layer in scene.layers],
        "selection": None if scene.selection is None else _selection(scene.selection),
        "can_reselect": scene.former is not None,
        "objects": [{"id": kept.id, "label": kept.label, **_mask(kept.mask)} for kept in scene.objects],
        "holes": len(scene.holes),
        "variants": [{"layer": each.layer, "seed": each.seed} for each in scene.variants],
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "id": layer.id,
        "name": layer.name,
        "kind": layer.kind,
        "size": list(layer.raster.size),
        "matrix": list(layer.matrix),
        "opacity": layer.opacity,
        "visible": layer.visible,
    }


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "label": selection.label,
        **_mask(selection.mask),
        "candidates": [
            {"name": each.name, "score": each.score, **_mask(each.mask)} for each in selection.candidates
        ],
        "chosen": selection.chosen,
        "prompts": list(selection.prompts),
        "engine": selection.engine,
    }


def _mask(mask: Raster) -> dict[str, Any]:
    """The box of a mask, None where it is empty, and the pixels it holds."""
    box = mask.content_box()
    return {"box": None if box is None else list(box), "area": masks.area(mask)}
