"""The pictures of a round, cut once for whoever looks: the check of a prompt, the sampler, the learner's passes.

What a tower that does not learn makes of them is kept as well, for the sampler and all passes of the learner.

A picture is named by where it lies and how it is cut. Those that were looked at longest ago are forgotten first, so
memory is bounded whatever a round asks about; a forgotten one is decoded again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from llavakit.data.media import Media, plan_media
from llavakit.engine.kept import Kept
from llavakit.engine.request import Album
from llavakit.text.conversation import Medium
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig

See = Callable[[Tensor], Tensor]
ROOM = 256 * 2**20  # bytes of tiles, and again of features


class Pictures:
    """Tiles and features by medium."""

    def __init__(self, see: See | None = None, room: int = ROOM) -> None:
        """`see` is a tower that does not learn, for tiles_NHWC; None: it does, or nobody asks for features."""
        self._see = see
        self._tiles: Kept[Media, Tensor] = Kept(room, lambda _, tiles: tiles.nbytes)
        self._features: Kept[Media, Tensor] = Kept(room, lambda _, features: features.nbytes)

    def plan(self, part: Medium, image: ImageConfig, video: VideoConfig | None, *, alone: bool) -> Media:
        """As `plan_media`, of media whose tiles are remembered here."""
        found = plan_media(part, image, video, alone=alone)
        return CutOnce(found.source, found.plan, found.depth, self)

    def tiles(self, media: Media) -> Tensor:
        """uint8[N, H, W, 3], cut now or earlier."""
        tiles = self._tiles.find(media)
        if tiles is None:
            tiles = Media.tiles(media)
            self._tiles.keep(media, tiles)
        return tiles

    def show(self, media: Media) -> Tensor:
        """What stands for a medium in a row: features_NRC, computed once, or tiles where the tower learns."""
        if self._see is None:
            return media.tiles()
        features = self._features.find(media)
        if features is None:
            features = self._see(media.tiles())
            self._features.keep(media, features)
        return features


class Shown(Album):
    """The media of a prompt, as the sampler's engine asks for them."""

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self._pictures = pictures

    def tiles(self, key: bytes, media: Media) -> Tensor:
        """As `Pictures.show`."""
        return self._pictures.show(media)


@dataclass(frozen=True)
class CutOnce(Media):
    """A picture or clip whose tiles somebody may have cut already."""

    memory: Pictures = field(default_factory=Pictures, compare=False)

    def tiles(self) -> Tensor:
        """As `Media`."""
        return self.memory.tiles(self)
