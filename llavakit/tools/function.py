"""A function as a tool: arguments checked and brought to pixels, the call made in a child, its answer told."""

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from llavakit.core.errors import DataError
from llavakit.text.calls import Card, Json, ToolError, Weights
from llavakit.tools.arguments import PICTURES, Answer, arguments_model, kinds_of, schema_of
from llavakit.tools.artifacts import Origin
from llavakit.tools.child import BOX, MASK, POINT
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made
from llavakit.tools.workers import Workers
from llavakit.vision.boxes import Box, Frame, Unit
from llavakit.vision.layout import Size

DIGITS: dict[Unit, int] = {"px": 0, "input": 1, "0-1": 3, "0-1000": 0}


class FunctionTool:
    """Runs `function` (of a module, by its name) in one of `workers`."""

    def __init__(
        self,
        function: Callable[..., Answer],
        workers: Workers,
        *,
        cost: Literal["light", "heavy"] = "light",
        seconds: float = 10.0,
        weights: Weights | None = None,
        opened_with: Mapping[str, str] | None = None,
    ) -> None:
        """`opened_with`: the function's parameters behind the star."""
        self._opened_with = {name: ("plain", value) for name, value in (opened_with or {}).items()}
        self._path = f"{function.__module__}:{function.__name__}"
        self._workers, self._kinds, self._model = workers, kinds_of(function), arguments_model(function)
        words = inspect.cleandoc(function.__doc__ or "")
        self.card = Card(
            function.__name__, words, schema_of(self._model), cost=cost, seconds=seconds, weights=weights
        )

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Call the function. ToolError for arguments that do not fit, for what it refuses, and for late answers."""
        try:
            checked = self._model.model_validate(arguments, strict=False).model_dump()
        except ValidationError as error:
            raise ToolError(_mistakes(error)) from None
        folder = Path(tempfile.mkdtemp(dir=desk.store.folder, prefix="."))
        try:
            call = _Call(self._kinds, checked, desk)
            question = {
                "function": self._path,
                "folder": str(folder),
                "arguments": call.arguments() | self._opened_with,
            }
            return call.made(self._workers.ask(question, seconds=seconds), self.card.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the processes."""
        self._workers.close()


class _Call:
    """One call: its pictures by name, its boxes in pixels, and the way back."""

    def __init__(self, kinds: dict[str, str], checked: Json, desk: Desk) -> None:
        self.kinds, self.checked, self.desk = kinds, checked, desk
        pictures = [name for name, kind in kinds.items() if kind in PICTURES]
        for name in pictures:
            checked[name] = checked[name] or _first_picture(desk)
        # Boxes, points and masks are of the first picture that the function takes.
        self.named = self.picture = checked[pictures[0]] if pictures else ""
        self.frame = desk.frame(self.named) if pictures else Frame((1, 1))
        self.to_original = Origin("", 0.0, 0.0, 1.0)
        if pictures and kinds[pictures[0]] == "original":
            self.picture, self.to_original = original_of(desk, self.named)

    def arguments(self) -> dict[str, tuple[str, Any]]:
        """For the child: every argument with its kind. What was left out is left out."""
        return {
            name: (kind, self._argument(kind, self.checked[name]))
            for name, kind in self.kinds.items()
            if kind == "plain" or self.checked[name] is not None
        }

    def _argument(self, kind: str, value: Any) -> Any:
        match kind:
            case "picture" | "original":
                name = self.picture if kind == "original" else value
                return {"name": name, "path": str(self.desk.find(name).path)}
            case "region":
                return self._region(value)
            case "regions":
                return [self._region(one) for one in value]
            case "point":
                return self._point(value)
            case "points":
                return [self._point(one) for one in value]
            case "mask":
                return str(self._mask(value))
        return value

    def _region(self, numbers: Sequence[float]) -> tuple[int, int, int, int]:
        said, cut = self.desk.box(self.named, numbers), self.to_original
        box, original = said.to("px", self.frame), Frame(self._size(self.picture))
        left, top = cut.left + box.left / cut.scale, cut.top + box.top / cut.scale
        right, bottom = cut.left + box.right / cut.scale, cut.top + box.bottom / cut.scale
        try:
            said.pixels(self.frame)  # of the picture that was named, not of what it was cut from
            return Box(self.picture, "px", left, top, right, bottom).pixels(original)
        except DataError as error:
            raise ToolError(str(error)) from None

    def _point(self, numbers: Sequence[float]) -> tuple[float, float]:
        x, y = numbers
        box = Box(self.named, self.desk.unit, x, y, x, y).to("px", self.frame)
        width, height = self._size(self.named)
        if not (0 <= box.left <= width and 0 <= box.top <= height):
            raise ToolError(f"the point {[x, y]} ({self.desk.unit}) is outside of {self.named}")
        return (
            self.to_original.left + box.left / self.to_original.scale,
            self.to_original.top + box.top / self.to_original.scale,
        )

    def _mask(self, name: str) -> Path:
        path = self.desk.find(name, "text").path
        try:
            said = json.loads(path.read_text("utf-8"))
            height, width = said["size"]
        except (ValueError, KeyError, TypeError):
            raise ToolError(f"{name} is a text, not a mask") from None
        if (width, height) != self._size(self.picture):
            raise ToolError(f"the mask {name} is {width} x {height}, not as large as {self.picture}")
        return path

    def _size(self, name: str) -> Size:
        size = self.desk.find(name).size
        assert size is not None
        return size

    def made(self, answer: Json, tool: str) -> Made:
        """The child's answer with its pictures and masks on the desk, its boxes in the conversation's unit."""
        pictures = []
        for drawn in answer["pictures"]:
            origin = None
            if drawn["corner"] is not None:
                left, top = drawn["corner"]
                origin = Origin(self.desk.find(self.picture).id, left, top, drawn["scale"])
            pictures.append(self.desk.add_image(Path(drawn["path"]), made_by=tool, origin=origin))
        told: set[str] = set()
        value = self._tell(answer["value"], told, tool)
        if told:
            value = {"picture": self.picture, "unit": self.desk.unit} | value
        return Made(value, tuple(pictures))

    def _tell(self, node: Any, told: set[str], tool: str) -> Any:
        if isinstance(node, list):
            return [self._tell(item, told, tool) for item in node]
        if not isinstance(node, dict):
            return node
        digits = DIGITS[self.desk.unit]
        if BOX in node or POINT in node:
            told.add(self.desk.unit)
            numbers = node[BOX] if BOX in node else [*node[POINT], *node[POINT]]
            frame = self.desk.frame(self.picture)
            corners = Box(self.picture, "px", *numbers).to(self.desk.unit, frame).corners
            rounded = [round(number, digits) if digits else round(number) for number in corners]
            return rounded if BOX in node else rounded[:2]
        if MASK in node:
            return self.desk.add_text(json.dumps(node[MASK]), made_by=tool)
        return {name: self._tell(value, told, tool) for name, value in node.items()}


def _first_picture(desk: Desk) -> str:
    names = desk.pictures()
    if not names:
        raise ToolError("there is no picture here; a call must name one")
    return names[0]


def original_of(desk: Desk, name: str) -> tuple[str, Origin]:
    """What a picture was cut from in the end, and how: for a picture that was not cut, itself."""
    artifact, left, top, scale = desk.find(name), 0.0, 0.0, 1.0
    while artifact.origin is not None:
        cut = artifact.origin
        left, top, scale = cut.left + left / cut.scale, cut.top + top / cut.scale, scale * cut.scale
        artifact = desk.store.find(cut.picture)
    known = next((short for short, known in desk.names.items() if known == artifact.id), artifact.id)
    return known, Origin(artifact.id, left, top, scale)


def _mistakes(error: ValidationError) -> str:
    said = []
    for one in error.errors(include_url=False, include_context=False)[:3]:
        place = ".".join(str(step) for step in one["loc"]) or "arguments"
        said.append(f"{place}: {one['msg'][0].lower()}{one['msg'][1:]}")
    return "; ".join(said)
