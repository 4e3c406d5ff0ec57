"""What a document is at one moment: layers, what is selected, objects. Frozen: an edit makes another one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator, SerializationInfo, TypeAdapter, ValidationInfo

from llavakit.core.errors import UserError
from llavakit.studio.tiles import Box, Raster

# A picture or mask inside a scene. In JSON it is a number, which the context of reading and writing makes of it.
Stored = Annotated[
    Raster,
    PlainValidator(lambda number, info: _convert(number, info)),
    PlainSerializer(lambda raster, info: _convert(raster, info)),
]
Matrix = tuple[float, float, float, float, float, float]  # x' = a x + b y + c, y' = d x + e y + f
IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Kind = Literal["photo", "cut", "made"]


class EditError(UserError):
    """A command that cannot work on what is there: what is missing, and what to do."""


@dataclass(frozen=True)
class Layer:
    """A picture that lies on the canvas by its matrix. The lowest one is the photo."""

    id: int
    name: str
    kind: Kind
    raster: Stored
    matrix: Matrix = IDENTITY
    opacity: float = 1.0
    visible: bool = True


@dataclass(frozen=True)
class Candidate:
    """One answer to a prompt: what it is (part, object, salient), its mask as large as the canvas."""

    name: str
    mask: Stored
    score: float = 1.0


@dataclass(frozen=True)
class Selection:
    """The mask everything works on, what else the prompts may have meant, and the prompts as JSON."""

    mask: Stored
    label: str = ""
    candidates: tuple[Candidate, ...] = ()
    chosen: int = 0
    prompts: tuple[dict[str, Any], ...] = ()
    engine: str = ""


@dataclass(frozen=True)
class Labelled:
    """An object that was kept: its mask under a name."""

    id: int
    label: str
    mask: Stored


@dataclass(frozen=True)
class Hole:
    """A place that is filled for a preview only."""

    layer: int
    mask: Stored


@dataclass(frozen=True)
class Variant:
    """One result of an engine: what its layer can show instead."""

    layer: int
    raster: Stored
    seed: int


@dataclass(frozen=True)
class Scene:
    """Everything that undo brings back."""

    size: tuple[int, int]  # of the canvas: width, height
    layers: tuple[Layer, ...]  # from the lowest
    selection: Selection | None = None
    former: Selection | None = None  # for `reselect`
    objects: tuple[Labelled, ...] = ()
    holes: tuple[Hole, ...] = ()
    variants: tuple[Variant, ...] = ()
    next_id: int = 1

    @property
    def box(self) -> Box:
        return (0, 0, *self.size)

    def layer(self, id: int) -> Layer:
        """The layer with this id, or an EditError."""
        for each in self.layers:
            if each.id == id:
                return each
        raise EditError(f"there is no layer {id}; layers: {', '.join(str(each.id) for each in self.layers)}")

    def with_layer(self, changed: Layer) -> "Scene":
        """The same with one layer exchanged for another of its id."""
        return replace(self, layers=tuple(changed if each.id == changed.id else each for each in self.layers))

    def add_layer(self, name: str, kind: Kind, raster: Raster, matrix: Matrix) -> tuple["Scene", Layer]:
        """The same with a layer on top."""
        new = Layer(self.next_id, name or f"layer {self.next_id}", kind, raster, matrix)
        return replace(self, layers=(*self.layers, new), next_id=self.next_id + 1), new

    def select(self, selection: Selection | None) -> "Scene":
        """The same with another selection; `reselect` gets the one there was."""
        return replace(self, selection=selection, former=self.selection or self.former)

    def selected(self) -> Selection:
        """The selection, or an EditError where nothing is selected."""
        if self.selection is None or self.selection.mask.content_box() is None:
            raise EditError("nothing is selected: select something first")
        return self.selection

    def rasters(self) -> Iterator[Raster]:
        """Every picture and mask it holds; one may come more than once."""
        yield from (layer.raster for layer in self.layers)
        yield from (variant.raster for variant in self.variants)
        for selection in (self.selection, self.former):
            if selection is not None:
                yield selection.mask
                yield from (candidate.mask for candidate in selection.candidates)
        yield from (kept.mask for kept in self.objects)
        yield from (hole.mask for hole in self.holes)


def _convert(thing: Any, info: SerializationInfo | ValidationInfo) -> Any:
    return info.context(thing)  # type: ignore[misc]


SCENES: TypeAdapter[Scene] = TypeAdapter(Scene)
