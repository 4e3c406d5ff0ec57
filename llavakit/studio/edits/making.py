"""Commands that engines make pixels for: replace, add, edit by text, generate. Each result is a variant.

Engines take long, and the picture may be edited meanwhile: what they made is laid on the scene that is there then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llavakit.studio import masks
from llavakit.studio.commands import Add, EditByText, Generate, Made, Replace, Vary
from llavakit.studio.edits.filling import surroundings
from llavakit.studio.edits.selecting import canvas_part
from llavakit.studio.engines import Bench, Watch
from llavakit.studio.looking import SceneView
from llavakit.studio.scene import EditError, Scene, Selection, Variant
from llavakit.studio.tiles import Box, Pixels, Raster, grown, raster_of

EDGE = 3  # pixels over which made pixels go into those around them


@dataclass(frozen=True)
class Making:
    """What an engine made for a box of the canvas, a picture for each seed. `used`: the selection it replaces."""

    name: str
    box: Box
    made: tuple[tuple[int, Raster], ...]
    used: Selection | None = None

    def lay(self, scene: Scene) -> Scene:
        """A layer with the first result, and all of them to choose from."""
        matrix = (1.0, 0.0, float(self.box[0]), 0.0, 1.0, float(self.box[1]))
        variants = tuple(Variant(scene.next_id, raster, seed) for seed, raster in self.made)
        scene, _ = scene.add_layer(self.name[:60], "made", variants[0].raster, matrix)
        scene = replace(scene, variants=variants)
        return scene.select(None) if self.used is not None and scene.selection is self.used else scene


def make_replacement(scene: Scene, command: Replace, bench: Bench) -> Making:
    """What is selected, shown as a prompt says."""
    selection = scene.selected()
    return replace(_invent(scene, masks.grow(selection.mask, 2 * EDGE), command, bench), used=selection)


def add(scene: Scene, command: Add, bench: Bench) -> Making:
    """Something new in a box."""
    left, top, right, bottom = canvas_part(scene, command.box)
    mask = np.full((bottom - top, right - left), 255, np.uint8)
    return _invent(scene, masks.mask_raster(scene.size, (left, top), mask), command, bench)


def edit_by_text(scene: Scene, command: EditByText, bench: Bench) -> Making:
    """The picture as an instruction says; where something is selected, only that changes."""
    if not command.prompt.strip():
        raise EditError("edit: say what to change")
    engine, selection = bench.editor(command.engine), scene.selection
    box = scene.box if selection is None else selection.mask.content_box() or scene.box
    box = grown(box, 0 if box == scene.box else surroundings(box), scene.size)
    alpha = None if selection is None else masks.read_mask(selection.mask, box)
    rgb = SceneView(scene).rgb(box=box)

    def make(seed: int, watch: Watch) -> Pixels:
        return _layer_pixels(engine.edit(rgb, command.prompt, seed, watch), alpha)

    return _making(command.prompt, box, _seeds(command), make, bench.watch)


def generate(scene: Scene, command: Generate, bench: Bench) -> Making:
    """A new picture over the old one."""
    if len(command.boxes) != len(command.phrases):
        raise EditError(
            f"generate: {len(command.boxes)} boxes and {len(command.phrases)} phrases; each box has one"
        )
    engine = bench.generator(command.engine)
    boxes = [canvas_part(scene, box) for box in command.boxes]

    def make(seed: int, watch: Watch) -> Pixels:
        made = engine.generate(scene.size, command.caption, boxes, command.phrases, seed, watch)
        return _layer_pixels(made, None)

    return _making(command.caption, scene.box, _seeds(command), make, bench.watch)


def vary(scene: Scene, command: Vary) -> Scene:
    """Another of the last results."""
    if command.variant >= len(scene.variants):
        raise EditError(f"there are {len(scene.variants)} variants, counted from 0")
    variant = scene.variants[command.variant]
    return scene.with_layer(replace(scene.layer(variant.layer), raster=variant.raster))


def _invent(scene: Scene, mask: Raster, command: Made, bench: Bench) -> Making:
    if not command.prompt.strip():
        raise EditError("say what shall be there; to take something away there is `remove`")
    box = mask.content_box()
    assert box is not None
    engine, around = bench.inventor(command.engine), grown(box, surroundings(box), scene.size)
    rgb, alpha = SceneView(scene).rgb(box=around), masks.read_mask(mask, around)
    hole = alpha >= masks.INSIDE
    soft = np.minimum(masks.read_mask(masks.feather(masks.grow(mask, -EDGE), EDGE), around), alpha)

    def make(seed: int, watch: Watch) -> Pixels:
        return _layer_pixels(engine.invent(rgb, hole, command.prompt, seed, watch), soft)

    return _making(command.prompt, around, _seeds(command), make, bench.watch)


def _seeds(command: Made | Generate) -> Sequence[int]:
    return range(command.seed, command.seed + command.count)


def _layer_pixels(rgb: Pixels, alpha: Pixels | None) -> Pixels:
    full = np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha
    out = np.concatenate((rgb, full[..., None]), axis=-1)
    out[full == 0] = 0
    return out


def _making(
    name: str, box: Box, seeds: Sequence[int], make: Callable[[int, Watch], Pixels], watch: Watch
) -> Making:
    """One result after the other; `watch` is told of all of them together."""
    made: list[tuple[int, Raster]] = []
    for number, seed in enumerate(seeds):
        watch(number / len(seeds))
        pixels = make(seed, lambda done, number=number: watch((number + done) / len(seeds)))  # type: ignore[misc]
        made.append((seed, raster_of(pixels)))
    return Making(name, box, tuple(made))
