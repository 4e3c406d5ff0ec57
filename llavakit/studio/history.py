"""The steps of a document: undo and redo by gesture, within bounds of number and memory."""

from dataclasses import dataclass

from pydantic import Field

from llavakit.core.config import Config
from llavakit.studio.scene import Scene


class Limits(Config):
    """What undo keeps: so many steps, or fewer where they differ by more than so many megabytes of pixels."""

    steps: int = Field(500, ge=1, le=100_000)
    megabytes: int = Field(256, ge=1, le=1 << 20)


@dataclass(frozen=True)
class Step:
    """A scene, the gesture that made it, and the bytes that only the scene before it holds."""

    scene: Scene
    gesture: str
    freed: int = 0


class History:
    """The steps that can be gone back to, and those that can be done again."""

    def __init__(self, scene: Scene, limits: Limits) -> None:
        self.limits = limits
        self._steps, self._at = [Step(scene, "")], 0

    @property
    def scene(self) -> Scene:
        return self._steps[self._at].scene

    @property
    def can_undo(self) -> bool:
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        return self._at + 1 < len(self._steps)

    def scenes(self) -> list[Scene]:
        """Every scene that undo or redo can show."""
        return [step.scene for step in self._steps]

    def add(self, scene: Scene, gesture: str) -> None:
        """The next step; what could be redone is forgotten, and the oldest steps beyond the limits."""
        before = self.scene
        self._steps[self._at + 1 :] = [Step(scene, gesture, _freed(before, scene))]
        self._at += 1
        most = self.limits.megabytes << 20
        while self._at > 1 and (self._at > self.limits.steps or sum(s.freed for s in self._steps) > most):
            self._steps[:2] = [Step(self._steps[1].scene, self._steps[1].gesture)]
            self._at -= 1

    def undo(self) -> Scene:
        """Back to before the last gesture."""
        gesture = self._steps[self._at].gesture
        self._at -= 1
        while self._at and gesture and self._steps[self._at].gesture == gesture:
            self._at -= 1
        return self.scene

    def redo(self) -> Scene:
        """Forward to the end of the next gesture."""
        self._at += 1
        gesture = self._steps[self._at].gesture
        while self.can_redo and gesture and self._steps[self._at + 1].gesture == gesture:
            self._at += 1
        return self.scene


def _freed(before: Scene, after: Scene) -> int:
    kept = {id(raster) for raster in after.rasters()}
    left = [raster for raster in before.rasters() if id(raster) not in kept]
    if not left:
        return 0
    held = {id(tile) for raster in after.rasters() for tile in raster.tiles}
    tiles = {id(tile): tile.nbytes for raster in left for tile in raster.tiles if tile is not None}
    return sum(size for key, size in tiles.items() if key not in held)
