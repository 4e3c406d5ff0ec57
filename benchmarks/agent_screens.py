"""The terminal pictures of docs/agent.md: real runs of the loop with the real tools, on pictures of scikit-image.

    python -m benchmarks.agent_screens docs/img

No model that is made here can plan such calls, so a script stands in its place: it says which tool, and takes the
boxes out of what the tools gave.
"""

import argparse
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from skimage import data

from benchmarks.street import street
from llavakit.agent import screen
from llavakit.agent.budget import Budget
from llavakit.agent.forms import FORMS
from llavakit.agent.loop import Agent
from llavakit.agent.run import begin
from llavakit.core import progress
from llavakit.core.files import write_text
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Video
from llavakit.tools.registry import Registry
from llavakit.tools.skills import open_tools

Line = Callable[[list[dict[str, Any]]], str]  # what is said next, given the results so far
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from afar; the reader's own monospace will do
RESULT = re.compile(r"^\S+ \(\w+\): (\{.*\})$", re.MULTILINE)
COLUMNS, SIDE = 110, 1000


def call(name: str, **arguments: object) -> str:
    """A call as Hermes writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def blur_faces(found: list[dict[str, Any]]) -> str:
    """Find people and faces at once; hide the faces; tell both."""
    if not found:
        return "I look for people and for faces.\n" + call("detect", labels=["person"]) + call("faces")
    people = next(one["counts"] for one in found if "counts" in one)
    faces = next(one["faces"] for one in found if "faces" in one)
    if not any("hidden" in one for one in found):
        return "I hide every face.\n" + call("blur", boxes=[face["box"] for face in faces])
    count, hidden = people.get("person", 0), len(faces)
    there = f"There is {count} person." if count == 1 else f"There are {count} people."
    return f"{there} [call_1] I have blurred {hidden} face{'s' * (hidden != 1)}. [call_2] [call_3]"


def read_page(found: list[dict[str, Any]]) -> str:
    """Read a page, and say how it begins."""
    if not found:
        return "I read it.\n" + call("ocr")
    lines = [line["text"] for line in found[0]["lines"]]
    return f"It has {len(lines)} lines and begins with: {lines[0]} [call_1]"


def count_cups(found: list[dict[str, Any]]) -> str:
    """Count one kind of thing on a photo."""
    if not found:
        return "I count them.\n" + call("detect", labels=["cup"])
    return f"I count {found[0]['counts'].get('cup', 0)} cup. [call_1]"


@dataclass(frozen=True)
class Scene:
    """One picture of docs/agent.md: a photo, what is asked, what is said, and the tools that are there."""

    photo: Callable[[], Any]
    question: str
    line: Line
    tools: tuple[str, ...]


SCENES = {
    "agent-street": Scene(
        street,
        "How many people are there? Blur their faces.",
        blur_faces,
        ("detect", "faces", "blur"),
    ),
    "agent-blur": Scene(
        data.astronaut,
        "How many people are there? Blur their faces.",
        blur_faces,
        ("detect", "faces", "blur"),
    ),
    "agent-ocr": Scene(data.page, "What does this page say?", read_page, ("ocr",)),
    "agent-count": Scene(data.coffee, "How many cups are on the photo?", count_cups, ("detect",)),
}


class Script(Responder):
    """Says the scene's lines."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        text = "".join(message.text for message in conversation.messages)
        yield self._line([json.loads(found) for found in RESULT.findall(text)])

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        return [Answer("".join(self.stream(talk)), "stop") for talk in conversations]

    def num_tokens(self, answer: str) -> int | None:
        return None

    def describe(self, video: Video) -> str:
        return ""


def open_all() -> Registry:
    """The tools of all scenes. To be closed."""
    return open_tools(sorted({name for scene in SCENES.values() for name in scene.tools}))


def draw(name: str, out: Path, folder: Path, tools: Registry) -> str:
    """Run a scene in `folder`; its answer. Its terminal is NAME.svg, the newest picture of a tool NAME.jpg."""
    scene = SCENES[name]
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=False, color_system="truecolor"
    )
    registry = Registry(tools.tools[each] for each in scene.tools)
    budget = Budget(result_tokens=2000)
    photo = folder / "photo.png"
    PIL.Image.fromarray(np.asarray(scene.photo())).convert("RGB").save(photo)
    with (
        swapped(console),
        begin(folder / "run", scene.question, pictures=[photo], cards=registry.cards, budget=budget) as run,
    ):
        console.print(
            f'$ llavakit agent --image {name}.png "{scene.question}"', markup=False, highlight=False
        )
        shown = screen.Screen()
        shown.show(Agent(Script(scene.line), registry, FORMS["hermes"]).go(run))
        assert run.state.answered is not None
        console.print(run.state.answered.text, markup=False, highlight=False)
        console.print()  # the picture's edge cuts the last line
        made = list(run.export().values())
        if made:
            shown_picture = PIL.Image.open(made[-1]).convert("RGB")
            shown_picture.thumbnail((SIDE, SIDE))
            shown_picture.save(out / f"{name}.jpg", quality=88)
        answer = run.state.answered.text
    drawn = console.export_svg(title="llavakit agent", theme=SVG_EXPORT_THEME)
    write_text(out / f"{name}.svg", FONT.sub("", drawn))
    return answer


@contextmanager
def swapped(console: Console) -> Iterator[None]:
    """What the program prints goes to this console."""
    before = screen.console, progress.console
    screen.console = progress.console = console
    try:
        yield
    finally:
        screen.console, progress.console = before


def main() -> None:
    """All pictures, or those that are named."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path)
    asked.add_argument("names", nargs="*", default=list(SCENES))
    given = asked.parse_args()
    tools = open_all()
    for name in given.names:
        with TemporaryDirectory() as folder:
            print(f"{name}: {draw(name, given.out, Path(folder), tools)}")
    tools.close()


if __name__ == "__main__":
    main()
