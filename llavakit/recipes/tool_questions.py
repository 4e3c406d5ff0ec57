"""Questions that need a tool, as records to learn from by trying: the picture, the question, and what is right.

They are those of the lessons (tool_pictures.py), without the call: whoever learns from them is only told whether
the answer was right.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from llavakit.agent.run import begin
from llavakit.core.files import write_text
from llavakit.core.progress import bar
from llavakit.eval.easy_vqa import EasyVqa
from llavakit.recipes.tool_pictures import Kind, Shapes, make_lesson


def write_tool_questions(path: Path, count: int, kinds: Sequence[Kind], *, seed: int) -> None:
    """`count` records on pictures of the training split beside `path`; kinds take turns.

    `needs_tool` says whether one helps; places are told in the words of the loop.
    """
    dice, shapes = Random(seed), Shapes(EasyVqa("train"))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with bar("questions", count) as progress, TemporaryDirectory() as folder:
        for number in range(count):
            kind = kinds[number % len(kinds)]
            lesson = make_lesson(kind, shapes, dice, path.parent / f"{number}.png", str(number))
            where = Path(folder) / str(number)
            with begin(where, lesson.question, pictures=lesson.pictures, boxes=lesson.boxes) as run:
                asked = run.state.begun.question.strip()
            talk = [
                {"from": "human", "value": f"<image>\n{asked}"},
                {"from": "gpt", "value": lesson.answer},
            ]
            rows.append(
                {
                    "id": lesson.id,
                    "image": str(lesson.pictures[0].absolute()),
                    "conversations": talk,
                    "kind": kind,
                    "needs_tool": lesson.call is not None,
                }
            )
            progress.advance()
    write_text(path, json.dumps(rows, indent=1) + "\n")
