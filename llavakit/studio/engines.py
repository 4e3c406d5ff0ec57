"""What the editor asks of engines, and which there are: a table of names, each with what it lacks here.

An engine sees pixels and says pixels; it knows no document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from llavakit.core.errors import ConfigError, nearest
from llavakit.studio.scene import EditError
from llavakit.studio.tiles import Box, Pixels

E = TypeVar("E")
# `inpaint` fills a hole from around it, `preview` does so at once, `invent` shows in it what a prompt says.
Role = Literal["segment", "inpaint", "preview", "invent", "generate", "edit"]
# Told how much is done, 0 to 1. What it raises ends the work.
Watch = Callable[[float], None]


def unwatched(done: float) -> None:
    """Nobody waits for how much is done."""


@dataclass(frozen=True)
class Mark:
    """A brush stroke or a click (a path of one point) over what is meant (`inside`) or over what is not."""

    path: Sequence[tuple[float, float]]
    width: float
    inside: bool


@dataclass(frozen=True)
class Prompts:
    """All that was said about one object so far, in pixels of the canvas."""

    marks: tuple[Mark, ...] = ()
    box: Box | None = None
    text: str = ""
    before: Pixels | None = None  # uint8[H, W]: the mask that the last mark corrects


class View(Protocol):
    """The picture as it is seen, at any size. Equal keys: equal pixels, so work on it can be kept."""

    key: object
    size: tuple[int, int]

    def rgb(self, z: int = 0, box: Box | None = None) -> Pixels:
        """uint8[h, w, 3]: a box of the picture halved `z` times."""
        ...


@dataclass(frozen=True)
class Found:
    """A mask: uint8[h, w] whose corner lies at `at`; zero elsewhere."""

    name: str
    at: tuple[int, int]
    mask: Pixels
    score: float = 1.0


@dataclass(frozen=True)
class Step:
    """A part of what is found out about a picture before anybody asks; `title` is for people."""

    title: str
    run: Callable[[], object]


class PromptSegmenter(Protocol):
    """Prompts to masks, the likeliest first."""

    def steps(self, view: View) -> Sequence[Step]:
        """What can be found out about a picture before the first prompt, in the order in which it is of use.

        A prompt that comes earlier waits for no more of it than it needs.
        """
        ...

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """EditError for prompts that it does not understand."""
        ...


class Inpainter(Protocol):
    """Fills a hole so that it fits to what is around it."""

    def fill(self, rgb: Pixels, hole: Pixels, prompt: str = "", seed: int = 0) -> Pixels:
        """uint8[h, w, 3] from uint8[h, w, 3] and bool[h, w]."""
        ...


class Inventor(Protocol):
    """Shows in a hole what a prompt says."""

    def invent(self, rgb: Pixels, hole: Pixels, prompt: str, seed: int, watch: Watch = unwatched) -> Pixels:
        """uint8[h, w, 3] from uint8[h, w, 3] and bool[h, w]."""
        ...


class LayoutGenerator(Protocol):
    """A picture from a caption, with phrases where boxes say."""

    def generate(
        self, size: tuple[int, int], caption: str, boxes: Sequence[Box], phrases: Sequence[str], seed: int,
        watch: Watch = unwatched,
    ) -> Pixels:  # fmt: skip
        """uint8[h, w, 3]."""
        ...


class Editor(Protocol):
    """A picture changed as an instruction says."""

    def edit(self, rgb: Pixels, prompt: str, seed: int, watch: Watch = unwatched) -> Pixels:
        """uint8[h, w, 3], as large as what it was given."""
        ...


@dataclass(frozen=True)
class Engine:
    """A row of the table: how an engine is made, and what it needs that may not be here."""

    role: Role
    title: str
    make: Callable[[], Any]
    lacks: Callable[[], str | None] = lambda: None  # the line that installs what is missing
    quality: Literal["classical", "learned"] = "learned"
    takes: tuple[Literal["marks", "words"], ...] = ("marks", "words")  # which prompts a segmenter understands


@dataclass
class Bench:
    """The engines of one process, each made when it is first asked for. `chosen`: a name for each role."""

    table: dict[str, Engine]
    chosen: dict[Role, str]
    watch: Watch = unwatched  # of what takes long
    _made: dict[str, Any] = field(default_factory=dict)

    def segmenter(self, name: str = "") -> PromptSegmenter:
        return self._get("segment", name)

    def inpainter(self, name: str = "") -> Inpainter:
        return self._get("inpaint", name)

    def inventor(self, name: str = "") -> Inventor:
        return self._get("invent", name)

    def previewer(self) -> Inpainter:
        return self._get("preview", "")

    def generator(self, name: str = "") -> LayoutGenerator:
        return self._get("generate", name)

    def editor(self, name: str = "") -> Editor:
        return self._get("edit", name)

    def cards(self) -> list[dict[str, Any]]:
        """Every engine for a page: name, role, title, quality, whether it is the chosen one, and what it lacks."""
        return [
            {
                "name": name,
                "role": row.role,
                "title": row.title,
                "quality": row.quality,
                "takes": list(row.takes) if row.role == "segment" else [],
                "chosen": self.chosen.get(row.role) == name,
                "lacks": row.lacks(),
            }
            for name, row in self.table.items()
        ]

    def _get(self, role: Role, name: str) -> Any:
        names = [each for each, row in self.table.items() if row.role == role]
        name = name or self.chosen.get(role, "")
        if not name:
            ways = "; ".join(f"{each}: {self.table[each].lacks()}" for each in names)
            raise EditError(f"no engine to {role} is chosen{f'; {ways}' if ways else ''}")
        if name not in names:
            raise ConfigError(f"unknown engine to {role}: {name!r}{nearest(name, names)}")
        if name not in self._made:
            lack = self.table[name].lacks()
            if lack is not None:
                raise EditError(f"{name} is not here: {lack}")
            self._made[name] = self.table[name].make()
        return self._made[name]
