"""Is the editor's chat about what is on the canvas? Shapes are taken away and added, and the model is asked.

Two shapes of easy-VQA's test pictures are put on one picture, and then it is edited as on the page.

Taken away: one is removed, and the model is asked for shape and colour of the one that is left; undo; the other is
removed, and it is asked again. The control is what it said of the picture that still had both.

Added: one was cut out to a layer that is hidden, and the model was asked about the other. It is shown, the other is
removed, and shape and colour of the added one are asked for. The control is what it said before.

    python -m benchmarks.studio_chat --model runs/demo [--pictures 40]
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import easy_vqa
import numpy as np
import PIL.Image

from benchmarks.machine import facts
from llavakit.chat import load
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.studio.conversing import conversation_about
from llavakit.studio.defaults import default_bench
from llavakit.studio.session import Session

QUESTIONS = ("what shape is in the image?", "what color is the shape?")
ROOT = Path(easy_vqa.__file__).parent / "data" / "test"
FAR = 24  # a pixel of a shape differs by more from the background
GAP = 3  # pixels between two shapes

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pair:
    """A picture file with two shapes: where each is, and its (shape, colour)."""

    file: bytes
    boxes: tuple[Box, Box]
    truth: tuple[tuple[str, str], tuple[str, str]]


def truths() -> dict[int, tuple[str, str]]:
    """(shape, colour) of every test picture of which both are asked for."""
    known: dict[int, dict[str, str]] = {}
    for question, answer, number in json.loads((ROOT / "questions.json").read_text()):
        if question.startswith("what"):
            kind = "color" if "color" in question else "shape"
            known.setdefault(number, {})[kind] = answer
    return {number: (each["shape"], each["color"]) for number, each in known.items() if len(each) == 2}


def shape_of(pixels: np.ndarray) -> tuple[np.ndarray, Box]:
    """bool[h, w]: where the shape is, and its box."""
    border = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    mask = np.abs(pixels.astype(int) - np.median(border, 0)).max(2) > FAR
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return mask, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def apart(one: Box, other: Box) -> bool:
    """Whether two boxes leave a gap between them."""
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    return max(across, down) >= GAP


def pairs(count: int) -> list[Pair]:
    """Pictures with two shapes that differ."""
    found: list[Pair] = []
    waiting = None
    for number, truth in sorted(truths().items()):
        pixels = np.asarray(PIL.Image.open(ROOT / "images" / f"{number}.png").convert("RGB"))
        mask, box = shape_of(pixels)
        if waiting is None or not apart(waiting[1], box) or waiting[2] == truth:
            waiting = waiting or (pixels, box, truth)
            continue
        both = waiting[0].copy()
        both[mask] = pixels[mask]
        file = io.BytesIO()
        PIL.Image.fromarray(both).save(file, "PNG")
        found.append(Pair(file.getvalue(), (waiting[1], box), (waiting[2], truth)))
        waiting = None
        if len(found) == count:
            break
    return found


class Score:
    """How often answers were right, by what was asked when: counts in order of the questions."""

    def __init__(self) -> None:
        self.right: dict[str, list[list[bool]]] = {}

    def add(self, name: str, said: Sequence[str], truth: Sequence[str]) -> None:
        self.right.setdefault(name, []).append([one == other for one, other in zip(said, truth, strict=True)])

    def figures(self) -> dict[str, list[float]]:
        """The share of right answers to each question."""
        return {name: np.mean(rows, axis=0).tolist() for name, rows in self.right.items()}


def asked(chat: Responder, session: Session) -> list[str]:
    """What the model says of the picture as it is."""
    said = []
    for question in QUESTIONS:
        session.apply({"do": "say", "role": "user", "text": question})
        [answer] = chat.answers([conversation_about(session)], sampling=Sampling(max_tokens=8))
        session.apply({"do": "say", "role": "assistant", "text": answer.text})
        said.append(answer.text)
    return said


def mark(session: Session, box: Box, gesture: str) -> None:
    """Paint over a shape."""
    x0, y0, x1, y1 = box
    line = [[x0, (y0 + y1) / 2], [x1, (y0 + y1) / 2]]
    session.apply({"do": "paint", "path": line, "width": y1 - y0 + 2}, gesture=gesture)


def remove(session: Session, box: Box) -> None:
    """Paint over a shape and take it away, one step of undo."""
    mark(session, box, "remove")
    session.apply({"do": "remove"}, gesture="remove")


def take_away(chat: Responder, session: Session, pair: Pair, score: Score) -> None:
    """Each of two shapes once."""
    before = asked(chat, session)
    for gone, left in ((0, 1), (1, 0)):
        remove(session, pair.boxes[gone])
        score.add("taken away", asked(chat, session), pair.truth[left])
        score.add("taken away, shown before", before, pair.truth[left])
        session.apply({"do": "undo"})


def add(chat: Responder, session: Session, pair: Pair, new: int, score: Score) -> None:
    """One of two shapes, to the picture of the other alone; then the other goes."""
    mark(session, pair.boxes[new], "cut")
    session.apply({"do": "lift"}, gesture="cut")
    layer = session.describe()["layers"][-1]["id"]
    session.apply({"do": "layer", "layer": layer, "visible": False}, gesture="cut")
    before = asked(chat, session)
    session.apply({"do": "layer", "layer": layer, "visible": True})
    remove(session, pair.boxes[1 - new])
    score.add("added", asked(chat, session), pair.truth[new])
    score.add("added, shown before", before, pair.truth[new])


def measure(chat: Responder, found: Sequence[Pair]) -> Score:
    """All pictures."""
    bench, score = default_bench(), Score()
    for pair in found:
        take_away(chat, Session.create(None, pair.file, bench), pair, score)
        for new in (0, 1):
            add(chat, Session.create(None, pair.file, bench), pair, new, score)
    return score


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    score = measure(load(options.model), pairs(options.pictures))
    for name, shares in score.figures().items():
        shape, colour = shares
        print(f"{name}: shape {shape:.1%}, colour {colour:.1%} of {len(score.right[name])}")
    print(json.dumps({"benchmark": "studio_chat", "figures": score.figures(), **facts()}))


if __name__ == "__main__":
    main()
