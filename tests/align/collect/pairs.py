"""Small collections for tests: pairs with a picture, gold items, rollouts, and a session over them."""

import json
from contextlib import contextmanager
from pathlib import Path

from llavakit.align.collect.run import open_session
from llavakit.align.collect.session import Rules
from tests import tiny


def write_pairs(folder: Path, count: int, name: str = "pairs.jsonl", what: str = "shape") -> Path:
    tiny.picture(folder / "x.png")
    rows = [
        {
            "id": number, "image": "x.png", "prompt": f"<image>\nWhich {what} is number {number}?",
            "chosen": f"Good {number}.", "rejected": f"Bad {number}.",
        }
        for number in range(count)
    ]  # fmt: skip
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@contextmanager
def session_of(folder: Path, count: int = 6, gold: int = 0, **rules):
    files = [write_pairs(folder, count)]
    tests = [write_pairs(folder, gold, "gold.jsonl", "colour")] if gold else []
    with open_session(files, folder / "out.votes", tests, Rules(**rules)) as session:
        yield session


def side_of(task, good: bool = True) -> str:
    """Where the better answer stands."""
    return "left" if task.answers[0].startswith("Good") is good else "right"


def vote_all(session, annotator: str, *, good=lambda number: True, seconds: float = 5.0) -> list:
    """Judge everything that is left, rightly where `good` says so; returns the tasks."""
    tasks = []
    while (task := session.task(annotator)) is not None:
        session.vote(annotator, task.item.name, side_of(task, good(len(tasks))), None, seconds)
        tasks.append(task)
    return tasks
