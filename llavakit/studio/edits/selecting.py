"""Commands about the selection."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from llavakit.studio import masks
from llavakit.studio.commands import (
    Choose,
    DropObject,
    Feather,
    Grow,
    KeepObject,
    LoadMask,
    Paint,
    PickObject,
    Select,
)  # fmt: skip
from llavakit.studio.engines import Bench, Found, Mark, Prompts
from llavakit.studio.looking import SceneView
from llavakit.studio.scene import Candidate, EditError, Labelled, Scene, Selection
from llavakit.studio.tiles import Box, Raster, blank
from llavakit.vision.rle import decode_rle


def select(scene: Scene, command: Select, bench: Bench) -> Scene:
    """Ask the segmenter. `refine` gives it all marks so far, and the mask that they and any words led to."""
    if not (command.points or command.strokes or command.box or command.text):
        raise EditError("select: say where: points, strokes, a box or a text")
    before = scene.selection if command.how == "refine" else None
    new = command.model_dump(mode="json", include={"points", "strokes", "box", "text"})
    said = (*(before.prompts if before else ()), new)
    engine = command.engine or (before.engine if before else "")
    mask = None if before is None else masks.read_mask(before.mask)
    prompts = _prompts(said, scene, mask)
    if mask is not None:  # earlier words are in it; a segmenter of marks need not understand them
        prompts = replace(prompts, text=command.text)
    found = bench.segmenter(engine).segment(SceneView(scene), prompts)
    if not found:
        raise EditError("nothing was found there; mark more of it, or use the brush")
    candidates = tuple(_candidate(scene, each) for each in found)
    chosen = candidates[0].mask
    label = command.text or (before.label if before else "")
    if command.how in ("new", "refine"):
        return scene.select(Selection(chosen, label, candidates, 0, said, engine))
    return scene.select(
        Selection(
            masks.combine(_mask(scene), chosen, command.how), scene.selection.label if scene.selection else ""
        )
    )


def choose(scene: Scene, command: Choose) -> Scene:
    """Another candidate; what `reselect` brings back stays the same."""
    selection = scene.selected()
    if command.candidate >= len(selection.candidates):
        raise EditError(f"the selection has {len(selection.candidates)} candidates, counted from 0")
    mask = selection.candidates[command.candidate].mask
    return replace(scene, selection=replace(selection, mask=mask, chosen=command.candidate))


def paint(scene: Scene, command: Paint) -> Scene:
    """A brush stroke; the first one makes a selection."""
    mask = masks.brush(_mask(scene), command.path, command.width, erase=command.erase)
    return scene.select(_changed(scene.selection, mask))


def grow(scene: Scene, command: Grow) -> Scene:
    return scene.select(_changed(scene.selection, masks.grow(scene.selected().mask, command.pixels)))


def feather(scene: Scene, command: Feather) -> Scene:
    return scene.select(_changed(scene.selection, masks.feather(scene.selected().mask, command.radius)))


def invert(scene: Scene) -> Scene:
    """What was not selected; all, where nothing was."""
    return scene.select(_changed(scene.selection, masks.invert(_mask(scene))))


def deselect(scene: Scene) -> Scene:
    return scene.select(None)


def reselect(scene: Scene) -> Scene:
    """The selection before the last one; asking again brings the last one back."""
    if scene.former is None:
        raise EditError("there was no selection before")
    return scene.select(scene.former)


def load_mask(scene: Scene, command: LoadMask) -> Scene:
    """A mask from elsewhere, which can be refined like any other."""
    height, width = command.rle.size
    if (width, height) != scene.size:
        raise EditError(
            f"the mask is for {width} x {height} pixels, and the picture has {scene.size[0]} x {scene.size[1]}"
        )
    mask = np.uint8(255) * decode_rle(command.rle.size, command.rle.counts)
    return scene.select(Selection(masks.mask_raster(scene.size, (0, 0), mask), command.label))


def keep_object(scene: Scene, command: KeepObject) -> Scene:
    kept = Labelled(scene.next_id, command.label, scene.selected().mask)
    selection = replace(scene.selected(), label=command.label)
    return replace(scene, objects=(*scene.objects, kept), selection=selection, next_id=scene.next_id + 1)


def pick_object(scene: Scene, command: PickObject) -> Scene:
    kept = _object(scene, command.object)
    return scene.select(Selection(kept.mask, kept.label))


def drop_object(scene: Scene, command: DropObject) -> Scene:
    gone = _object(scene, command.object)
    return replace(scene, objects=tuple(each for each in scene.objects if each is not gone))


def _object(scene: Scene, id: int) -> Labelled:
    for each in scene.objects:
        if each.id == id:
            return each
    raise EditError(f"there is no kept object {id}")


def _mask(scene: Scene) -> Raster:
    return blank(scene.size, 1) if scene.selection is None else scene.selection.mask


def _changed(selection: Selection | None, mask: Raster) -> Selection:
    """The selection with a mask that was changed by hand: the prompts stay for `refine`, candidates do not."""
    return replace(selection or Selection(mask), mask=mask, candidates=(), chosen=0)


def _candidate(scene: Scene, found: Found) -> Candidate:
    return Candidate(found.name, masks.mask_raster(scene.size, found.at, found.mask), found.score)


def _prompts(said: Iterable[dict[str, object]], scene: Scene, before: np.ndarray | None) -> Prompts:
    """All that was said, the last box and the last text counting."""
    marks: list[Mark] = []
    box: Box | None = None
    text = ""
    for row in said:
        one = Select.model_validate(row)
        marks += [Mark(((x, y),), 1.0, inside) for x, y, inside in one.points]
        marks += [Mark(stroke.path, stroke.width, stroke.inside) for stroke in one.strokes]
        text = one.text or text
        if one.box is not None:
            box = canvas_part(scene, one.box)
    return Prompts(tuple(marks), box, text, before)


def canvas_part(scene: Scene, rectangle: tuple[float, float, float, float]) -> Box:
    """The pixels of the canvas that a rectangle covers, its corners in any order. EditError for none."""
    x0, x1 = sorted((rectangle[0], rectangle[2]))
    y0, y1 = sorted((rectangle[1], rectangle[3]))
    left, top = max(0, int(x0)), max(0, int(y0))
    right, bottom = min(scene.size[0], int(np.ceil(x1))), min(scene.size[1], int(np.ceil(y1)))
    if left >= right or top >= bottom:
        raise EditError(f"the box {list(rectangle)} holds no pixel of the picture")
    return left, top, right, bottom
