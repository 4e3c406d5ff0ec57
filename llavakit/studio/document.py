"""The editor from Python: a document whose methods can be written one behind the other.

Document.open("cat.png").segment(box=(40, 60, 200, 220)).move(dx=40).save("out.png")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image

from llavakit.studio import masks
from llavakit.studio.commands import Fill, Select, Stroke
from llavakit.studio.defaults import default_bench
from llavakit.studio.engines import Bench
from llavakit.studio.render import flatten
from llavakit.studio.saving import encode_mask, pack_session, save_coco, save_picture
from llavakit.studio.scene import EditError, Scene
from llavakit.studio.session import Session

SESSION_SUFFIX = ".studio"


class Document:
    """A session with a method for each thing one does to a picture. Errors are EditErrors, one line each."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._layer: int | None = None

    @classmethod
    def open(
        cls, picture: Path | str | bytes, *, folder: Path | None = None, bench: Bench | None = None
    ) -> Self:
        """A picture file. In memory, or in a folder that keeps every step."""
        source = picture if isinstance(picture, bytes) else Path(picture)
        return cls(Session.create(folder, source, bench or default_bench()))

    @property
    def scene(self) -> Scene:
        return self.session.scene

    def do(self, do: str, **fields: Any) -> Self:
        """Any command by its name and fields."""
        before = {layer.id for layer in self.scene.layers}
        self.session.apply({"do": do, **fields})
        new = [layer.id for layer in self.scene.layers if layer.id not in before]
        if new:
            self._layer = new[-1]
        return self

    def segment(
        self,
        text: str = "",
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        stroke: Sequence[tuple[float, float]] = (),
        width: float = 10.0,
        box: tuple[float, float, float, float] | None = None,
        how: str = "new",
        engine: str = "",
    ) -> Self:
        """Select what words, clicks, a stroke or a box mean."""
        strokes = (Stroke(path=tuple(stroke), width=width),) if len(stroke) else ()
        self.session.apply(
            Select.model_validate(
                {
                    "points": tuple(points),
                    "strokes": strokes,
                    "box": box,
                    "text": text,
                    "how": how,
                    "engine": engine,
                }
            )
        )
        return self

    def choose(self, candidate: int) -> Self:
        return self.do("choose", candidate=candidate)

    def grow(self, pixels: int) -> Self:
        return self.do("grow", pixels=pixels)

    def feather(self, radius: float) -> Self:
        return self.do("feather", radius=radius)

    def invert(self) -> Self:
        return self.do("invert")

    def keep(self, label: str) -> Self:
        """The selection joins the labelled objects, for `save_coco`."""
        return self.do("keep_object", label=label)

    def remove(self, *, fill: Fill = "final", grow: int | None = None, shadow: bool = False) -> Self:
        return self.do("remove", fill=fill, shadow=shadow, **({} if grow is None else {"grow": grow}))

    def move(self, dx: float = 0, dy: float = 0) -> Self:
        """What is selected, or else what was moved, resized, turned or made last."""
        return self.do("move", dx=dx, dy=dy, **self._placed())

    def resize(self, factor: float) -> Self:
        return self.do("resize", factor=factor, **self._placed())

    def rotate(self, degrees: float) -> Self:
        return self.do("rotate", degrees=degrees, **self._placed())

    def duplicate(self, dx: float = 20, dy: float = 20) -> Self:
        return self.do("duplicate", dx=dx, dy=dy, **self._placed())

    def replace(self, prompt: str, *, seed: int = 0, engine: str = "") -> Self:
        return self.do("replace", prompt=prompt, seed=seed, engine=engine)

    def undo(self) -> Self:
        return self.do("undo")

    def redo(self) -> Self:
        return self.do("redo")

    @property
    def mask(self) -> np.ndarray:
        """uint8[h, w]: the selection."""
        return masks.read_mask(self.scene.selected().mask)

    def rle(self) -> dict[str, object]:
        """The selection as COCO has masks."""
        return encode_mask(self.scene)

    def picture(self) -> PIL.Image.Image:
        """What is visible, mode RGBA."""
        return PIL.Image.fromarray(flatten(self.scene))

    def save(self, path: Path | str) -> Self:
        """A picture (.png, .jpg, .webp), its layers (.ora), or everything with its history (.studio)."""
        path = Path(path)
        if path.suffix == SESSION_SUFFIX:
            if self.session.folder is None:
                raise EditError("a document in memory has no history to save: open it with a folder")
            pack_session(self.session.folder, path)
        else:
            save_picture(self.scene, self.session.picture, path)
        return self

    def save_coco(self, path: Path | str) -> Self:
        """The kept objects, or the selection, as a COCO file with masks."""
        save_coco(self.scene, Path(path), self.scene.layers[0].name)
        return self

    def _placed(self) -> dict[str, Any]:
        """The layer that a method without one is about: none where something is selected."""
        known = any(layer.id == self._layer for layer in self.scene.layers)
        return {"layer": self._layer} if self.scene.selection is None and known else {}
