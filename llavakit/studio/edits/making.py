"""Commands that engines make pixels for: replace, add, edit by text, generate. Each result is a variant."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llavakit.studio import masks
from llavakit.studio.commands import Add, EditByText, Generate, Made, Replace, Vary
from llavakit.studio.edits.filling import surroundings
from llavakit.studio.edits.selecting import canvas_part
from llavakit.studio.engines import Bench
from llavakit.studio.looking import SceneView
from llavakit.studio.scene import EditError, Scene, Variant
from llavakit.studio.tiles import Box, Pixels, Raster, grown, raster_of

EDGE = 3  # pixels over which made pixels go into those around them


def make_replacement(scene: Scene, command: Replace, bench: Bench) -> Scene:
    """What is selected, shown as a prompt says."""
    mask = scene.selected().mask
    return _inpaint(scene, masks.grow(mask, 2 * EDGE), command, bench).select(None)


def add(scene: Scene, command: Add, bench: Bench) -> Scene:
    """Something new in a box."""
    left, top, right, bottom = canvas_part(scene, command.box)
    mask = np.full((bottom - top, right - left), 255, np.uint8)
    return _inpaint(scene, masks.mask_raster(scene.size, (left, top), mask), command, bench)


def edit_by_text(scene: Scene, command: EditByText, bench: Bench) -> Scene:
    """The picture as an instruction says; where something is selected, only that changes."""
    if not command.prompt.strip():
        raise EditError("edit: say what to change")
    engine, selection = bench.editor(command.engine), scene.selection
    box = scene.box if selection is None else selection.mask.content_box() or scene.box
    box = grown(box, 0 if box == scene.box else surroundings(box), scene.size)
    alpha = None if selection is None else masks.read_mask(selection.mask, box)
    rgb = SceneView(scene).rgb(box=box)
    return _variants(
        scene,
        command.prompt,
        _seeds(command),
        lambda seed: _layer_pixels(engine.edit(rgb, command.prompt, seed), alpha),
        box,
    )


def generate(scene: Scene, command: Generate, bench: Bench) -> Scene:
    """A new picture over the old one."""
    if len(command.boxes) != len(command.phrases):
        raise EditError(
            f"generate: {len(command.boxes)} boxes and {len(command.phrases)} phrases; each box has one"
        )
    engine = bench.generator(command.engine)
    boxes = [canvas_part(scene, box) for box in command.boxes]
    seeds = range(command.seed, command.seed + command.count)
    return _variants(
        scene, command.caption, seeds,
        lambda seed: _layer_pixels(
            engine.generate(scene.size, command.caption, boxes, command.phrases, seed), None
        ),
        scene.box,
    )  # fmt: skip


def vary(scene: Scene, command: Vary) -> Scene:
    """Another of the last results."""
    if command.variant >= len(scene.variants):
        raise EditError(f"there are {len(scene.variants)} variants, counted from 0")
    variant = scene.variants[command.variant]
    return scene.with_layer(replace(scene.layer(variant.layer), raster=variant.raster))


def _inpaint(scene: Scene, mask: Raster, command: Made, bench: Bench) -> Scene:
    if not command.prompt.strip():
        raise EditError("say what shall be there; to take something away there is `remove`")
    box = mask.content_box()
    assert box is not None
    engine, around = bench.inventor(command.engine), grown(box, surroundings(box), scene.size)
    rgb, alpha = SceneView(scene).rgb(box=around), masks.read_mask(mask, around)
    hole = alpha >= masks.INSIDE
    soft = masks.read_mask(masks.feather(masks.grow(mask, -EDGE), EDGE), around)
    return _variants(
        scene, command.prompt, _seeds(command),
        lambda seed: _layer_pixels(engine.fill(rgb, hole, command.prompt, seed), np.minimum(soft, alpha)), around,
    )  # fmt: skip


def _seeds(command: Made) -> Sequence[int]:
    return range(command.seed, command.seed + command.count)


def _layer_pixels(rgb: Pixels, alpha: Pixels | None) -> Pixels:
    full = np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha
    out = np.concatenate((rgb, full[..., None]), axis=-1)
    out[full == 0] = 0
    return out


def _variants(
    scene: Scene, name: str, seeds: Sequence[int], make: Callable[[int], Pixels], box: Box
) -> Scene:
    """A layer with the first result, and all of them to choose from."""
    matrix = (1.0, 0.0, float(box[0]), 0.0, 1.0, float(box[1]))
    made = tuple(Variant(scene.next_id, raster_of(make(seed)), seed) for seed in seeds)
    scene, _ = scene.add_layer(name[:60], "made", made[0].raster, matrix)
    return replace(scene, variants=made)
