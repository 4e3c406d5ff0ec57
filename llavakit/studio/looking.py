"""The picture as an engine sees it: what is visible, without alpha."""

from collections.abc import Hashable

import numpy as np

from llavakit.studio.render import flatten
from llavakit.studio.scene import Scene
from llavakit.studio.tiles import Box, Pixels

BEHIND = 255  # what is transparent looks white


class SceneView:
    """What is visible of a scene; scenes that look alike have one key."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self.size = scene, scene.size
        self.key: Hashable = tuple(
            (layer.raster, layer.matrix, layer.opacity) for layer in scene.layers if layer.visible
        )

    def rgb(self, z: int = 0, box: Box | None = None) -> Pixels:
        """uint8[h, w, 3]: a box of the picture halved `z` times."""
        return opaque(flatten(self._scene, box, z))


def opaque(rgba: Pixels) -> Pixels:
    """uint8[h, w, 3]: the picture over white."""
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.float32) / 255
    return np.rint(rgba[..., :3] * share + BEHIND * (1 - share)).astype(np.uint8)
