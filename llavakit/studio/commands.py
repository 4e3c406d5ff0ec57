"""Commands: what can be asked of a document, as plain data. They say what, never how (`edits/` does)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from llavakit.core.config import Config
from llavakit.core.errors import nearest
from llavakit.studio.scene import EditError

LIMIT = 100_000.0  # no coordinate is further out; pictures are at most 89 megapixels
Number = Annotated[float, Field(ge=-LIMIT, le=LIMIT)]
Place = tuple[Number, Number]
Click = tuple[Number, Number, bool]
Path = Annotated[tuple[Place, ...], Field(min_length=1, max_length=20_000)]
Rectangle = tuple[Number, Number, Number, Number]
Width = Annotated[float, Field(gt=0, le=4096)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(max_length=4000)]
Id = Annotated[int, Field(ge=0)]
Fill = Literal["preview", "final"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=8)]


class Command(Config):
    """Base of all commands. `keeps`: it is no step of undo."""

    keeps: ClassVar[bool] = False


class Stroke(Config):
    """A path drawn with a brush `width` pixels wide, over what is meant or over what is not."""

    path: Path
    width: Width = 10.0
    inside: bool = True


class Select(Command):
    """A mask from clicks, strokes, a box or words, by a segmenter."""

    do: Literal["select"] = "select"
    points: Annotated[tuple[Click, ...], Field(max_length=1000)] = ()
    strokes: Annotated[tuple[Stroke, ...], Field(max_length=1000)] = ()
    box: Rectangle | None = None
    text: Words = ""
    how: Literal["new", "refine", "add", "subtract", "intersect"] = "new"
    engine: Annotated[str, Field(max_length=200)] = ""


class Choose(Command):
    do: Literal["choose"] = "choose"
    candidate: Id


class Paint(Command):
    """The selection by hand."""

    do: Literal["paint"] = "paint"
    path: Path
    width: Width = 20.0
    erase: bool = False


class Grow(Command):
    do: Literal["grow"] = "grow"
    pixels: Annotated[int, Field(ge=-2048, le=2048)]


class Feather(Command):
    do: Literal["feather"] = "feather"
    radius: Annotated[float, Field(gt=0, le=512)]


class Invert(Command):
    do: Literal["invert"] = "invert"


class Deselect(Command):
    do: Literal["deselect"] = "deselect"


class Reselect(Command):
    do: Literal["reselect"] = "reselect"


class Rle(Config):
    """A mask as COCO writes it: size (height, width) and counts, a text or a list."""

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    counts: str | tuple[Annotated[int, Field(ge=0)], ...]


class LoadMask(Command):
    do: Literal["load_mask"] = "load_mask"
    rle: Rle
    label: Words = ""


class KeepObject(Command):
    do: Literal["keep_object"] = "keep_object"
    label: Name


class PickObject(Command):
    do: Literal["pick_object"] = "pick_object"
    object: Id


class DropObject(Command):
    do: Literal["drop_object"] = "drop_object"
    object: Id


class Remove(Command):
    """What is selected goes and its place is filled; or a whole layer goes.

    `grow`: pixels around the mask that are filled too; None: what suits the size of the picture. `shadow`: the
    thing's shadow goes too.
    """

    do: Literal["remove"] = "remove"
    fill: Fill = "final"
    grow: Annotated[int, Field(ge=0, le=512)] | None = None
    shadow: bool = False
    layer: Id | None = None


class Refine(Command):
    """The final fill, in the place of every preview."""

    do: Literal["refine"] = "refine"
    engine: Annotated[str, Field(max_length=200)] = ""


class Lift(Command):
    do: Literal["lift"] = "lift"
    fill: Fill = "final"
    grow: Annotated[int, Field(ge=0, le=512)] | None = None
    label: Words = ""


class Moving(Command):
    """Places a layer. Without one, what is selected is lifted first, and its place filled as `fill` says."""

    layer: Id | None = None
    fill: Fill = "final"


class Move(Moving):
    do: Literal["move"] = "move"
    dx: Number = 0.0
    dy: Number = 0.0


class Resize(Moving):
    do: Literal["resize"] = "resize"
    factor: Annotated[float, Field(ge=0.01, le=100)]


class Rotate(Moving):
    do: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(ge=-3600, le=3600)]


class Transform(Command):
    do: Literal["transform"] = "transform"
    layer: Id
    matrix: tuple[Number, Number, Number, Number, Number, Number]


class Duplicate(Command):
    do: Literal["duplicate"] = "duplicate"
    dx: Number = 20.0
    dy: Number = 20.0
    layer: Id | None = None


class ChangeLayer(Command):
    do: Literal["layer"] = "layer"
    layer: Id
    name: Name | None = None
    opacity: Annotated[float, Field(ge=0, le=1)] | None = None
    visible: bool | None = None
    position: Id | None = None


class Merge(Command):
    do: Literal["merge"] = "merge"
    layer: Id


class Made(Command):
    """What an engine makes: `count` results of the seeds from `seed` on."""

    prompt: Words = ""
    seed: Seed = 0
    count: Count = 1
    engine: Annotated[str, Field(max_length=200)] = ""


class Replace(Made):
    do: Literal["replace"] = "replace"


class Add(Made):
    do: Literal["add"] = "add"
    box: Rectangle


class EditByText(Made):
    do: Literal["edit"] = "edit"


class Generate(Command):
    do: Literal["generate"] = "generate"
    caption: Words
    boxes: Annotated[tuple[Rectangle, ...], Field(max_length=30)] = ()
    phrases: Annotated[tuple[Words, ...], Field(max_length=30)] = ()
    seed: Seed = 0
    count: Count = 1
    engine: Annotated[str, Field(max_length=200)] = ""


class Vary(Command):
    do: Literal["vary"] = "vary"
    variant: Id


class Undo(Command):
    do: Literal["undo"] = "undo"


class Redo(Command):
    do: Literal["redo"] = "redo"


class SaveVersion(Command):
    keeps = True
    do: Literal["save_version"] = "save_version"
    name: Name


class Restore(Command):
    do: Literal["restore"] = "restore"
    name: Name


class Say(Command):
    """A turn of the chat. `boxes`: where it points; `proposal`: commands that wait for a person's yes."""

    keeps = True
    do: Literal["say"] = "say"
    role: Literal["user", "assistant"]
    text: Annotated[str, Field(max_length=100_000)] = ""
    boxes: Annotated[tuple[Rectangle, ...], Field(max_length=100)] = ()
    proposal: Annotated[tuple[dict[str, Any], ...], Field(max_length=100)] = ()


AnyCommand = (
    Select | Choose | Paint | Grow | Feather | Invert | Deselect | Reselect | LoadMask
    | KeepObject | PickObject | DropObject | Remove | Refine | Lift | Move | Resize | Rotate | Transform
    | Duplicate | ChangeLayer | Merge | Replace | Add | EditByText | Generate | Vary
    | Undo | Redo | SaveVersion | Restore | Say
)  # fmt: skip
_ADAPTER: TypeAdapter[AnyCommand] = TypeAdapter(Annotated[AnyCommand, Field(discriminator="do")])


def read_command(row: dict[str, Any]) -> AnyCommand:
    """A command from what JSON says, or an EditError that names the first mistake."""
    try:
        return _ADAPTER.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "union_tag_invalid":
            raise EditError(f"unknown command {row['do']!r}{nearest(str(row['do']), KINDS)}") from None
        if first["type"] == "union_tag_not_found":
            raise EditError("a command says what to `do`") from None
        path = ".".join(str(step) for step in first["loc"][1:])
        raise EditError(f"{row['do']}: {path}: {first['msg'].lower()}") from None


def write_command(command: Command) -> dict[str, Any]:
    """What `read_command` reads: as JSON, without what was not said."""
    return {"do": command.model_dump()["do"], **command.model_dump(mode="json", exclude_defaults=True)}


def schemas() -> dict[str, Any]:
    """The JSON schema of every command by its name: what an agent's tool cards are made of."""
    return {kind: made.model_json_schema() for kind, made in KINDS.items()}


KINDS: dict[str, type[Command]] = {kind.model_fields["do"].default: kind for kind in AnyCommand.__args__}
