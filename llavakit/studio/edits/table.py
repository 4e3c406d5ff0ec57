"""Which function does which command."""

from collections.abc import Callable
from typing import Any

from llavakit.studio import commands as asked
from llavakit.studio.edits import filling, making, moving, selecting
from llavakit.studio.engines import Bench
from llavakit.studio.scene import Scene

Edit = Callable[[Scene, Any, Bench], Scene]


def _plain(edit: Callable[[Scene, Any], Scene]) -> Edit:
    return lambda scene, command, bench: edit(scene, command)


def _bare(edit: Callable[[Scene], Scene]) -> Edit:
    return lambda scene, command, bench: edit(scene)


EDITS: dict[type[asked.Command], Edit] = {
    asked.Select: selecting.select,
    asked.Choose: _plain(selecting.choose),
    asked.Paint: _plain(selecting.paint),
    asked.Grow: _plain(selecting.grow),
    asked.Feather: _plain(selecting.feather),
    asked.Invert: _bare(selecting.invert),
    asked.Deselect: _bare(selecting.deselect),
    asked.Reselect: _bare(selecting.reselect),
    asked.LoadMask: _plain(selecting.load_mask),
    asked.KeepObject: _plain(selecting.keep_object),
    asked.PickObject: _plain(selecting.pick_object),
    asked.DropObject: _plain(selecting.drop_object),
    asked.Remove: filling.remove,
    asked.Refine: filling.refine,
    asked.Lift: lambda scene, command, bench: filling.lift(scene, command, bench)[0],
    asked.Move: moving.move,
    asked.Resize: moving.resize,
    asked.Rotate: moving.rotate,
    asked.Transform: _plain(moving.transform),
    asked.Duplicate: _plain(moving.duplicate),
    asked.ChangeLayer: _plain(moving.change_layer),
    asked.Merge: _plain(moving.merge),
    asked.Vary: _plain(making.vary),
}

MAKES: dict[type[asked.Command], Callable[[Scene, Any, Bench], making.Making]] = {
    asked.Replace: making.make_replacement,
    asked.Add: making.add,
    asked.EditByText: making.edit_by_text,
    asked.Generate: making.generate,
}


def make(scene: Scene, command: asked.Command, bench: Bench) -> making.Making | None:
    """What a generative engine makes for a command, which may take minutes; None for any other command."""
    return MAKES[type(command)](scene, command, bench) if type(command) in MAKES else None


def perform(scene: Scene, command: asked.Command, bench: Bench) -> Scene:
    """The scene after a command; a pure function but for what engines are made of."""
    return EDITS[type(command)](scene, command, bench)


def warnings(scene: Scene, command: asked.Command) -> list[str]:
    """What a person should know of a command that was done, one line each."""
    whole = isinstance(command, asked.Remove | asked.Moving) and command.layer is not None
    if isinstance(command, asked.Remove | asked.Lift | asked.Moving) and not whole:
        share = filling.hole_share(scene.selected().mask)
        if share > filling.LARGE_HOLE:
            return [
                f"{share:.0%} of the picture is filled from what is around it; that much is guessed badly: "
                "a smaller selection, or a generative engine, does better"
            ]
    return []
