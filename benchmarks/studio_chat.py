"""Is the editor's chat about what is on the canvas? Shapes are taken away and brought back, and the model is asked.

Two shapes of easy-VQA's test pictures are put on one picture. Then, as on the page: one is removed, and the model
is asked for shape and colour of the one that is left; undo; the other is removed, and it is asked again. `shown
before the edit` is the control: the same questions about the picture that still has both.

    python -m benchmarks.studio_chat --model runs/demo [--pictures 40]
"""

import argparse
import io
import json
from pathlib import Path

import easy_vqa
import numpy as np
import PIL.Image

from benchmarks.machine import facts
from llavakit.chat import Chat, load
from llavakit.engine.sampler import Sampling
from llavakit.studio.conversing import conversation_about
from llavakit.studio.defaults import default_bench
from llavakit.studio.session import Session

QUESTIONS = ("what shape is in the image?", "what color is the shape?")
ROOT = Path(easy_vqa.__file__).parent / "data" / "test"
FAR = 24  # a pixel of a shape differs by more from the background
GAP = 3  # pixels between two shapes

Box = tuple[int, int, int, int]


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


def pairs(count: int) -> list[tuple[bytes, list[Box], list[tuple[str, str]]]]:
    """Pictures with two shapes: the file, their boxes, what they are."""
    found: list[tuple[bytes, list[Box], list[tuple[str, str]]]] = []
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
        found.append((file.getvalue(), [waiting[1], box], [waiting[2], truth]))
        waiting = None
        if len(found) == count:
            break
    return found


def asked(chat: Chat, session: Session) -> tuple[str, ...]:
    """What the model says of the picture as it is."""
    said = []
    for question in QUESTIONS:
        session.apply({"do": "say", "role": "user", "text": question})
        [answer] = chat.answers([conversation_about(session)], sampling=Sampling(max_tokens=8))
        session.apply({"do": "say", "role": "assistant", "text": answer.text})
        said.append(answer.text)
    return tuple(said)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    chat, bench = load(options.model), default_bench()
    right = {"shown after the edit": np.zeros(2), "shown before the edit": np.zeros(2)}
    rounds = 0
    for file, boxes, truth in pairs(options.pictures):
        session = Session.create(None, file, bench)
        before = asked(chat, session)
        for gone, left in ((0, 1), (1, 0)):
            x0, y0, x1, y1 = boxes[gone]
            line = [[x0, (y0 + y1) / 2], [x1, (y0 + y1) / 2]]
            session.apply({"do": "paint", "path": line, "width": y1 - y0 + 2}, gesture="remove")
            session.apply({"do": "remove"}, gesture="remove")
            after = asked(chat, session)
            session.apply({"do": "undo"})
            for name, said in (("shown after the edit", after), ("shown before the edit", before)):
                right[name] += [one == other for one, other in zip(said, truth[left], strict=True)]
            rounds += 1
    for name, counts in right.items():
        print(f"{name}: shape {counts[0] / rounds:.1%}, colour {counts[1] / rounds:.1%} of {rounds}")
    figures = {name: (counts / rounds).tolist() for name, counts in right.items()}
    print(json.dumps({"benchmark": "studio_chat", "figures": figures, "rounds": rounds, **facts()}))


if __name__ == "__main__":
    main()
