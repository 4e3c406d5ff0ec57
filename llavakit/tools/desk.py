"""The desk of one conversation: its pictures and texts by names short enough for a model to write.

On the desk a picture is `img_1`, `img_2` in the order in which it came, a text `txt_1`; in the folder behind it
both have ids that nobody guesses. What lies on another desk cannot be called from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from llavakit.core.errors import nearest
from llavakit.text.calls import ToolError
from llavakit.tools.artifacts import ID, Artifact, Artifacts, Origin
from llavakit.vision.boxes import Box, Frame, Unit, make_box
from llavakit.vision.image import Source
from llavakit.vision.layout import Step
from llavakit.vision.plan import ImageConfig, plan_image

PREFIXES = {"image": "img", "text": "txt"}


@dataclass
class Desk:
    """`unit` is what the numbers of the model's boxes count; with `input`, `image` says how it sees pictures.

    `names` (short name to id) of an earlier desk on the same folder puts everything back in its place. On an `open`
    desk everything in the folder can be called by its id: for callers that bring ids with every call.
    """

    store: Artifacts
    unit: Unit = "0-1"
    image: ImageConfig | None = None
    names: dict[str, str] = field(default_factory=dict)
    open: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)  # calls run side by side

    def add_image(self, source: Source, *, made_by: str = "", origin: Origin | None = None) -> str:
        """Put a picture on the desk; its name."""
        return self.place(self.store.add_image(source, made_by=made_by, origin=origin))

    def add_text(self, text: str, *, made_by: str = "") -> str:
        """Put a text on the desk; its name."""
        return self.place(self.store.add_text(text, made_by=made_by))

    def place(self, artifact: Artifact) -> str:
        """A name for something that is in the folder already; on an open desk its id."""
        if self.open:
            return artifact.id
        prefix = PREFIXES[artifact.kind]
        with self._lock:
            name = f"{prefix}_{1 + sum(known.startswith(f'{prefix}_') for known in self.names)}"
            self.names[name] = artifact.id
        return name

    def find(self, name: str, kind: Literal["image", "text"] = "image") -> Artifact:
        """What a call names: by its short name, or by an id that lies here. ToolError says what there is."""
        by_id = name in self.names.values() or (self.open and ID.fullmatch(name))
        found = self.names.get(name, name if by_id else None)
        if found is None:
            there = [known for known in self.names if known.startswith(PREFIXES[kind])]
            raise ToolError(
                f"there is no {name[:60]!r} here{nearest(name, there)}" if there
                else f"there is no {name[:60]!r} here: no {kind} at all"
            )  # fmt: skip
        artifact = self.store.find(found)
        if artifact.kind != kind:
            raise ToolError(f"{name} is of kind {artifact.kind}, not {kind}")
        return artifact

    def pictures(self) -> Sequence[str]:
        """The names of all pictures, in the order in which they came."""
        return [name for name in self.names if name.startswith(PREFIXES["image"])]

    def describe(self) -> dict[str, str]:
        """What a model is told about the pictures: name, size, and the tool that made it."""
        said = {}
        for name in self.pictures():
            artifact = self.find(name)
            assert artifact.size is not None
            made = f", made by {artifact.made_by}" if artifact.made_by else ""
            said[name] = f"{artifact.size[0]} x {artifact.size[1]} pixels{made}"
        return said

    def frame(self, name: str) -> Frame:
        """The size of a picture, and what the model's plan does to it."""
        size = self.find(name).size
        assert size is not None
        steps: tuple[Step, ...] = () if self.image is None else plan_image(self.image, size).views[-1].steps
        return Frame(size, steps)

    def box(self, name: str, numbers: Sequence[float], unit: Unit | None = None) -> Box:
        """A box as the model wrote it."""
        return make_box(name, unit or self.unit, numbers)
